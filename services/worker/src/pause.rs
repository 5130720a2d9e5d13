//! Saying that a sandbox is paused, with what it has used by then.

use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::SandboxPaused;
use omnirun_projections::sandboxes::State;

use crate::context::Context;
use crate::meter;
use crate::outbox::{OutboxError, commits};
use crate::owner::OwnerError;

/// A pause that could not be said yet; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The guest's meter cannot be read.
    #[error("cannot read the meter of a paused guest")]
    Meter(#[source] OwnerError),
    /// The outbox did not take it.
    #[error("cannot note the pause of a sandbox")]
    Outbox(#[source] OutboxError),
}

/// Says it. Twice is once; of a sandbox that is not to be paused any more, nothing is said.
pub async fn report(context: &Context, id: SandboxId) -> Result<(), PauseError> {
    let owner = context.guests.of(id).and_then(|(_, guest)| guest.owner);
    let (Some(owner), Some(sandbox)) = (owner, context.sandbox(id)) else { return Ok(()) };
    let Some(end_at) = sandbox.end_at.filter(|_| sandbox.state == State::Pausing) else { return Ok(()) };
    let status = owner.status().await.map_err(PauseError::Meter)?;
    let (paused_at, meter) = (context.now(), meter::read(&status.usage));
    let commit = commits::paused(id, sandbox.pauses);
    let draft = context.about(sandbox.account, id, commit, SandboxPaused { paused_at, end_at, meter });
    context.outbox.put(vec![draft]).await.map_err(PauseError::Outbox)
}
