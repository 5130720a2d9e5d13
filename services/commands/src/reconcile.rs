//! What time decides: requests that no host has claimed by their deadline fail, and everything reserved for them is given back; hosts whose
//! leases are over are given up ([`crate::leases`]), and what is left to say of those that were is said; data keys that nothing needs are
//! destroyed, and the master key is rotated in the night after something was erased ([`crate::rotation`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::host::LEASE;
use omnirun_events::id::{AccountId, CommitId, SandboxId};
use omnirun_events::keys::DataKeysDestroyed;
use omnirun_events::sandbox::{FailReason, SandboxFailed};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Millis;
use omnirun_projections::sandboxes::State;
use tokio::time::{Interval, MissedTickBehavior};

use crate::failure::Failure;
use crate::leases::Leases;
use crate::service::CommandService;
use crate::writer::Appended;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time between two looks at what hosts have said.
const HEAR_EVERY: Duration = Duration::from_secs(60);

/// Time between two sweeps of keys that nothing needs. The first is at the start.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Looks again and again, until it is dropped. Several commands services may do so: one of them is first, and the others find that out.
pub(crate) async fn run(service: Arc<CommandService>) {
    // Beside each other: requests that nobody claims do not wait until a mail server has taken a receipt, or a rotation is over.
    tokio::join!(look(&service), hear(&service), erase(&service), sweep(&service));
}

// A store that does not answer now is asked again the next time; the failure has been logged where it happened.

async fn look(service: &CommandService) {
    let mut timer = timer(LOOK_EVERY);
    loop {
        timer.tick().await;
        let _ = service.fail_unclaimed().await;
        let _ = service.end_lost().await;
        let _ = service.index.sync().await;
    }
}

async fn hear(service: &CommandService) {
    let (began, mut leases, mut timer) = (Instant::now(), Leases::of(LEASE), timer(HEAR_EVERY));
    loop {
        timer.tick().await;
        let now = Millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let _ = service.give_up_silent(&mut leases, now).await;
    }
}

async fn erase(service: &CommandService) {
    let mut timer = timer(LOOK_EVERY);
    loop {
        timer.tick().await;
        let _ = service.go_on_erasing().await;
    }
}

async fn sweep(service: &CommandService) {
    let mut timer = timer(SWEEP_EVERY);
    loop {
        timer.tick().await;
        let _ = service.sweep_keys().await;
        let _ = service.rotate_if_due().await;
    }
}

fn timer(every: Duration) -> Interval {
    let mut timer = tokio::time::interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

impl CommandService {
    /// Destroys the data keys that nothing needs; answers how many.
    pub async fn sweep_keys(&self) -> Result<u64, Failure> {
        let destroyed = self.keys.sweep().await?;
        if destroyed > 0 {
            let count = u32::try_from(destroyed).unwrap_or(u32::MAX);
            self.append_to_erasure(DataKeysDestroyed { count }.into()).await?;
            tracing::info!(count = destroyed, "data keys that nothing needs were destroyed");
        }
        Ok(destroyed)
    }

    /// Fails every request whose deadline has passed; answers how many it was first to fail. A claim that was first wins.
    pub async fn fail_unclaimed(&self) -> Result<usize, Failure> {
        let now = (self.clock)();
        let overdue: Vec<(AccountId, SandboxId, Head)> = self.writer.directory.view(|directory, verifier| {
            let live = directory.sandboxes.live();
            live.filter(|(_, sandbox)| sandbox.state == State::Requested && now > sandbox.deadline)
                // Empty, or after what a host has filed there that nobody believes.
                .map(|(id, one)| {
                    let subject = SubjectKind::Sandbox(one.account, id).into();
                    (one.account, id, verifier.head(&subject))
                })
                .collect()
        });
        let mut failed = 0;
        for (account, sandbox, head) in overdue {
            let draft = Draft {
                commit: CommitId::derive(sandbox.as_bytes(), "no-capacity"),
                subject: SubjectKind::Sandbox(account, sandbox).into(),
                at: now,
                actor: Actor::System(Role::Commands),
                cause: None,
                events: vec![SandboxFailed { reason: FailReason::NoCapacity }.into()],
            };
            if let Appended::At(_) = self.writer.append(&[draft], &[head]).await? {
                failed += 1;
            }
        }
        if failed > 0 {
            tracing::warn!(count = failed, "sandboxes failed because no worker host claimed them in time");
        }
        Ok(failed)
    }
}
