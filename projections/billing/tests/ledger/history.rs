//! Made-up histories of sandboxes on hosts that die, repeat themselves, report late and have clocks that step; and a projector that
//! closes statements meanwhile.

use omnirun_billing::calendar::Date;
use omnirun_billing::due::statement_due;
use omnirun_billing::{Billing, Plans};
use omnirun_events::account::AccountOpened;
use omnirun_events::event::Event;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::unit::*;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{AccountId, Actor, CommitId, Role, SandboxId, Sequence, Subject};
use omnirun_projections::{Fact, Fold as _};
use proptest::prelude::*;

pub const DAY: u64 = 24 * 3_600_000;
const HOUR: u64 = 3_600_000;
/// Micro-cents for each second above the included ones.
pub const PRICE: u64 = 1_389;
pub const INCLUDED_SECONDS: u64 = 20 * 3600;
/// Days that a history lasts.
const DAYS: u64 = 100;

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chaos {
    /// Readings arrive up to 48 hours late and more than once; hosts die.
    Late,
    /// Readings arrive up to 12 days late, and clocks of hosts are wrong by up to a day.
    Anything,
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub account: u8,
    /// After the beginning, in milliseconds.
    pub start: u64,
    pub length: u64,
    pub vcpus: u8,
    pub memory: u32,
    pub every: u64,
    /// Readings that were made before the host died; none if it lived.
    pub dies_after: Option<u64>,
    /// What each reading arrives late, in turns; 0 leaves it on time.
    pub late: Vec<u64>,
    /// What the host's clock is ahead of time at each reading, in turns, less a day.
    pub clock: Vec<u64>,
    /// Every so many readings are sent twice.
    pub again: usize,
    /// When it is paused, after its start, and for how long.
    pub pause: Option<(u64, u64)>,
}

#[derive(Debug, Clone)]
pub struct History {
    pub sandboxes: Vec<Sandbox>,
    /// Time between two looks of the projector.
    pub look_every: u64,
}

/// An event that is stored at some time.
#[derive(Debug, Clone)]
pub struct Step {
    pub at: u64,
    pub kind: SubjectKind,
    pub event: Event,
}

/// A reading, as a rebuild would filter it.
pub struct Reading {
    pub account: AccountId,
    pub observed_at: Timestamp,
}

pub fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n + 1; 16])
}

/// When the first sandbox may start.
pub fn begin() -> Timestamp {
    Date { year: 2027, month: 1, day: 1 }.start()
}

/// Accounts that a history is about. One was opened on a day that not every month has.
pub const ACCOUNTS: u8 = 3;

fn opened(account: u8) -> Timestamp {
    Date { year: 2026, month: 12, day: [1, 17, 31][usize::from(account)] }.start()
}

impl Sandbox {
    pub fn plain() -> Self {
        Self {
            account: 0,
            start: 0,
            length: HOUR,
            vcpus: 1,
            memory: 512,
            every: HOUR,
            dies_after: None,
            late: vec![0],
            clock: vec![DAY],
            again: usize::MAX,
            pause: None,
        }
    }

    pub fn shape(&self) -> Shape {
        Shape { vcpus: Vcpus(self.vcpus), memory: Mebibytes(self.memory) }
    }

    /// Moment by the host's clock, and what the meter said, of each reading that was made; the last one is that of its end.
    pub fn readings(&self) -> Vec<(Timestamp, Meter)> {
        self.true_readings()
            .into_iter()
            .enumerate()
            .map(|(n, (at, meter))| (self.clock_at(n, at), meter))
            .collect()
    }

    fn true_readings(&self) -> Vec<(u64, Meter)> {
        let of = |n: u64| (n * self.every).min(self.length);
        let count = self.length.div_ceil(self.every).min(self.dies_after.unwrap_or(u64::MAX));
        (1..=count).map(|n| (self.start + of(n), self.meter(of(n)))).collect()
    }

    /// What the meter says so long after its start.
    fn meter(&self, after: u64) -> Meter {
        let paused = self.pause.map_or(0, |(from, length)| after.saturating_sub(from).min(length));
        Meter {
            wall: Millis(after - paused),
            memory: MebibyteSeconds(after * u64::from(self.memory) / 1000),
            ..Meter::default()
        }
    }

