//! PauseSandbox: have a sandbox's processors stand still. What it will not use is given back once its host has said that they do.

use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::PauseRequested;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Millis;
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;

use super::{Decision, Wish, not_found};

/// When to ask again about a sandbox that is being paused.
const PAUSE_SOON: Millis = Millis(1000);

/// Decides. Twice is once, and a repeated command does not pause again what was resumed since.
pub fn decide(directory: &Directory, wish: &Wish, id: SandboxId) -> Result<Decision, Rejection> {
    let sandbox = directory.sandboxes.get(id).filter(|sandbox| sandbox.account == wish.account);
    let sandbox = sandbox.ok_or_else(not_found)?;
    if sandbox.switches.contains(&wish.commit()) {
        return Ok(Decision::Already(Outcome::SandboxPausing));
    }
    match sandbox.state {
        State::Pausing | State::Paused => Ok(Decision::Already(Outcome::SandboxPausing)),
        State::Running => {
            let draft = wish.draft(SubjectKind::Sandbox(wish.account, id), PauseRequested {});
            Ok(Decision::Write(vec![draft], Outcome::SandboxPausing))
        }
        State::Requested | State::Starting => Err(not_running()),
        State::Stopping | State::Stopped(_) | State::Failed(_) => Err(ended()),
    }
}

/// Nothing is decided about a sandbox whose host has not said yet how much it ran.
pub(crate) fn under_way() -> Rejection {
    Rejection::retryable(Code::Busy, "The sandbox is being paused; try again when it is.", PAUSE_SOON)
}

pub(crate) fn not_running() -> Rejection {
    Rejection::new(Code::NotRunning, "The sandbox is not running yet; wait until it is.")
}

pub(crate) fn ended() -> Rejection {
    Rejection::new(Code::AlreadyFinal, "The sandbox has ended.")
}
