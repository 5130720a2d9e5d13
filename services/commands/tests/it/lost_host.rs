//! A host that is given up, by an operator or by its silence: its sandboxes end, each billed to its last reading, and it has no word on them any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use omnirun_commands::Parts;
use omnirun_commands::failure::Failure;
use omnirun_commands::leases::Leases;
use omnirun_commands_api::{Code, Command, Envelope, Outcome};
use omnirun_events::envelope::Actor;
use omnirun_events::host::LEASE;
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Cursor, ReadError};
use omnirun_events::sandbox::*;
use omnirun_events::signing::Signer;
use omnirun_events::subject::Slot;
use omnirun_events::unit::MebibyteSeconds;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use omnirun_projections::hosts::LostBy;
use omnirun_projections::sandboxes::State;

use crate::support::*;

fn lose(world: &World, host: HostId) -> Envelope {
    let (operator, reason) = ("night shift".to_owned(), "rack 7 burned".to_owned());
    Envelope { actor: Actor::Operator, ..world.envelope(Command::LoseHost { host, operator, reason }) }
}

async fn claimed(world: &World, process: &Process, account: AccountId) -> SandboxId {
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    world.as_worker(SubjectKind::Sandbox(account, sandbox), SandboxClaimed { host: HOST }).await;
    sandbox
}

async fn meter(world: &World, account: AccountId, sandbox: SandboxId, period: u32) -> Meter {
    let wall = Millis(u64::from(period) * 60_000);
    let meter = Meter { wall, memory: MebibyteSeconds(512 * 60 * u64::from(period)), ..Meter::default() };
    let reading = UsageMetered { period, observed_at: world.time(), meter };
    world.as_worker(SubjectKind::Usage(Slot::of(world.time()), account, sandbox), reading).await;
    meter
}

#[tokio::test]
async fn the_sandboxes_of_a_lost_host_end_with_what_was_metered_and_give_back_the_rest() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (ran, never) = (claimed(&world, &process, account).await, claimed(&world, &process, account).await);
    let digest = Digest([0; 32]);
    let started = SandboxStarted {
        started_at: world.time(),
        end_at: world.time().after(Millis(300_000)),
        from: StartedFrom::Boot,
        root: digest,
        kernel: digest,
    };
    world.as_worker(SubjectKind::Sandbox(account, ran), started).await;
    meter(&world, account, ran, 1).await;
    world.pass(Millis(60_000));
    let last = meter(&world, account, ran, 2).await;
    let metered_at = world.time();
    // Twenty days until somebody notices: other slots have begun.
    world.pass(Millis(20 * 24 * 3_600_000));
    let wish = lose(&world, HOST);
    let reply = process.send(wish.clone()).await.expect("an operator may");
    assert!(matches!(reply.outcome, Outcome::HostLost { ended: 2 }), "{reply:?}");
    process
        .view(&world, |directory| {
            let one = directory.sandboxes.get(ran).expect("known");
            assert_eq!(one.state, State::Stopped(StopReason::HostLost));
            assert_eq!((one.meter, one.ended_at), (Some(last), Some(metered_at)));
            assert_eq!(one.charged().0, 120_000);
            let other = directory.sandboxes.get(never).expect("known");
            assert_eq!((other.meter, other.charged().0), (Some(Meter::default()), 0));
            assert_eq!(directory.sandboxes.live_of(account), 0);
            assert!(directory.hosts.present().next().is_none());
        })
        .await;
    let head = world.log.head(Log::Events).await.expect("memory");
    let again = process.send(wish).await.expect("twice is once");
    assert!(matches!(again.outcome, Outcome::HostLost { ended: 0 }), "{again:?}");
    process.send(lose(&world, HOST)).await.expect("it is lost already");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
}

#[tokio::test]
async fn a_copy_of_another_sandboxs_reading_is_no_reading_of_this_one() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (one, other) = (claimed(&world, &process, account).await, claimed(&world, &process, account).await);
    let last = meter(&world, account, one, 1).await;
    meter(&world, account, other, 9).await;
    let meter_of = |sandbox| Subject::from(SubjectKind::Usage(Slot::of(world.time()), account, sandbox));
    let copy = world.log.last(&meter_of(other)).await.expect("memory").expect("it was metered").record;
    let expected = world.log.last(&meter_of(one)).await.expect("memory").expect("it was metered").sequence;
    let entry =
        Entry { subject: meter_of(one), expected, commit: CommitId::from_bytes([98; 16]), record: copy };
    world.log.append_all(Batch::one(entry)).await.expect("nobody else writes there");
    process.send(lose(&world, HOST)).await.expect("an operator may");
    let billed =
        process.view(&world, |directory| directory.sandboxes.get(one).and_then(|one| one.meter)).await;
    assert_eq!(billed, Some(last));
}

#[tokio::test]
async fn a_host_that_claimed_and_never_joined_is_given_up_like_any_other() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (stranger, host) = (Signer::from_seed(&[77; 32], Role::Worker), HostId::from_bytes([78; 16]));
    let (key, public) = (stranger.id(), stranger.public());
    let enrolled = KeyEnrolled { key, public, role: Role::Worker, host: Some(host) };
    world.append(&world.root, Actor::Operator, SubjectKind::KeyRing, enrolled).await;
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let subject = SubjectKind::Sandbox(account, sandbox);
    world.append(&stranger, Actor::Host(host), subject, SandboxClaimed { host }).await;
    let mut leases = Leases::of(LEASE);
    minute(&world, &process, &mut leases).await.expect("it looks");
    for _ in 0..LEASE.0 / MINUTE.0 - 1 {
        assert_eq!(minute(&world, &process, &mut leases).await, Ok(0));
    }
    assert_eq!(minute(&world, &process, &mut leases).await, Ok(1));
    assert_eq!(process.service.end_lost().await, Ok(1));
}