    /// What happens to it between its request and its end, each at some time.
    fn pausing(&self, id: SandboxId) -> Vec<(u64, SubjectKind, Event)> {
        let Some((from, length)) = self.pause else { return Vec::new() };
        let account = account(self.account);
        let at = |after: u64| begin().after(Millis(self.start + after));
        let (meter, end_at) = (self.meter(from), at(self.length));
        let paused = SandboxPaused { paused_at: at(from), end_at, meter };
        let mut events = vec![(self.start + from, SubjectKind::Sandbox(account, id), paused.clone().into())];
        if from + length < self.length {
            let used = paused.used(self.shape()).plus(self.shape().paused(Millis(length)));
            let rest = Millis(self.length - from - length);
            let reserved = self.shape().charge(used.plus(rest));
            let resumed = SandboxResumed { sandbox: id, end_at, reserved };
            events.push((self.start + from + length, SubjectKind::Admission(account), resumed.into()));
        }
        events
    }

    fn clock_at(&self, n: usize, at: u64) -> Timestamp {
        Timestamp((begin().0 + at + self.clock[n % self.clock.len()]).saturating_sub(DAY))
    }

    /// What its meter said last, as far as anybody knows.
    pub fn ran(&self) -> Meter {
        self.true_readings().last().map_or(Meter::default(), |(_, meter)| *meter)
    }

    fn steps(&self, index: usize, steps: &mut Vec<Step>) {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(index as u64 + 1).to_be_bytes());
        let (account, id) = (account(self.account), SandboxId::from_bytes(id));
        let requested = SandboxRequested {
            sandbox: id,
            template: "base".to_owned(),
            shape: self.shape(),
            timeout: Seconds(60),
            reserved: self.shape().charge(Millis(self.length)),
            deadline: Timestamp(0),
            network: Network::Off,
            metadata: None,
        };
        steps.push(Step { at: self.start, kind: SubjectKind::Admission(account), event: requested.into() });
        steps.extend(self.pausing(id).into_iter().map(|(at, kind, event)| Step { at, kind, event }));
        let readings = self.true_readings();
        for (n, (at, meter)) in readings.iter().enumerate() {
            let late = self.late[n % self.late.len()];
            let observed_at = self.clock_at(n, *at);
            let meter = *meter;
            let kind = SubjectKind::Usage(Slot::of(observed_at), account, id);
            let metered = UsageMetered { period: n as u32 + 1, observed_at, meter };
            let step = Step { at: at + late, kind, event: metered.into() };
            if (n + 1) % self.again == 0 {
                steps.push(Step { at: step.at + 777, ..step.clone() });
            }
            steps.push(step);
            if n + 1 == readings.len() && self.dies_after.is_none() {
                let stopped = SandboxStopped {
                    reason: StopReason::TimedOut,
                    stopped_at: observed_at,
                    meter,
                    teardown: Millis(1),
                };
                let kind = SubjectKind::Sandbox(account, id);
                steps.push(Step { at: at + late + 1, kind, event: stopped.into() });
            }
        }
    }
}

impl History {
    pub fn empty() -> Self {
        Self { sandboxes: Vec::new(), look_every: 6 * HOUR }
    }

    pub fn plans(&self) -> Plans {
        let text = format!(
            "start = \"test\"\n[plan.test]\nconcurrency = 1\ncreations_per_minute = 1\nsession_seconds_max = 86400\n\
             vcpus_max = 8\nmemory_mib_max = 65536\n[[plan.test.price]]\nfrom = \"2026-01-01\"\nmonth = 1000\nyear = 0\n\
             hours_included = {}\noverage_per_hour = {}\n",
            INCLUDED_SECONDS / 3600,
            PRICE * 3600
        );
        Plans::parse(&text).expect("valid")
    }

    pub fn opened(&self, account: u8) -> Timestamp {
        opened(account)
    }

    pub fn end(&self) -> Timestamp {
        begin().after(Millis(DAYS * DAY))
    }

    /// The state that a process has which was there all the time.
    pub fn live(&self) -> Billing {
        self.run().0
    }

    /// The state at some moment.
    pub fn until(&self, now: Timestamp) -> Billing {
        let steps: Vec<_> = self.run().1.into_iter().filter(|step| step.at + begin().0 <= now.0).collect();
        fold(Billing::default(), &steps)
    }

