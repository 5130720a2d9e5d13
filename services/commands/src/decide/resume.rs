//! ResumeSandbox: admit a paused sandbox anew. Its place among those that exist at once was never given up, and its end has not moved; the time
//! that it will run until then is reserved again.

use omnirun_billing::Plans;
use omnirun_commands_api::{Outcome, Rejection};
use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::SandboxResumed;
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;

use super::admission::terms;
use super::pause::{ended, not_running, under_way};
use super::{Decision, Wish, not_found};

/// Decides. Twice is once.
pub fn decide(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    id: SandboxId,
) -> Result<Decision, Rejection> {
    let sandbox = directory.sandboxes.get(id).filter(|sandbox| sandbox.account == wish.account);
    let sandbox = sandbox.ok_or_else(not_found)?;
    if sandbox.switches.contains(&wish.commit()) {
        return Ok(Decision::Already(Outcome::SandboxResumed));
    }
    match sandbox.state {
        State::Paused => {}
        State::Running => return Ok(Decision::Already(Outcome::SandboxResumed)),
        State::Pausing => return Err(under_way()),
        State::Requested | State::Starting => return Err(not_running()),
        State::Stopping | State::Stopped(_) | State::Failed(_) => return Err(ended()),
    }
    let (Some(started), Some(end_at)) = (sandbox.started_at, sandbox.end_at) else {
        return Err(not_running());
    };
    if end_at <= wish.now {
        return Err(ended());
    }
    // As with an extension: it counts in the month that it was admitted in.
    let terms = terms(directory, plans, wish.account, sandbox.requested_at)?;
    terms.allow_session(end_at.since(started))?;
    let reserved = sandbox.reservation_to_resume(wish.now, end_at);
    terms.allow_reservation(directory, wish.account, id, reserved)?;
    let resumed = SandboxResumed { sandbox: id, end_at, reserved };
    let draft = wish.draft(SubjectKind::Admission(wish.account), resumed);
    Ok(Decision::Write(vec![draft], Outcome::SandboxResumed))
}
