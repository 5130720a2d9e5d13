//! The projector over a real log and real ledgers, with a commands service that writes what it is asked to without deciding.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use omnirun_billing::{Billing, Plans};
use omnirun_commands_api::{Code, Command, Commands, Envelope, Outcome, Rejection, Reply, SendError};
use omnirun_events::account::AccountOpened;
use omnirun_events::billing::SeenThrough;
use omnirun_events::envelope::{Draft, Head, Role};
use omnirun_events::keys::KeyEnrolled;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Seconds, Shape, StandardMillis};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use omnirun_projector::{Bills, Looked};
use omnirun_runner::{Follower, Source, follow};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// 2027-01-01.
const START: Timestamp = Timestamp(20_819 * DAY);
const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const SANDBOX: SandboxId = SandboxId::from_bytes([2; 16]);
const HOST: HostId = HostId::from_bytes([3; 16]);

struct World {
    log: MemoryLog,
    now: Arc<AtomicU64>,
    /// Milliseconds that each command takes.
    takes: AtomicU64,
    asked: Mutex<Vec<&'static str>>,
    refuses: Mutex<Vec<&'static str>>,
}

fn signer(role: Role) -> Signer {
    Signer::from_seed(&[role as u8 + 1; 32], role)
}

impl World {
    async fn append(&self, role: Role, kind: SubjectKind, at: Timestamp, event: impl Into<Event>) {
        let subject = Subject::from(kind);
        let last = self.log.last(&subject).await.expect("memory");
        let head = last.map_or(Head::EMPTY, |stored| {
            codec::decode(&stored.record).expect("a record").head(stored.sequence)
        });
        let actor = match role {
            Role::Worker => Actor::Host(HOST),
            _ => Actor::Operator,
        };
        let commit = CommitId::derive(&head.version.to_be_bytes(), subject.as_str());
        let draft =
            Draft { commit, subject: subject.clone(), at, actor, cause: None, events: vec![event.into()] };
        let record = signer(role).sign(&draft, &head).expect("small").bytes;
        let entry = Entry { subject, expected: head.sequence, commit, record };
        self.log.append_all(Batch::one(entry)).await.expect("one writer");
    }

    /// A world in which a sandbox ran for `hours` on the first day of January, and an account was opened on that day.
    async fn new(hours: u64) -> Arc<Self> {
        let now = Arc::new(AtomicU64::new(START.0));
        let world = Arc::new(Self {
            log: MemoryLog::default(),
            now,
            takes: AtomicU64::default(),
            asked: Mutex::default(),
            refuses: Mutex::default(),
        });
        for role in [Role::Commands, Role::Worker] {
            let (key, host) = (signer(role), (role == Role::Worker).then_some(HOST));
            let enrolled = KeyEnrolled { key: key.id(), public: key.public(), role, host };
            world.append(Role::Root, SubjectKind::KeyRing, START, enrolled).await;
        }
        let email = Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: vec![1] };
        let opened = AccountOpened { email, plan: "sandbox".to_owned() };
        world.append(Role::Commands, SubjectKind::Account(ACCOUNT), START, opened).await;
        let requested = SandboxRequested {
            sandbox: SANDBOX,
            template: "base".to_owned(),
            shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(512) },
            timeout: Seconds(60),
            reserved: StandardMillis(24 * HOUR),
            deadline: START,
            network: Network::Off,
            metadata: None,
        };
        world.append(Role::Commands, SubjectKind::Admission(ACCOUNT), START, requested).await;
        let life = SubjectKind::Sandbox(ACCOUNT, SANDBOX);
        world.append(Role::Worker, life, START, SandboxClaimed { host: HOST }).await;
        let observed_at = START.after(Millis(HOUR));
        let meter = Meter { wall: Millis(hours * HOUR), ..Meter::default() };
        let metered = UsageMetered { period: 1, observed_at, meter };
        let kind = SubjectKind::Usage(Slot::of(observed_at), ACCOUNT, SANDBOX);
        world.append(Role::Worker, kind, observed_at, metered).await;
        world
    }

    async fn ledgers(&self) -> Follower<Billing> {
        let root = signer(Role::Root).public();
        let follower = follow(Arc::new(self.log.clone()), root, Source::EventsAndUsage, None).await;
        follower.expect("a readable log")
    }

    fn bills(self: &Arc<Self>, ledgers: &Follower<Billing>) -> Bills {
        let now = self.now.clone();
        Bills {
            reader: Arc::new(self.log.clone()),
            ledgers: ledgers.live(),
            commands: Arc::new(Double(self.clone())),
            plans: Arc::new(Plans::parse(include_str!("../../../infra/plans.toml")).expect("valid")),
            clock: Arc::new(move || Timestamp(now.load(Ordering::SeqCst))),
        }
    }

    fn at(&self, moment: Timestamp) {
        self.now.store(moment.0, Ordering::SeqCst);
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

struct Double(Arc<World>);

#[async_trait]
impl Commands for Double {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let what = envelope.command.subject();
        self.0.asked.lock().expect("no panic").push(what);
        if self.0.refuses.lock().expect("no panic").contains(&what) {
            return Err(Rejection::new(Code::Busy, "not now").into());
        }
        let now = Timestamp(self.0.now.load(Ordering::SeqCst));
        if envelope.deadline <= now {
            return Err(Rejection::new(Code::DeadlinePassed, "too late").into());
        }
        self.0.now.fetch_add(self.0.takes.load(Ordering::SeqCst), Ordering::SeqCst);
        let outcome = match envelope.command {
            Command::CloseStatement { account, statement } => {
                self.0.append(Role::Commands, SubjectKind::Billing(account), now, *statement).await;
                Outcome::StatementClosed
            }
            Command::SendUsageNotice { account, noticed } => {
                self.0.append(Role::Commands, SubjectKind::Billing(account), now, noticed).await;
                Outcome::UsageNoticed
            }
            other => panic!("{}", other.subject()),
        };
        Ok(Reply { position: None, outcome })
    }
}

