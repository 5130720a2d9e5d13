//! The read models of a process, from whichever log there is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use omnirun_billing::Billing;
use omnirun_events::keys::Digest;
use omnirun_events::log::Read;
use omnirun_events::signing::Signer;
use omnirun_events::subject::Log;
use omnirun_projections::{Directory, Usage};
use omnirun_runner::{Checkpoints, Follower, Live, Source, follow};

use super::state::views_of;

/// How long a start may take until the directory has read the log.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(600);

/// Follows who there is and what runs; checkpoints go below `state`.
pub async fn directory(reader: Arc<dyn Read>, root: Digest, state: &Path) -> Result<Follower<Directory>> {
    let checkpoints = Checkpoints::in_directory(views_of(state));
    follow(reader, root, Source::Events, Some(checkpoints)).await.context("cannot follow the event log")
}

/// Follows what was used; checkpoints go below `state`.
pub async fn usage(reader: Arc<dyn Read>, root: Digest, state: &Path) -> Result<Follower<Usage>> {
    let checkpoints = Checkpoints::in_directory(views_of(state));
    let follower = follow(reader, root, Source::EventsAndUsage, Some(checkpoints)).await;
    follower.context("cannot follow the usage logs")
}

/// Follows what accounts are billed by; checkpoints go below `state`.
pub async fn billing(reader: Arc<dyn Read>, root: Digest, state: &Path) -> Result<Follower<Billing>> {
    let checkpoints = Checkpoints::in_directory(views_of(state));
    let follower = follow(reader, root, Source::EventsAndUsage, Some(checkpoints)).await;
    follower.context("cannot follow the usage logs")
}

/// Waits until the directory has read the log and refuses a key that nobody would believe.
pub async fn require_enrolled(reader: &dyn Read, directory: &Live<Directory>, signer: &Signer) -> Result<()> {
    let head = reader.head(Log::Events).await?;
    directory.reached(head, CATCH_UP_WITHIN).await.context("cannot follow the event log")?;
    let key = signer.id();
    let is_believed = directory
        .view(|_, verifier| verifier.ring().get(key).is_some_and(|entry| entry.retired_at.is_none()));
    if !is_believed {
        bail!(
            "this role's key {key} is not enrolled on the log; run omnirun ops init with the root key and --nats"
        );
    }
    Ok(())
}
