//! What is 90 days old is gone, under a tombstone, with the key of its free text; what is younger stays. Nobody who reads the log notices
//! anything but that.

use std::collections::BTreeMap;

use async_trait::async_trait;
use omnirun_commands::retention::Expired;
use omnirun_commands_api::command::{Personal, SealedField};
use omnirun_commands_api::{Code, Command, Envelope, Outcome};
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

pub const HOUR: u64 = 3_600_000;
pub const DAY: u64 = 24 * HOUR;

/// A sandbox that ran for an hour, read twice, from now on; its id, its sealed metadata and the moment of its end.
pub async fn lived(world: &World, process: &Process, account: AccountId) -> (SandboxId, Sealed, Timestamp) {
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
pub async fn left(world: &World, account: AccountId, sandbox: SandboxId) -> (usize, usize) {
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
pub async fn agreed(world: &World, process: &Process) {
    let live = process.view(world, |directory| directory.digest()).await;
    let (all, root) = (BTreeMap::new(), world.root.public());
    let rebuilt = rebuild::<Directory>(&world.log, &root, Source::Events, &all, Depth::Signatures);
    assert_eq!(rebuilt.await.expect("the log is whole").state.digest(), live);
}

pub fn at(world: &World, moment: Timestamp) {
    world.now.store(moment.0, std::sync::atomic::Ordering::SeqCst);
}

#[tokio::test]
async fn at_89_days_everything_of_a_sandbox_stays_and_at_90_nothing_is_left() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, sealed, ended) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(89 * DAY)));
    assert_eq!(process.service.expire(&world.log).await, Expired::default());
    assert_eq!(left(&world, account, sandbox).await, (5, 1));
    assert_eq!(free_text(&world, &process, account, &sealed).await, sandbox_wish().metadata);

    at(&world, ended.after(Millis(90 * DAY - HOUR)));
    let expired = process.service.expire(&world.log).await;
    assert_eq!((expired.sandboxes, expired.keys), (1, 1));
    // What is left of the requests says nothing.
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    assert_eq!(free_text(&world, &process, account, &sealed).await, None);
    assert!(process.view(&world, |directory| directory.sandboxes.get(sandbox).is_none()).await);
    assert_eq!(process.service.expire(&world.log).await, Expired::default(), "once");
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
    let expired = process.service.expire(&world.log).await;
    assert_eq!((expired.sandboxes, expired.keys), (1, 1));
    assert_eq!((left(&world, account, old).await, left(&world, account, young).await), ((0, 1), (5, 1)));
    assert_eq!(free_text(&world, &process, account, &sealed).await, sandbox_wish().metadata);
    agreed(&world, &process).await;
}

#[tokio::test]
async fn the_free_text_of_each_day_goes_on_its_90th_day_and_the_master_key_is_rotated_after_it() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (_, old, _) = lived(&world, &process, account).await;
    let begun = world.time();
    world.pass(Millis(2 * DAY));
    let (_, young, _) = lived(&world, &process, account).await;
    at(&world, begun.after(Millis(91 * DAY)));
    assert_eq!(process.service.expire(&world.log).await.keys, 1);
    assert_eq!(free_text(&world, &process, account, &old).await, None);
    assert_eq!(free_text(&world, &process, account, &young).await, sandbox_wish().metadata);
    // Copies of the wrapped key open until then.
    assert!(process.view(&world, |directory| directory.erasures.are_open()).await);
    world.pass(Millis(DAY));
    assert!(process.service.rotate_if_due().await.expect("it can").is_some());
    assert!(!process.view(&world, |directory| directory.erasures.are_open()).await);
    agreed(&world, &process).await;
}

/// A reading of a sandbox that its host dates `observed_at` and writes down now.
async fn read(world: &World, account: AccountId, sandbox: SandboxId, period: u32, observed_at: Timestamp) {
    let kind = SubjectKind::Usage(Slot::of(observed_at), account, sandbox);
    let meter = Meter { wall: Millis(u64::from(period)), ..Meter::default() };
    world.as_worker(kind, UsageMetered { period, observed_at, meter }).await;
}

#[tokio::test]
async fn a_reading_is_as_old_as_its_making_and_no_clock_makes_it_younger() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, _, ended) = lived(&world, &process, account).await;
    // Written down ten days late, and by a clock that was a year ahead.
    at(&world, ended.after(Millis(10 * DAY)));
    read(&world, account, sandbox, 3, ended).await;
    let ahead = ended.after(Millis(365 * DAY));
    at(&world, ahead);
    read(&world, account, sandbox, 4, ahead).await;
    at(&world, ended.after(Millis(89 * DAY)));
    assert_eq!(process.service.expire(&world.log).await.records, 0);
    at(&world, ended.after(Millis(100 * DAY)));
    process.service.expire(&world.log).await;
    assert_eq!(left(&world, account, sandbox).await.0, 0);
    agreed(&world, &process).await;
}

#[tokio::test]
async fn a_log_whose_week_comes_again_loses_what_is_of_the_old_one_alone() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (old, _, ended) = lived(&world, &process, account).await;
    // Nobody removed anything for fourteen weeks.
    at(&world, ended.after(Millis(14 * 7 * DAY)));
    let (young, ..) = lived(&world, &process, account).await;
    assert_eq!(Slot::of(ended), Slot::of(world.time()));
    assert_eq!(process.service.expire(&world.log).await.failures, 0);
    assert_eq!((left(&world, account, old).await, left(&world, account, young).await), ((0, 1), (5, 1)));
    agreed(&world, &process).await;
    // Once it is old as well, and its week is over, the whole log goes.
    world.pass(Millis(91 * DAY));
    process.service.expire(&world.log).await;
    let log = Log::Usage(Slot::of(ended));
    let kept = read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory");
    assert!(kept.is_empty(), "{kept:?}");
    agreed(&world, &process).await;
}