#[tokio::test]
async fn what_was_broken_off_goes_on_in_the_next_look() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let sandbox = claimed(&world, &process, account).await;
    let lost = omnirun_events::host::HostLost { operator: "o".to_owned(), reason: "r".to_owned() };
    let commands = Actor::System(Role::Commands);
    world.append(&commands_signer(), commands, SubjectKind::Host(HOST), lost).await;
    process.view(&world, |_| ()).await;
    assert_eq!(process.service.end_lost().await, Ok(1));
    assert_eq!(process.service.end_lost().await, Ok(0));
    let state = process.view(&world, |directory| directory.sandboxes.get(sandbox).map(|one| one.state)).await;
    assert_eq!(state, Some(State::Stopped(StopReason::HostLost)));
}

#[tokio::test]
async fn only_an_operator_who_says_why_gives_up_a_host_that_there_is() {
    let world = World::new().await;
    let process = world.process().await;
    let check = async |envelope: Envelope, code| {
        assert_eq!(process.send(envelope).await.expect_err("refused").code, code);
    };
    check(Envelope { actor: Actor::System(Role::Gateway), ..lose(&world, HOST) }, Code::NotFound).await;
    check(lose(&world, HostId::from_bytes([77; 16])), Code::NotFound).await;
    let command = Command::LoseHost { host: HOST, operator: "o".to_owned(), reason: " ".to_owned() };
    check(Envelope { actor: Actor::Operator, ..world.envelope(command) }, Code::Invalid).await;
}

/// The log, which can be out of reach.
struct Away {
    log: MemoryLog,
    is_away: Arc<AtomicBool>,
}

impl Away {
    fn check(&self, log: Log) -> Result<(), ReadError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(ReadError::Unavailable { log, source: "it is away".into() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Read for Away {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        self.check(log)?;
        self.log.read(log, filter, after).await
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.check(log)?;
        self.log.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.check(subject.log())?;
        self.log.last(subject).await
    }
}

const MINUTE: Millis = Millis(60_000);

/// One minute later, by every clock.
async fn minute(world: &World, process: &Process, leases: &mut Leases) -> Result<usize, Failure> {
    world.pass(MINUTE);
    process.service.give_up_silent(leases, world.time().since(START)).await
}

#[tokio::test]
async fn a_host_that_says_nothing_for_a_lease_is_given_up_and_its_sandboxes_end_with_what_was_metered() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let sandbox = claimed(&world, &process, account).await;
    let mut leases = Leases::of(LEASE);
    for period in 1..=30 {
        meter(&world, account, sandbox, period).await;
        assert_eq!(minute(&world, &process, &mut leases).await, Ok(0), "it was heard");
    }
    let (last, metered_at) = (meter(&world, account, sandbox, 31).await, world.time());
    for _ in 0..LEASE.0 / MINUTE.0 {
        assert_eq!(minute(&world, &process, &mut leases).await, Ok(0), "its lease runs");
    }
    assert_eq!(minute(&world, &process, &mut leases).await, Ok(1));
    assert_eq!(process.service.end_lost().await, Ok(1));
    process
        .view(&world, |directory| {
            let one = directory.sandboxes.get(sandbox).expect("known");
            assert_eq!(one.state, State::Stopped(StopReason::HostLost));
            assert_eq!((one.meter, one.ended_at), (Some(last), Some(metered_at)));
            assert_eq!(directory.hosts.lost(HOST), Some(LostBy::Lease));
        })
        .await;
    let head = world.log.head(Log::Events).await.expect("memory");
    assert_eq!(minute(&world, &process, &mut leases).await, Ok(0), "it has nothing to lose any more");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    process.send(lose(&world, HOST)).await.expect("an operator may give it up for good");
    let lost = process.view(&world, |directory| directory.hosts.lost(HOST)).await;
    assert_eq!(lost, Some(LostBy::Operator));
}

#[tokio::test]
async fn two_services_give_up_a_host_once() {
    let world = World::new().await;
    let (one, two) = (world.process().await, world.process().await);
    let account = world.sign_in(&one, "a@example.org").await;
    claimed(&world, &one, account).await;
    let (mut first, mut second) = (Leases::of(LEASE), Leases::of(LEASE));
    for _ in 0..=LEASE.0 / MINUTE.0 {
        minute(&world, &one, &mut first).await.expect("it looks");
        let now = world.time().since(START);
        two.service.give_up_silent(&mut second, now).await.expect("it looks");
    }
    let host = Filter::exactly(&SubjectKind::Host(HOST).into());
    let records = log::read_to_end(&world.log, Log::Events, host, Sequence::NONE).await.expect("memory");
    assert_eq!(records.len(), 2, "it joined, and it was given up");
}

#[tokio::test]
async fn a_service_that_could_not_see_the_log_gives_every_host_a_whole_lease() {
    let world = World::new().await;
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Away { log: world.log.clone(), is_away: is_away.clone() };
    let process = world.process_of(|parts| Parts { reader: Arc::new(away), ..parts }).await;
    let account = world.sign_in(&process, "a@example.org").await;
    claimed(&world, &process, account).await;
    let mut leases = Leases::of(LEASE);
    for _ in 0..LEASE.0 / MINUTE.0 {
        assert_eq!(minute(&world, &process, &mut leases).await, Ok(0));
    }
    is_away.store(true, Ordering::SeqCst);
    assert!(minute(&world, &process, &mut leases).await.is_err());
    is_away.store(false, Ordering::SeqCst);
    for _ in 0..LEASE.0 / MINUTE.0 {
        assert_eq!(minute(&world, &process, &mut leases).await, Ok(0));
    }
    assert_eq!(minute(&world, &process, &mut leases).await, Ok(1));
}
