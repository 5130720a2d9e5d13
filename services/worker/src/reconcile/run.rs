//! Doing what [`plan`] says, each thing once at a time, for ever.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use omnirun_events::unit::Timestamp;
use omnirun_projections::sandboxes::{Sandbox, State};
use omnirun_runner::Status;
use omnirun_vmm_api::UnixMillis;
use omnirun_vmm_api::owner::{EndReason, NewEnd};
use tokio::task::JoinSet;

use super::{Action, GuestView, LogView, Mode, Phase, Stage, Tenant, VmId, plan};
use crate::context::Context;
use crate::finish::{self, FinishError};
use crate::guests::Life;
use crate::outbox::commits;
use crate::owner::OwnerError;
use crate::pause::{self, PauseError};
use crate::start;

/// Time between two looks when nothing changes: deadlines pass without a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that was to be done and was not; it is tried again.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error("cannot ask the owner process")]
    Owner(#[source] OwnerError),
    #[error("cannot remove what is left of a guest")]
    Remove(#[source] io::Error),
    #[error("cannot end a guest")]
    Kill(#[source] io::Error),
    #[error("cannot report")]
    Finish(#[source] FinishError),
    #[error("cannot say that a sandbox is paused")]
    Pause(#[source] PauseError),
}

/// Reconciles for ever. Before the directory has caught up nothing is done: what it does not know yet must not be ended.
pub(crate) async fn run(context: Context) {
    caught_up(&context).await;
    let mut log_changes = context.directory.changes();
    let mut guest_changes = context.guests.changes();
    let mut outbox_changes = context.outbox.changes();
    let mut busy = HashSet::new();
    let mut tasks = JoinSet::new();
    let mut last = Mode::Serving;
    loop {
        log_changes.borrow_and_update();
        guest_changes.borrow_and_update();
        outbox_changes.borrow_and_update();
        let (log, guests, mode) = (log_view(&context), guest_view(&context), context.mode());
        if std::mem::replace(&mut last, mode) != mode && mode == Mode::CutOff {
            tracing::error!("nothing could be said on the log for too long: this host's sandboxes end");
        }
        for action in plan(&log, &guests, mode, context.now()) {
            let key = action.key();
            if busy.insert(key.clone()) {
                let context = context.clone();
                tasks.spawn(async move {
                    attempt(&context, action).await;
                    key
                });
            }
        }
        tokio::select! {
            Some(done) = tasks.join_next() => {
                let key = done.expect("no action panics");
                busy.remove(&key);
            }
            _ = log_changes.changed() => {}
            _ = guest_changes.changed() => {}
            _ = outbox_changes.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn caught_up(context: &Context) {
    let mut changes = context.directory.changes();
    loop {
        match changes.borrow_and_update().status.clone() {
            Status::Following => return,
            Status::CatchingUp => {}
            Status::Stopped(_) => {
                tracing::error!(
                    "the directory has stopped: guests run on until their time is up, nothing is reported"
                );
            }
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What of a sandbox is on the log or on its way there.
struct Announced {
    /// That its guest runs.
    start: bool,
    /// That it is paused, this time.
    pause: bool,
}

fn log_view(context: &Context) -> LogView {
    context.directory.view(|directory, _| {
        let mine = directory.sandboxes.on(context.host);
        let open = mine.filter(|(id, _)| !context.outbox.holds(commits::ended(*id)));
        open.map(|(id, sandbox)| {
            let announced = Announced {
                start: sandbox.started_at.is_some() || context.outbox.holds(commits::started(id)),
                pause: context.outbox.holds(commits::paused(id, sandbox.pauses)),
            };
            (id, phase(sandbox, announced))
        })
        .collect()
    })
}

/// Where a sandbox is, once what waits in the outbox has been said: its start, its pause.
fn phase(sandbox: &Sandbox, announced: Announced) -> Phase {
    let end_at = sandbox.end_at;
    match sandbox.state {
        State::Stopping => Phase::Stopping { has_run: announced.start },
        _ if !announced.start => Phase::Claimed { deadline: sandbox.deadline },
        State::Pausing if !announced.pause => Phase::Pausing { end_at },
        State::Pausing | State::Paused => Phase::Paused { end_at },
        _ => Phase::Running { end_at },
    }
}

fn guest_view(context: &Context) -> Vec<GuestView> {
    let all = context.guests.all().into_iter();
    all.map(|(vm, guest)| GuestView {
        vm,
        tenant: Tenant::from(&guest.role),
        stage: Stage::from(&guest.life),
    })
    .collect()
}

async fn attempt(context: &Context, action: Action) {
    let what = match &action {
        Action::Kill(..) => "kill",
        Action::SetEnd(..) => "set_end",
        Action::Pause(_) => "pause",
        Action::Resume(_) => "resume",
        Action::Remove(_) => "remove",
        Action::Start(_) => "start",
        Action::ReportPaused(_) => "report_paused",
        Action::Fail(_) => "fail",
        Action::Report(_) => "report",
    };
    if let Err(error) = act(context, action).await {
        metrics::counter!("omnirun_worker_action_errors_total", "action" => what).increment(1);
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            action = what,
            "something about a guest is tried again"
        );
        tokio::time::sleep(RETRY).await;
    }
}

async fn act(context: &Context, action: Action) -> Result<(), ActionError> {
    match action {
        Action::Kill(vm, reason) => kill(context, &vm, reason).await,
        Action::SetEnd(vm, end) => set_end(context, &vm, end).await,
        Action::Pause(vm) => switch(context, &vm, Wanted::Paused).await,
        Action::Resume(vm) => switch(context, &vm, Wanted::Running).await,
        Action::Remove(vm) => context.guests.remove(&vm).map_err(ActionError::Remove),
        Action::Start(sandbox) => start::start(context, sandbox).await.map_err(ActionError::Finish),
        Action::ReportPaused(sandbox) => pause::report(context, sandbox).await.map_err(ActionError::Pause),
        Action::Fail(sandbox) => finish::fail(context, sandbox).await.map_err(ActionError::Finish),
        Action::Report(sandbox) => finish::report(context, sandbox).await.map_err(ActionError::Finish),
    }
}

async fn set_end(context: &Context, vm: &VmId, end: Timestamp) -> Result<(), ActionError> {
    let Some(owner) = context.guests.get(vm).and_then(|guest| guest.owner) else { return Ok(()) };
    let new = NewEnd { end_ms: Some(UnixMillis(end.0)) };
    owner.set_end(new).await.map_err(ActionError::Owner)?;
    context.guests.note(vm, |guest| {
        if let Life::Claimed(at) | Life::Paused(at) = &mut guest.life {
            *at = Some(end);
        }
    });
    Ok(())
}

/// What a guest's processors are to do.
enum Wanted {
    Paused,
    Running,
}

async fn switch(context: &Context, vm: &VmId, wanted: Wanted) -> Result<(), ActionError> {
    let Some(owner) = context.guests.get(vm).and_then(|guest| guest.owner) else { return Ok(()) };
    match wanted {
        Wanted::Paused => owner.pause().await,
        Wanted::Running => owner.resume().await,
    }
    .map_err(ActionError::Owner)?;
    context.guests.note(vm, |guest| {
        guest.life = match (&wanted, &guest.life) {
            (Wanted::Paused, Life::Claimed(end)) => Life::Paused(*end),
            (Wanted::Running, Life::Paused(end)) => Life::Claimed(*end),
            // It has ended meanwhile.
            (_, life) => life.clone(),
        };
    });
    Ok(())
}

async fn kill(context: &Context, vm: &VmId, reason: EndReason) -> Result<(), ActionError> {
    finish::note_decision(context, vm);
    context.guests.end(vm, reason).await.map_err(ActionError::Kill)
}
