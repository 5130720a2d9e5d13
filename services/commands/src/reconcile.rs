//! What time decides: requests that no host has claimed by their deadline fail, and everything reserved for them is given back.

use std::sync::Arc;
use std::time::Duration;

use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::id::{AccountId, CommitId, SandboxId};
use omnirun_events::sandbox::{FailReason, SandboxFailed};
use omnirun_events::subject::SubjectKind;
use omnirun_projections::sandboxes::State;

use crate::failure::Failure;
use crate::service::CommandService;
use crate::writer::Appended;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks again and again, until it is dropped. Several commands services may do so: one of them is first, and the others find that out.
pub(crate) async fn run(service: Arc<CommandService>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        // A store that does not answer now is asked again at the next look; the failure has been logged where it happened.
        let _ = service.fail_unclaimed().await;
        let _ = service.index.sync().await;
        let _ = service.go_on_erasing().await;
    }
}

impl CommandService {
    /// Fails every request whose deadline has passed; answers how many it was first to fail. A claim that was first wins.
    pub async fn fail_unclaimed(&self) -> Result<usize, Failure> {
        let now = (self.clock)();
        let overdue: Vec<(AccountId, SandboxId)> = self.writer.directory.view(|directory, _| {
            let live = directory.sandboxes.live();
            live.filter(|(_, sandbox)| sandbox.state == State::Requested && now > sandbox.deadline)
                .map(|(id, sandbox)| (sandbox.account, id))
                .collect()
        });
        let mut failed = 0;
        for (account, sandbox) in overdue {
            let draft = Draft {
                commit: CommitId::derive(sandbox.as_bytes(), "no-capacity"),
                subject: SubjectKind::Sandbox(account, sandbox).into(),
                at: now,
                actor: Actor::System(Role::Commands),
                cause: None,
                events: vec![SandboxFailed { reason: FailReason::NoCapacity }.into()],
            };
            if let Appended::At(_) = self.writer.append(&[draft], &[Head::EMPTY]).await? {
                failed += 1;
            }
        }
        if failed > 0 {
            tracing::warn!(count = failed, "sandboxes failed because no worker host claimed them in time");
        }
        Ok(failed)
    }
}
