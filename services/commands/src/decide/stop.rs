//! StopSandbox: cancel what no host has, ask the host of what one has, and accept what has ended.

use omnirun_commands_api::{Outcome, Rejection};
use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::{FailReason, SandboxFailed, StopRequested};
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;

use super::{Decision, Wish, not_found};

/// Decides. A cancellation is appended with expected 0 and so races the claim: one of them is first.
pub fn decide(directory: &Directory, wish: &Wish, id: SandboxId) -> Result<Decision, Rejection> {
    let sandbox = directory.sandboxes.get(id).filter(|sandbox| sandbox.account == wish.account);
    let subject = SubjectKind::Sandbox(wish.account, id);
    let draft = match sandbox.ok_or_else(not_found)?.state {
        State::Stopped(_) | State::Failed(_) | State::Stopping => {
            return Ok(Decision::Already(Outcome::SandboxStopping));
        }
        State::Requested => wish.draft(subject, SandboxFailed { reason: FailReason::Cancelled }),
        State::Starting | State::Running | State::Pausing | State::Paused => {
            wish.draft(subject, StopRequested {})
        }
    };
    Ok(Decision::Write(vec![draft], Outcome::SandboxStopping))
}
