//! The host about itself: HostJoined at each start, HostLeft once it has been emptied. Both go through the outbox.

use omnirun_events::host::{HostJoined, HostLeft, HostTemplate};
use omnirun_events::id::CommitId;
use omnirun_events::keys::Digest;
use omnirun_events::subject::SubjectKind;

use crate::context::Context;
use crate::outbox::OutboxError;

/// Says what this host offers, under which address and with which certificate. Each start says it anew, since the certificate is new.
pub async fn join(context: &Context, address: String, certificate: Digest) -> Result<(), OutboxError> {
    let config = &context.config;
    let templates = context.templates.values();
    let joined = HostJoined {
        address,
        certificate,
        sandboxes_max: config.sandboxes_max,
        vcpus_max: config.vcpus_max,
        memory_max: config.memory_max,
        monitor: config.monitor_name.clone(),
        templates: templates.map(|t| HostTemplate { name: t.name.clone(), root: t.root }).collect(),
    };
    // The certificate is random, so this is another commit than every earlier start's.
    let commit = CommitId::derive(&certificate.0, "worker/joined");
    context.outbox.put(vec![context.draft(SubjectKind::Host(context.host), commit, joined)]).await
}

/// Says that this host takes no more requests and runs nothing.
pub async fn leave(context: &Context, certificate: Digest) -> Result<(), OutboxError> {
    let commit = CommitId::derive(&certificate.0, "worker/left");
    context.outbox.put(vec![context.draft(SubjectKind::Host(context.host), commit, HostLeft {})]).await
}