    /// Everything in the order in which it was stored, with the statements that were closed meanwhile.
    pub fn run(&self) -> (Billing, Vec<Step>) {
        let mut steps = Vec::new();
        self.sandboxes.iter().enumerate().for_each(|(index, sandbox)| sandbox.steps(index, &mut steps));
        // Stable: what happens at one moment stays in order.
        steps.sort_by_key(|step| step.at);
        let (mut state, mut stored) = (Billing::default(), Vec::new());
        let mut store = |state: &mut Billing, step: Step| {
            *state = fold(std::mem::take(state), std::slice::from_ref(&step));
            stored.push(step);
        };
        for n in 0..ACCOUNTS {
            let email = Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: vec![1] };
            let opened = AccountOpened { email, plan: "test".to_owned() }.into();
            store(&mut state, Step { at: 0, kind: SubjectKind::Account(account(n)), event: opened });
        }
        let mut steps = steps.into_iter().peekable();
        let plans = self.plans();
        for look in (0..=DAYS * DAY).step_by(self.look_every as usize) {
            while let Some(step) = steps.next_if(|step| step.at <= look) {
                store(&mut state, step);
            }
            for n in 0..ACCOUNTS {
                let now = begin().after(Millis(look));
                let due = |state: &Billing| {
                    let ledger = state.of(account(n)).expect("it was opened");
                    statement_due(ledger, &plans, now).expect("one plan")
                };
                while let Some(due) = due(&state) {
                    let kind = SubjectKind::Billing(account(n));
                    store(&mut state, Step { at: look, kind, event: due.into() });
                }
            }
        }
        steps.for_each(|step| store(&mut state, step));
        (state, stored)
    }

    /// EVENTS from the beginning, then the usage logs one after the other, of these what `wanted` takes.
    pub fn replayed(&self, wanted: impl Fn(&Reading) -> bool) -> Billing {
        let steps = self.run().1;
        let (events, mut usage): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| !matches!(step.kind, SubjectKind::Usage(..)));
        usage.retain(|step| match (&step.kind, &step.event) {
            (SubjectKind::Usage(_, account, _), Event::UsageMetered(metered)) => {
                wanted(&Reading { account: *account, observed_at: metered.observed_at })
            }
            _ => true,
        });
        usage.sort_by_key(|step| match step.kind {
            SubjectKind::Usage(slot, ..) => slot,
            _ => Slot::of(Timestamp(0)),
        });
        fold(fold(Billing::default(), &events), &usage)
    }
}

pub fn fold(mut state: Billing, steps: &[Step]) -> Billing {
    for step in steps {
        let subject = Subject::from(step.kind);
        // Accounts were opened before the history begins.
        let at = match step.kind {
            SubjectKind::Account(id) => {
                opened((0..ACCOUNTS).find(|n| account(*n) == id).expect("one of ours"))
            }
            _ => Timestamp(begin().0 + step.at),
        };
        state.apply(&Fact {
            sequence: Sequence(1),
            subject: &subject,
            kind: step.kind,
            at,
            actor: Actor::System(Role::Commands),
            commit: CommitId::from_bytes([0; 16]),
            event: &step.event,
        });
    }
    state
}

fn sandbox(chaos: Chaos) -> impl Strategy<Value = Sandbox> {
    let (late, clock) = match chaos {
        Chaos::Late => (48 * HOUR - 1000, DAY..DAY + 1),
        Chaos::Anything => (12 * DAY, 0..2 * DAY),
    };
    let ends = prop_oneof![3 => Just(None), 1 => (0..20_u64).prop_map(Some)];
    let times = (0..DAYS * DAY - 3 * DAY, prop_oneof![0..HOUR, 0..DAY], HOUR / 7..5 * HOUR);
    let shape = (1..9_u8, prop_oneof![Just(512_u32), Just(2048), Just(3000), Just(16_384)]);
    let late = prop_oneof![Just(vec![0]), prop::collection::vec(0..late, 1..6)];
    let pause = prop::option::of((0..1000_u64, 0..1500_u64));
    (0..ACCOUNTS, times, shape, ends, late, prop::collection::vec(clock, 1..5), 1..9_usize, pause).prop_map(
        |(account, (start, length, every), (vcpus, memory), dies_after, late, clock, again, pause)| Sandbox {
            account,
            start,
            length,
            vcpus,
            memory,
            every,
            dies_after,
            late,
            clock,
            again,
            pause: pause.map(|(from, part)| (length * from / 1000, length * part / 1000)),
        },
    )
}

/// Some history.
pub fn history(chaos: Chaos) -> impl Strategy<Value = History> {
    let sandboxes = prop::collection::vec(sandbox(chaos), 0..12);
    (sandboxes, HOUR..3 * DAY).prop_map(|(sandboxes, look_every)| History { sandboxes, look_every })
}
