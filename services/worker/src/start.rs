//! Giving a claimed sandbox a guest, making it the sandbox's own, and announcing it.

use std::time::Duration;

use omnirun_events::id::SandboxId;
use omnirun_events::sandbox::{SandboxStarted, StartedFrom};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::sandboxes::Sandbox;
use omnirun_vmm_api::UnixMillis;
use omnirun_vmm_api::owner::{Claim, EndReason};
use tokio::time::Instant;

use crate::context::Context;
use crate::finish::{self, FinishError};
use crate::guests::{Guest, Life, Role};
use crate::meter;
use crate::outbox::commits;
use crate::owner::OwnerError;
use crate::owner::spawn::SpawnError;
use crate::place::{Origin, VmId};
use crate::reconcile::Mode;

/// How long a guest may take to be ready: an owner process gives a boot two tries of 30 s each, and a restore 10 s before.
const READY_WAIT_MAX: Duration = Duration::from_secs(75);

/// A sandbox could not get a guest.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("the system has no randomness")]
    Random(#[source] getrandom::Error),
    #[error("cannot note or remove the sandbox's guest")]
    Place(#[source] std::io::Error),
    #[error("cannot start a guest")]
    Spawn(#[source] SpawnError),
    #[error("the guest did not come to life")]
    Dead,
    #[error("the guest is not ready in time")]
    Late,
    #[error("cannot personalise the guest")]
    Claim(#[source] OwnerError),
}

/// When a sandbox's guest became its, and when it ends.
struct Span {
    started_at: Timestamp,
    end_at: Timestamp,
}

/// Gives a sandbox a guest, or goes on with the one it has, and announces it; or says that it never ran. Twice is once.
pub async fn start(context: &Context, id: SandboxId) -> Result<(), FinishError> {
    let began = Instant::now();
    let Some(sandbox) = context.sandbox(id) else { return Ok(()) };
    let (vm, span) = match prepare(context, id, &sandbox).await {
        Ok(ready) => ready,
        Err(error) => {
            tracing::warn!(sandbox = %id, error = &error as &dyn std::error::Error, "a sandbox got no guest");
            metrics::counter!("omnirun_worker_start_failures_total").increment(1);
            // One that is being stopped, or drained, is reported by whoever ends it.
            let is_wanted = context.sandbox(id).is_some_and(|now| now.state == sandbox.state);
            return if is_wanted { finish::fail(context, id).await } else { Ok(()) };
        }
    };
    let Some(template) = context.guests.get(&vm).and_then(|guest| guest.template) else {
        return finish::fail(context, id).await;
    };
    let from = if vm.origin() == Origin::Pool { StartedFrom::Pool } else { StartedFrom::Boot };
    let Span { started_at, end_at } = span;
    let started = SandboxStarted { started_at, end_at, from, root: template.root, kernel: template.kernel };
    let draft = context.about(sandbox.account, id, commits::started(id), started);
    context.outbox.put(vec![draft]).await.map_err(FinishError::Outbox)?;
    let label = if from == StartedFrom::Pool { "pool" } else { "demand" };
    metrics::histogram!("omnirun_worker_start_seconds", "from" => label)
        .record(began.elapsed().as_secs_f64());
    Ok(())
}

async fn prepare(context: &Context, id: SandboxId, sandbox: &Sandbox) -> Result<(VmId, Span), GuestError> {
    match context.guests.of(id) {
        // A crash of an earlier worker left it.
        Some((vm, guest)) if !guest.life.is_alive() => {
            context.guests.remove(&vm).map_err(GuestError::Place)?
        }
        Some((vm, _)) => {
            let span = personalise(context, &vm, id, sandbox).await?;
            return Ok((vm, span));
        }
        None => {}
    }
    let kind = context.kind(sandbox);
    if let Some(vm) = context.guests.take(&kind, id).map_err(GuestError::Place)? {
        match personalise(context, &vm, id, sandbox).await {
            Ok(span) => return Ok((vm, span)),
            Err(error) if !may_try_again(context, id, sandbox) => return Err(error),
            Err(_) => discard(context, &vm).await.map_err(GuestError::Place)?,
        }
    }
    let vm = VmId::random(Origin::Demand).map_err(GuestError::Random)?;
    context.guests.start(&vm, Role::Sandbox(id), &kind).await.map_err(GuestError::Spawn)?;
    let span = personalise(context, &vm, id, sandbox).await?;
    Ok((vm, span))
}

/// Whether another guest would still be in time and wanted.
fn may_try_again(context: &Context, id: SandboxId, sandbox: &Sandbox) -> bool {
    let is_wanted = context.sandbox(id).is_some_and(|now| now.state == sandbox.state);
    is_wanted && context.mode() == Mode::Serving && context.now() <= sandbox.deadline
}

async fn discard(context: &Context, vm: &VmId) -> std::io::Result<()> {
    context.guests.end(vm, EndReason::NotNeeded).await?;
    context.guests.remove(vm)
}

/// Makes a guest this sandbox's own once its agent answers: entropy, clock, ids and host name, given by its owner process.
async fn personalise(
    context: &Context,
    vm: &VmId,
    id: SandboxId,
    sandbox: &Sandbox,
) -> Result<Span, GuestError> {
    let ready = context.guests.until(READY_WAIT_MAX, |guests| match guests.get(vm) {
        None | Some(Guest { life: Life::Ended(_), .. }) => Some(None),
        Some(Guest { life: Life::Starting, .. }) => None,
        Some(Guest { owner, life, .. }) => owner.map(|owner| Some((owner, life))),
    });
    let (owner, life) = ready.await.ok_or(GuestError::Late)?.ok_or(GuestError::Dead)?;
    let now = context.now();
    let timeout = Millis::from(sandbox.timeout);
    if matches!(life, Life::Claimed(_) | Life::Paused(_)) {
        // An earlier worker came this far; the sandbox has been running since.
        let status = owner.status().await.map_err(GuestError::Claim)?;
        let started_at = Timestamp(now.0.saturating_sub(meter::age(&status.usage).0));
        let end_at = status.end_ms.map_or(started_at.after(timeout), |end| Timestamp(end.0));
        return Ok(Span { started_at, end_at });
    }
    let end_at = now.after(timeout);
    let claim = Claim {
        sandbox_id: id.to_string(),
        end_ms: Some(UnixMillis(end_at.0)),
        hostname: id.to_string(),
        envs: Default::default(),
    };
    let asked = Instant::now();
    owner.claim(&claim).await.map_err(GuestError::Claim)?;
    metrics::histogram!("omnirun_worker_personalise_seconds").record(asked.elapsed().as_secs_f64());
    context.guests.note(vm, |guest| guest.life = Life::Claimed(Some(end_at)));
    Ok(Span { started_at: now, end_at })
}
