//! ExtendTimeout: move the end of a running or paused sandbox and what is reserved for it.

use omnirun_billing::Plans;
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::TimeoutExtended;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Millis, Seconds};
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;

use super::admission::terms;
use super::repeat::must_be_same;
use super::{Decision, Wish, not_found, pause};

/// When to ask again about a sandbox that is being started.
const START_SOON: Millis = Millis(1000);

/// Decides: the new end is `timeout` from now, or the plan's longest life from the start.
pub fn decide(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    id: SandboxId,
    timeout: Seconds,
) -> Result<Decision, Rejection> {
    let sandbox = directory.sandboxes.get(id).filter(|sandbox| sandbox.account == wish.account);
    let sandbox = sandbox.ok_or_else(not_found)?;
    if let Some(earlier) = sandbox.extension(wish.commit()) {
        let is_longest = timeout == Seconds::ZERO;
        must_be_same(is_longest || earlier.end_at == earlier.at.after(timeout.into()))?;
        return Ok(Decision::Already(Outcome::TimeoutExtended { end_at: earlier.end_at }));
    }
    let started = match (sandbox.state, sandbox.started_at) {
        (State::Running | State::Paused, Some(started)) => started,
        (State::Pausing, _) => return Err(pause::under_way()),
        (State::Requested | State::Starting | State::Running | State::Paused, _) => {
            let message = "The sandbox is being started; try again when it runs.";
            return Err(Rejection::retryable(Code::Busy, message, START_SOON));
        }
        (State::Stopping | State::Stopped(_) | State::Failed(_), _) => {
            return Err(Rejection::new(Code::AlreadyFinal, "The sandbox has ended."));
        }
    };
    // A sandbox counts in the month that it was admitted in, whenever it is extended.
    let terms = terms(directory, plans, wish.account, sandbox.requested_at)?;
    let end_at = match timeout {
        Seconds::ZERO => started.after(terms.plan.session_max.into()),
        timeout => wish.now.after(timeout.into()),
    };
    terms.allow_session(end_at.since(started))?;
    let reserved = sandbox.reservation_until(end_at);
    terms.allow_reservation(directory, wish.account, id, reserved)?;
    let extended = TimeoutExtended { sandbox: id, end_at, reserved };
    let draft = wish.draft(SubjectKind::Admission(wish.account), extended);
    Ok(Decision::Write(vec![draft], Outcome::TimeoutExtended { end_at }))
}
