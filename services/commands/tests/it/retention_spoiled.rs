//! Retention where a host's clock is wrong, others file what they like, or the store refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use omnirun_commands::retention::Expired;
use omnirun_commands_api::{Command, Outcome};
use omnirun_events::log::EraseError;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::sandbox::*;
use omnirun_events::usage::Meter;
use omnirun_events::*;
use tokio::sync::Notify;

use crate::retention::{DAY, HOUR, agreed, at, left, lived};
use crate::support::*;

/// A sandbox that its host says to have ended at a moment of its own choice.
async fn ended_at(world: &World, process: &Process, account: AccountId, stopped_at: Timestamp) -> SandboxId {
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let subject = SubjectKind::Sandbox(account, sandbox);
    world.as_worker(subject, SandboxClaimed { host: HOST }).await;
    let (reason, meter, teardown) = (StopReason::OwnerDied, Meter::default(), Millis(1));
    world.as_worker(subject, SandboxStopped { reason, stopped_at, meter, teardown }).await;
    sandbox
}

#[tokio::test]
async fn a_host_whose_clock_is_wrong_has_nothing_removed_early_and_keeps_nothing_for_ever() {
    for stopped_at in [Timestamp(1), Timestamp(u64::MAX)] {
        let world = World::new().await;
        let process = world.process().await;
        let account = world.sign_in(&process, "a@example.org").await;
        let (before, ..) = lived(&world, &process, account).await;
        let wrong = ended_at(&world, &process, account, stopped_at).await;
        let requested = world.time();
        process.view(&world, |_| ()).await;
        assert_eq!(process.service.expire(&world.log).await, Expired::default());
        at(&world, requested.after(Millis(98 * DAY)));
        assert_eq!(process.service.expire(&world.log).await.sandboxes, 2);
        for sandbox in [before, wrong] {
            assert_eq!(left(&world, account, sandbox).await, (0, 1));
        }
    }
}

/// Files bytes after the last record of a subject.
async fn spoil(world: &World, kind: SubjectKind) {
    let subject = Subject::from(kind);
    let last = world.log.last(&subject).await.expect("memory").expect("it has records");
    let commit = CommitId::from_bytes([99; 16]);
    let entry = Entry { subject, expected: last.sequence, commit, record: "rubbish".into() };
    world.log.append_all(Batch::one(entry)).await.expect("nobody else writes there");
}

#[tokio::test]
async fn what_others_filed_after_a_sandboxs_end_goes_with_it_and_nobody_remembers_it() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, _, ended) = lived(&world, &process, account).await;
    spoil(&world, SubjectKind::Sandbox(account, sandbox)).await;
    spoil(&world, SubjectKind::Usage(Slot::of(ended), account, sandbox)).await;
    at(&world, ended.after(Millis(90 * DAY - HOUR)));
    assert_eq!(process.service.expire(&world.log).await.sandboxes, 1);
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    let is_known = process.view(&world, |directory| directory.sandboxes.get(sandbox).is_some()).await;
    assert!(!is_known);
    agreed(&world, &process).await;
}

/// Refuses the first removal, and tells of each other one.
struct RefusesOnce {
    log: MemoryLog,
    has_refused: AtomicBool,
    removed: Notify,
}

#[async_trait]
impl Erase for RefusesOnce {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        if !self.has_refused.swap(true, Ordering::SeqCst) {
            return Err(EraseError { log: subject.log(), source: "unplugged".into() });
        }
        let removed = self.log.purge_through(subject, through).await;
        self.removed.notify_one();
        removed
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        self.log.purge_all(log, filter).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_removed_is_removed_by_the_next_run_though_nobody_knows_it_any_more() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, _, ended) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(90 * DAY - HOUR)));
    let (log, has_refused, removed) = (world.log.clone(), AtomicBool::new(false), Notify::new());
    let erase = Arc::new(RefusesOnce { log, has_refused, removed });
    let runs = tokio::spawn(process.service.clone().retain(erase.clone()));
    let gone = async {
        while left(&world, account, sandbox).await != (0, 1) {
            erase.removed.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3 * 3600), gone).await.expect("by the run after it");
    runs.abort();
}
