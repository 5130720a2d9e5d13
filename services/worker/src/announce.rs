//! The host about itself: HostJoined at each start and when it is back from where nobody heard it, HostLeft once it has been emptied. Both go
//! through the outbox.

use std::time::Duration;

use omnirun_events::host::{HostJoined, HostLeft, HostTemplate};
use omnirun_events::id::CommitId;
use omnirun_events::keys::Digest;
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;
use omnirun_projections::hosts::LostBy;

use crate::context::Context;
use crate::outbox::OutboxError;

/// Time before a wait that was in vain begins again.
const WAIT: Duration = Duration::from_secs(3600);

/// Time before something is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a host says when it joins.
#[derive(Clone)]
pub struct Announcement {
    /// Where gateways connect.
    pub address: String,
    /// The data path's certificate. It is random and made anew at each start.
    pub certificate: Digest,
}

impl Announcement {
    /// Says what this host offers, under which address and with which certificate.
    pub async fn join(&self, context: &Context) -> Result<(), OutboxError> {
        // Another commit than every earlier start's, by the certificate.
        self.say(context, CommitId::derive(&self.certificate.0, "worker/joined")).await
    }

    /// Waits until the log has it.
    pub async fn joined(&self, context: &Context) {
        let (host, certificate) = (context.host, self.certificate);
        until(context, |directory| {
            (directory.hosts.get(host)?.offer.certificate == certificate).then_some(())
        })
        .await;
    }

    /// Joins again, for ever, whenever the log says that this host's lease was over: it hears that, so it is back. What an operator has given
    /// up stays so until the next start.
    pub async fn stay(self, context: Context) {
        let host = context.host;
        self.joined(&context).await;
        loop {
            let joined_at = until(&context, |directory| {
                let is_over = directory.hosts.lost(host) == Some(LostBy::Lease);
                directory.hosts.get(host).filter(|_| is_over).map(|known| known.joined_at)
            })
            .await;
            tracing::warn!("this host was silent for so long that it was given up; it joins again");
            let seed = [self.certificate.0.as_slice(), &joined_at.0.to_be_bytes()].concat();
            match self.say(&context, CommitId::derive(&seed, "worker/joined-again")).await {
                Ok(()) => {
                    until(&context, |directory| directory.hosts.lost(host).is_none().then_some(())).await
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the host could not join again"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn say(&self, context: &Context, commit: CommitId) -> Result<(), OutboxError> {
        let config = &context.config;
        let templates = context.templates.values();
        let joined = HostJoined {
            address: self.address.clone(),
            certificate: self.certificate,
            sandboxes_max: config.sandboxes_max,
            vcpus_max: config.vcpus_max,
            memory_max: config.memory_max,
            monitor: config.monitor_name.clone(),
            templates: templates.map(|t| HostTemplate { name: t.name.clone(), root: t.root }).collect(),
        };
        context.outbox.put(vec![context.draft(SubjectKind::Host(context.host), commit, joined)]).await
    }
}

/// Waits for something in the directory, however long it takes.
async fn until<T>(context: &Context, find: impl Fn(&Directory) -> Option<T>) -> T {
    loop {
        match context.directory.until(WAIT, &find).await {
            Ok(found) => return found,
            // In vain, or the directory has stopped.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Says that this host takes no more requests and runs nothing.
pub async fn leave(context: &Context, certificate: Digest) -> Result<(), OutboxError> {
    let commit = CommitId::derive(&certificate.0, "worker/left");
    context.outbox.put(vec![context.draft(SubjectKind::Host(context.host), commit, HostLeft {})]).await
}
