//! Saying how a sandbox ended: the last meter reading and exactly one of SandboxStopped and SandboxFailed.
//!
//! An owner process removes everything of its guest before it leaves the numbers that are read here. The numbers themselves go only
//! when the outbox has them.

use std::io;

use omnirun_events::event::Event;
use omnirun_events::id::SandboxId;
use omnirun_events::log::ReadError;
use omnirun_events::sandbox::{FailReason, SandboxFailed, SandboxStopped, StopReason};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_projections::sandboxes::{Sandbox, State};
use omnirun_runner::readings;
use omnirun_vmm_api::owner::{EndReason, Final};

use crate::context::Context;
use crate::guests::{Guest, Life};
use crate::meter;
use crate::outbox::{OutboxError, commits};
use crate::place::VmId;

/// An end that could not be reported yet; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The outbox did not take it.
    #[error("cannot note the end of a sandbox")]
    Outbox(#[source] OutboxError),
    /// The last reading of a lost guest is not to be had.
    #[error("cannot read the last meter reading")]
    LastReading(#[source] ReadError),
    /// What is left of the guest cannot be removed.
    #[error("cannot remove what is left of the guest")]
    Remove(#[source] io::Error),
    /// A guest that is of no use does not end.
    #[error("cannot end the guest")]
    Kill(#[source] io::Error),
}

/// How a guest ended, as events say it.
fn reason(end: EndReason) -> StopReason {
    match end {
        EndReason::Killed | EndReason::NotNeeded => StopReason::Requested,
        EndReason::HostStopped => StopReason::HostDrained,
        EndReason::HostCutOff => StopReason::HostLost,
        EndReason::EndTime => StopReason::TimedOut,
        EndReason::GuestExited
        | EndReason::AgentLost
        | EndReason::StartFailed
        | EndReason::Snapshotted
        | EndReason::RuleBroken
        | EndReason::MonitorFailed
        | EndReason::NetworkLost => StopReason::GuestDied,
    }
}

/// Notes when it was decided to end a guest; the first time counts.
pub fn note_decision(context: &Context, vm: &VmId) {
    let now = context.now();
    context.guests.note(vm, |guest| {
        guest.ending_since.get_or_insert(now);
    });
}

/// Says that a sandbox never ran, and ends the guest that it may have.
pub async fn fail(context: &Context, id: SandboxId) -> Result<(), FinishError> {
    let guest = context.guests.of(id);
    if let Some((vm, guest)) = &guest
        && guest.life.is_alive()
    {
        context.guests.end(vm, EndReason::Killed).await.map_err(FinishError::Kill)?;
    }
    if let Some(sandbox) = context.sandbox(id).filter(|_| !context.has_ended(id)) {
        let event = SandboxFailed { reason: FailReason::BootFailed };
        let draft = context.about(sandbox.account, id, commits::ended(id), event);
        context.outbox.put(vec![draft]).await.map_err(FinishError::Outbox)?;
    }
    remove(context, guest.map(|(vm, _)| vm))
}

/// Says that a sandbox has stopped, and removes what its guest left.
pub async fn report(context: &Context, id: SandboxId) -> Result<(), FinishError> {
    let guest = context.guests.of(id);
    let Some(sandbox) = context.sandbox(id).filter(|_| !context.has_ended(id)) else {
        return remove(context, guest.map(|(vm, _)| vm));
    };
    let has_run = sandbox.started_at.is_some() || context.outbox.holds(commits::started(id));
    let mut drafts = Vec::new();
    let stopped = match &guest {
        _ if !has_run => never_ran(&sandbox, context.now()),
        Some((vm, guest @ Guest { life: Life::Ended(Some(left)), .. })) => {
            if left.reason.is_failure() {
                tracing::error!(sandbox = %id, vm = %vm, reason = ?left.reason, "a guest was ended by a fault: its owner has said which");
            }
            let stopped = stopped(&sandbox, guest, left);
            let period = meter::period(meter::age(&left.usage), context.config.meter_every).saturating_add(1);
            let reading = UsageMetered { period, observed_at: stopped.stopped_at, meter: stopped.meter };
            drafts.push(meter::draft(context, &sandbox, id, reading));
            stopped
        }
        _ => lost(context, &sandbox, id).await?,
    };
    tracing::info!(reason = ?stopped.reason, "a sandbox has stopped");
    metrics::counter!("omnirun_worker_stopped_total", "reason" => format!("{:?}", stopped.reason))
        .increment(1);
    drafts.push(context.about(sandbox.account, id, commits::ended(id), stopped));
    context.outbox.put(drafts).await.map_err(FinishError::Outbox)?;
    remove(context, guest.map(|(vm, _)| vm))
}

fn remove(context: &Context, vm: Option<VmId>) -> Result<(), FinishError> {
    vm.map_or(Ok(()), |vm| context.guests.remove(&vm).map_err(FinishError::Remove))
}

/// Ended on request before its guest was announced: nobody could use it, so nothing is metered.
fn never_ran(sandbox: &Sandbox, now: Timestamp) -> SandboxStopped {
    let reason = if sandbox.state == State::Stopping { StopReason::Requested } else { StopReason::OwnerDied };
    SandboxStopped { reason, stopped_at: now, meter: Meter::default(), teardown: Millis::ZERO }
}

fn stopped(sandbox: &Sandbox, guest: &Guest, left: &Final) -> SandboxStopped {
    let stopped_at = Timestamp(left.ended_at_ms.0);
    let decided_at = match left.reason {
        EndReason::EndTime => sandbox.end_at,
        _ => guest.ending_since,
    };
    let teardown = stopped_at.since(decided_at.unwrap_or(stopped_at));
    SandboxStopped { reason: reason(left.reason), stopped_at, meter: meter::read(&left.usage), teardown }
}

/// Of a guest whose owner process was killed, or that a power cut ended: what was last metered is all that is known.
async fn lost(context: &Context, sandbox: &Sandbox, id: SandboxId) -> Result<SandboxStopped, FinishError> {
    let last = last_reading(context, id).await?;
    let stopped_at = last.as_ref().map(|reading| reading.observed_at).or(sandbox.started_at);
    Ok(SandboxStopped {
        reason: StopReason::OwnerDied,
        stopped_at: stopped_at.unwrap_or_else(|| context.now()),
        meter: last.map(|reading| reading.meter).unwrap_or_default(),
        teardown: Millis::ZERO,
    })
}

/// The last reading of a sandbox, from the outbox or from the usage logs.
async fn last_reading(context: &Context, id: SandboxId) -> Result<Option<UsageMetered>, FinishError> {
    let mut readings: Vec<UsageMetered> = Vec::new();
    for (_, draft) in context.outbox.drafts() {
        if matches!(draft.subject.kind(), SubjectKind::Usage(_, _, metered) if metered == id) {
            readings.extend(of_events(&draft.events));
        }
    }
    let stored = readings::last_reading(&*context.stores.read, &context.directory, id).await;
    readings.extend(stored.map_err(FinishError::LastReading)?);
    Ok(readings.into_iter().max_by_key(|reading| reading.period))
}

fn of_events(events: &[Event]) -> impl Iterator<Item = UsageMetered> {
    events.iter().filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.clone()) } else { None })
}