#[tokio::test]
async fn meters_that_need_many_tombstones_hold_up_no_life() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let begun = world.time();
    // Four long ones, and a short one after them that takes them with it while most of their readings are young.
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(started(&world, &process, account).await);
    }
    let (short, _, ended) = lived(&world, &process, account).await;
    for period in 1..=READINGS {
        world.pass(Millis(DAY / u64::from(READINGS)));
        for sandbox in &long {
            read(&world, account, *sandbox, period, world.time()).await;
        }
    }
    for sandbox in &long {
        let (reason, stopped_at, meter) = (StopReason::TimedOut, world.time(), Meter::default());
        let stopped = SandboxStopped { reason, stopped_at, meter, teardown: Millis(1) };
        world.as_worker(SubjectKind::Sandbox(account, *sandbox), stopped).await;
    }
    process.view(&world, |_| ()).await;
    at(&world, ended.after(Millis(90 * DAY - HOUR)));
    let expired = process.service.expire(&world.log).await;
    assert_eq!((expired.sandboxes, expired.failures), (5, 0));
    for sandbox in long.into_iter().chain([short]) {
        assert_eq!(left(&world, account, sandbox).await.0, 0, "since {begun:?}");
    }
    agreed(&world, &process).await;
}

/// Readings of each of four sandboxes: together their tombstones are larger than a record may be.
const READINGS: u32 = 16_000;

/// A sandbox that runs from now on.
async fn started(world: &World, process: &Process, account: AccountId) -> SandboxId {
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let subject = SubjectKind::Sandbox(account, sandbox);
    world.as_worker(subject, SandboxClaimed { host: HOST }).await;
    let (started_at, digest, from) = (world.time(), Digest([0; 32]), StartedFrom::Boot);
    let end_at = started_at.after(Millis(DAY));
    world.as_worker(subject, SandboxStarted { started_at, end_at, from, root: digest, kernel: digest }).await;
    sandbox
}

/// Removes nothing of one account.
struct BrokenFor(AccountId, omnirun_events::log::memory::MemoryLog);

#[async_trait]
impl Erase for BrokenFor {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        match subject.kind().account() == Some(self.0) {
            true => Err(EraseError { log: subject.log(), source: "unplugged".into() }),
            false => self.1.purge_through(subject, through).await,
        }
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        self.1.purge_all(log, filter).await
    }
}

#[tokio::test]
async fn an_account_that_cannot_be_done_holds_up_no_other() {
    let world = World::new().await;
    let process = world.process().await;
    let mut accounts = Vec::new();
    for email in ["a@example.org", "b@example.org", "c@example.org"] {
        let account = world.sign_in(&process, email).await;
        accounts.push((account, lived(&world, &process, account).await));
    }
    // The first that a run comes to.
    accounts.sort_by_key(|(account, _)| *account);
    let ended = world.time();
    at(&world, ended.after(Millis(91 * DAY)));
    let expired = process.service.expire(&BrokenFor(accounts[0].0, world.log.clone())).await;
    assert!(expired.sandboxes == 2 && expired.failures > 0, "{expired:?}");
    for (account, (sandbox, ..)) in &accounts[1..] {
        assert_eq!(left(&world, *account, *sandbox).await, (0, 1));
    }
}

/// What an operator's command comes to.
async fn as_operator(world: &World, process: &Process, command: Command) -> Result<Outcome, Code> {
    let envelope = Envelope { actor: Actor::Operator, ..world.envelope(command) };
    process.send(envelope).await.map(|reply| reply.outcome).map_err(|rejection| rejection.code)
}

#[tokio::test]
async fn an_operator_has_exactly_that_removed_which_a_plan_showed() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (sandbox, _, ended) = lived(&world, &process, account).await;
    at(&world, ended.after(Millis(91 * DAY)));
    let plan = async || match as_operator(&world, &process, Command::PlanRetention).await {
        Ok(Outcome::RetentionPlanned(plan)) => plan,
        other => panic!("{other:?}"),
    };
    let first = plan().await;
    assert_eq!((first.sandboxes, first.keys, first.records.iter().map(|of| of.1).sum::<u64>()), (1, 1, 6));
    world.pass(Millis(1000));
    assert_eq!(plan().await, first, "it is the same for an hour");
    assert_eq!(left(&world, account, sandbox).await, (5, 1), "a plan removes nothing");

    let apply = async |plan| as_operator(&world, &process, Command::ApplyRetention { plan }).await;
    assert_eq!(apply(Digest([7; 32])).await.expect_err("of nothing"), Code::Invalid);
    let gateway = world.envelope(Command::ApplyRetention { plan: first.hash });
    assert_eq!(process.send(gateway).await.expect_err("no operator").code, Code::NotFound);
    assert_eq!(left(&world, account, sandbox).await, (5, 1));
    let applied = apply(first.hash).await.expect("it is what goes");
    assert!(matches!(applied, Outcome::RetentionApplied { sandboxes: 1, keys: 1, .. }), "{applied:?}");
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    assert_eq!(apply(first.hash).await.expect_err("it has gone"), Code::Invalid);
    assert_eq!((plan().await.sandboxes, plan().await.keys), (0, 0));
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
        assert!(process.service.expire(&Broken).await.failures > 0);
    }
    agreed(&world, &process).await;
    assert!(left(&world, account, sandbox).await.0 > 0, "nothing was removed yet");
    let again = world.process().await;
    again.service.sweep(&world.log).await.expect("it can");
    again.service.expire(&world.log).await;
    assert_eq!(left(&world, account, sandbox).await, (0, 1));
    agreed(&world, &again).await;
    assert_eq!(again.service.sweep(&world.log).await.expect("it can"), 0);
}
