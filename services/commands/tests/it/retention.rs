//! What is 90 days old is gone, under a tombstone, with the key of its free text; what is younger stays. Nobody who reads the log notices
//! anything but that.

use std::collections::BTreeMap;

use async_trait::async_trait;
use omnirun_commands::retention::Expired;
use omnirun_commands_api::command::{Personal, SealedField};
use omnirun_commands_api::{Command, Outcome};
use omnirun_events::keys::Digest;
use omnirun_events::log::{EraseError, read_to_end};
use omnirun_events::sandbox::*;
use omnirun_events::sealing::Sealed;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::verify::Depth;
use omnirun_events::*;
use omnirun_projections::{Directory, Fold as _};
use omnirun_runner::{Source, rebuild};

use crate::support::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// A sandbox that ran for an hour, read twice, from now on; its id, its sealed metadata and the moment of its end.
async fn lived(world: &World, process: &Process, account: AccountId) -> (SandboxId, Sealed, Timestamp) {
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let subject = SubjectKind::Sandbox(account, sandbox);
    world.as_worker(subject, SandboxClaimed { host: HOST }).await;
    let (started_at, digest) = (world.time(), Digest([0; 32]));
    let end_at = started_at.after(Millis(HOUR));
    let from = StartedFrom::Boot;
    world.as_worker(subject, SandboxStarted { started_at, end_at, from, root: digest, kernel: digest }).await;
    process.view(world, |_| ()).await;
    let mut meter = Meter::default();
    for period in 1..=2 {
        world.pass(Millis(HOUR / 2));
        meter.wall = Millis(u64::from(period) * HOUR / 2);
        let observed_at = world.time();
        let kind = SubjectKind::Usage(Slot::of(observed_at), account, sandbox);
        world.as_worker(kind, UsageMetered { period, observed_at, meter }).await;
    }
    let (reason, stopped_at) = (StopReason::TimedOut, world.time());
    world.as_worker(subject, SandboxStopped { reason, stopped_at, meter, teardown: Millis(1) }).await;
    let sealed = process
        .view(world, |directory| directory.sandboxes.get(sandbox).and_then(|one| one.metadata.clone()));
    (sandbox, sealed.await.expect("it has metadata"), stopped_at)
}

/// What a copy of the log would still give somebody who asks for a sandbox's free text.
async fn free_text(
    world: &World,
    process: &Process,
    account: AccountId,
    sealed: &Sealed,
) -> Option<Personal> {
    let subject = SubjectKind::Admission(account).into();
    let field = SealedField { subject, field: METADATA_FIELD.to_owned(), sealed: sealed.clone() };
    let open = Command::OpenFields { account, fields: vec![field] };
    match process.send(world.envelope(open)).await.expect("asked well").outcome {
        Outcome::FieldsOpened(fields) => fields[0].clone(),
        other => panic!("{other:?}"),
    }
}

/// Records in a log that are about a sandbox or its meters, and those of the account's requests.
async fn left(world: &World, account: AccountId, sandbox: SandboxId) -> (usize, usize) {
    let (mut its, mut requests) = (0, 0);
    for log in Log::kept() {
        for stored in read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory") {
            match stored.subject.kind() {
                SubjectKind::Sandbox(_, id) | SubjectKind::Usage(_, _, id) if id == sandbox => its += 1,
                SubjectKind::Admission(of) if of == account => requests += 1,
                _ => {}
            }
        }
    }
    (its, requests)
}

/// Everybody who starts now believes the log, and sees what those see who were there.
async fn agreed(world: &World, process: &Process) {
    let live = process.view(world, |directory| directory.digest()).await;
    let (all, root) = (BTreeMap::new(), world.root.public());
    let rebuilt = rebuild::<Directory>(&world.log, &root, Source::Events, &all, Depth::Signatures);
    assert_eq!(rebuilt.await.expect("the log is whole").state.digest(), live);
}

fn at(world: &World, moment: Timestamp) {
    world.now.store(moment.0, std::sync::atomic::Ordering::SeqCst);
}

#[tokio::test]
async fn at_89_days_everything_of_a_sandbox_stays_and_at_90_nothing_is_left() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, sealed, ended) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(89 * DAY)));
    assert_eq!(process.service.expire(&world.log).await.expect("it can"), Expired::default());
    assert_eq!(left(&world, account, sandbox).await, (5, 1));
    assert_eq!(free_text(&world, &process, account, &sealed).await, sandbox_wish().metadata);

    at(&world, ended.after(Millis(90 * DAY - HOUR)));
    let expired = process.service.expire(&world.log).await.expect("it can");
    assert_eq!((expired.sandboxes, expired.keys), (1, 1));
    // What is left of the requests says nothing.
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    assert_eq!(free_text(&world, &process, account, &sealed).await, None);
    assert!(process.view(&world, |directory| directory.sandboxes.get(sandbox).is_none()).await);
    assert_eq!(process.service.expire(&world.log).await.expect("it can"), Expired::default(), "once");
    agreed(&world, &process).await;
    // The account goes on.
    lived(&world, &process, account).await;
    agreed(&world, &process).await;
}

#[tokio::test]
async fn a_younger_sandbox_stays_with_its_request_and_its_free_text() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (old, _, ended) = lived(&world, &process, account).await;
    world.pass(Millis(50 * DAY));
    let (young, sealed, _) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(91 * DAY)));
    let expired = process.service.expire(&world.log).await.expect("it can");
    assert_eq!((expired.sandboxes, expired.keys), (1, 1));
    assert_eq!((left(&world, account, old).await, left(&world, account, young).await), ((0, 1), (5, 1)));
    assert_eq!(free_text(&world, &process, account, &sealed).await, sandbox_wish().metadata);
    agreed(&world, &process).await;
}

/// Removes nothing.
struct Broken;

#[async_trait]
impl Erase for Broken {
    async fn purge_through(&self, subject: &Subject, _: Sequence) -> Result<u64, EraseError> {
        Err(EraseError { log: subject.log(), source: "unplugged".into() })
    }

    async fn purge_all(&self, log: Log, _: Filter) -> Result<u64, EraseError> {
        Err(EraseError { log, source: "unplugged".into() })
    }
}

#[tokio::test]
async fn a_run_that_is_cut_off_after_its_tombstones_is_finished_by_the_next_start() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, _, ended) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(120 * DAY)));
    // Each run gets as far as the next removal.
    for _ in 0..9 {
        process.service.expire(&Broken).await.err();
    }
    agreed(&world, &process).await;
    assert!(left(&world, account, sandbox).await.0 > 0, "nothing was removed yet");
    let again = world.process().await;
    again.service.sweep(&world.log).await.expect("it can");
    again.service.expire(&world.log).await.expect("it can");
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    agreed(&world, &again).await;
    assert_eq!(again.service.sweep(&world.log).await.expect("it can"), 0);
}