async fn look(bills: &Bills) -> Looked {
    tokio::time::timeout(Duration::from_secs(20), bills.look())
        .await
        .expect("soon")
        .expect("the log is there")
}

const CLOSE: &str = "cmd.billing.close_statement";
const NOTICE: &str = "cmd.billing.send_usage_notice";

#[tokio::test]
async fn a_month_is_closed_two_days_after_its_end_and_once() {
    let world = World::new(3).await;
    let ledgers = world.ledgers().await;
    let bills = world.bills(&ledgers);
    let end = START.after(Millis(31 * DAY));
    world.at(end.after(Millis(2 * DAY - 1)));
    assert_eq!((look(&bills).await, world.asked()), (Looked::default(), Vec::new()));
    world.at(end.after(Millis(2 * DAY)));
    let looked = look(&bills).await;
    assert_eq!((looked.closed, looked.behind), (1, Millis(2 * DAY)));
    assert_eq!(world.asked(), [CLOSE]);
    assert_eq!(look(&bills).await.closed, 0);
    let again = world.ledgers().await;
    assert_eq!(look(&world.bills(&again)).await.closed, 0, "another projector finds it done");
    // February used nothing and costs nothing.
    world.at(end.after(Millis(40 * DAY)));
    assert_eq!((look(&bills).await, world.asked()), (Looked::default(), Vec::new()));
}

#[tokio::test]
async fn every_command_has_its_own_time_however_long_those_before_it_took() {
    let world = World::new(3).await;
    let observed_at = START.after(Millis(31 * DAY + 13 * HOUR));
    let meter = Meter { wall: Millis(16 * HOUR), ..Meter::default() };
    let kind = SubjectKind::Usage(Slot::of(observed_at), ACCOUNT, SANDBOX);
    world.append(Role::Worker, kind, observed_at, UsageMetered { period: 2, observed_at, meter }).await;
    world.takes.store(9 * HOUR, Ordering::SeqCst);
    let ledgers = world.ledgers().await;
    world.at(START.after(Millis(33 * DAY)));
    let looked = look(&world.bills(&ledgers)).await;
    assert_eq!((looked.closed, looked.noticed, looked.refused), (1, 1, 0));
}

#[tokio::test]
async fn a_statement_says_how_far_the_logs_were_read() {
    let world = World::new(3).await;
    let ledgers = world.ledgers().await;
    world.at(START.after(Millis(33 * DAY)));
    let events = world.log.head(Log::Events).await.expect("memory");
    assert_eq!(look(&world.bills(&ledgers)).await.closed, 1);
    let last = world.log.last(&SubjectKind::Billing(ACCOUNT).into()).await.expect("memory").expect("closed");
    let record = codec::decode(&last.record).expect("a record");
    let [Event::StatementClosed(closed)] = &record.events[..] else { panic!("{:?}", record.events) };
    let usage = Log::Usage(Slot::of(START.after(Millis(HOUR))));
    assert_eq!(closed.seen, [SeenThrough(Log::Events, events), SeenThrough(usage, Sequence(1))]);
}

#[tokio::test]
async fn what_is_refused_is_asked_for_again_and_lags_meanwhile() {
    let world = World::new(3).await;
    let ledgers = world.ledgers().await;
    let bills = world.bills(&ledgers);
    let end = START.after(Millis(31 * DAY));
    world.at(end.after(Millis(35 * DAY)));
    world.refuses.lock().expect("no panic").push(CLOSE);
    let looked = look(&bills).await;
    assert_eq!((looked.closed, looked.refused, looked.behind), (0, 1, Millis(35 * DAY)));
    world.refuses.lock().expect("no panic").clear();
    assert_eq!(look(&bills).await.closed, 1);
}

#[tokio::test]
async fn the_highest_percentage_is_told_once_a_month() {
    // 20 of 25 hours are 80 %.
    let world = World::new(20).await;
    let ledgers = world.ledgers().await;
    let bills = world.bills(&ledgers);
    world.at(START.after(Millis(DAY)));
    assert_eq!((look(&bills).await.noticed, world.asked()), (1, vec![NOTICE]));
    assert_eq!((look(&bills).await.noticed, world.asked()), (0, Vec::new()));
}
