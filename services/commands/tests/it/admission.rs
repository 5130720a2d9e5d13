//! Admission over made-up histories: whatever is asked for, extended, paused, resumed, started, stopped, failed or lost, in whatever order,
//! asked again or told late, no limit of the plan is ever exceeded, and what admission charges is what the bill says. Each decision sees what
//! was decided before it, as the log's expectations see to; races are in [`crate::races`].

use std::collections::BTreeMap;

use omnirun_billing::{Billing, Ledger, Period, Plans};
use omnirun_commands::decide::repeat::Recorded;
use omnirun_commands::decide::{Decision, extend, pause, request, resume};
use omnirun_commands_api::Rejection;
use omnirun_commands_api::command::SandboxWish;
use omnirun_events::account::AccountOpened;
use omnirun_events::event::Event;
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::unit::{MebibyteSeconds, Seconds, Shape, StandardMillis};
use omnirun_events::usage::Meter;
use omnirun_events::*;
use omnirun_projections::sandboxes::{Sandbox, State};
use omnirun_projections::{Directory, Fact, Fold as _};
use proptest::prelude::*;

use crate::deciders::{ACCOUNT, HOUR, known, plain, wish};
use crate::support::{HOST, START};

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Request {
        vcpus: u8,
        timeout: u32,
    },
    Extend {
        which: prop::sample::Index,
        timeout: u32,
    },
    Start(prop::sample::Index),
    Pause(prop::sample::Index),
    /// The host says that it is paused.
    Stand(prop::sample::Index),
    Resume(prop::sample::Index),
    /// It ends, and its host says so.
    Stop(prop::sample::Index),
    Fail(prop::sample::Index),
    /// The last command is sent once more.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0..3 * HOUR).prop_map(Step::Pass),
        (0..20_000_u64).prop_map(Step::Pass),
        (0..900_000_u64).prop_map(Step::Pass),
        (1..4_u8, 0..4000_u32).prop_map(|(vcpus, timeout)| Step::Request { vcpus, timeout }),
        (1..3_u8, 3000..3600_u32).prop_map(|(vcpus, timeout)| Step::Request { vcpus, timeout }),
        (index(), 0..4000_u32).prop_map(|(which, timeout)| Step::Extend { which, timeout }),
        index().prop_map(Step::Start),
        index().prop_map(Step::Pause),
        index().prop_map(Step::Stand),
        index().prop_map(Step::Resume),
        index().prop_map(Step::Stop),
        index().prop_map(Step::Fail),
        Just(Step::Again),
    ]
}

fn plans() -> Plans {
    let text = include_str!("../../../../infra/plans.toml");
    let text = text.replacen("concurrency = 20", "concurrency = 4", 1);
    let text = text.replacen("creations_per_minute = 120", "creations_per_minute = 3", 1);
    Plans::parse(&text.replacen("hours_included = 25", "hours_included = 6", 1)).expect("valid")
}

/// A guest as it really is.
#[derive(Clone, Copy)]
struct Guest {
    started: Timestamp,
    /// Pauses that are over.
    paused: Millis,
    paused_since: Option<Timestamp>,
}

impl Guest {
    /// What its meter says.
    fn meter(&self, shape: Shape, now: Timestamp) -> Meter {
        let standing = self.paused_since.map_or(Millis::ZERO, |since| now.since(since));
        let age = now.since(self.started);
        let wall = age.minus(self.paused.plus(standing));
        let memory = MebibyteSeconds(u64::from(shape.memory.0) * age.0 / 1000);
        Meter { wall, memory, ..Meter::default() }
    }
}

struct World {
    directory: Directory,
    billing: Billing,
    guests: BTreeMap<SandboxId, Guest>,
    now: Timestamp,
    wishes: u8,
    last: Option<(u8, Step)>,
}

impl World {
    fn new() -> Self {
        let email = Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: vec![0; 20] };
        let opened = AccountOpened { email, plan: "sandbox".to_owned() };
        let mut world = Self {
            directory: known(),
            billing: Billing::default(),
            guests: BTreeMap::new(),
            now: START,
            wishes: 0,
            last: None,
        };
        world.say(SubjectKind::Account(ACCOUNT), CommitId::from_bytes([0; 16]), &opened.into());
        world
    }

    fn say(&mut self, kind: SubjectKind, commit: CommitId, event: &Event) {
        let subject = Subject::from(kind);
        let actor = Actor::System(Role::Commands);
        let (sequence, at) = (Sequence(1), self.now);
        let fact = Fact { sequence, subject: &subject, kind, at, actor, commit, event };
        self.directory.apply(&fact);
        self.billing.apply(&fact);
    }

    fn tell(&mut self, id: SandboxId, event: impl Into<Event>) {
        self.say(SubjectKind::Sandbox(ACCOUNT, id), CommitId::from_bytes([0; 16]), &event.into());
    }

    fn write(&mut self, decision: Result<Decision, Rejection>) {
        let Ok(decision) = decision else { return };
        for draft in decision.drafts() {
            for event in &draft.events {
                self.say(draft.subject.kind(), draft.commit, event);
            }
        }
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<(SandboxId, Sandbox)> {
        let all: Vec<_> = self.directory.sandboxes.of(ACCOUNT).map(|(id, one)| (id, one.clone())).collect();
        (!all.is_empty()).then(|| all[index.index(all.len())].clone())
    }

    fn take(&mut self, plans: &Plans, step: &Step) {
        match step {
            Step::Again => {
                if let Some((n, last)) = self.last.clone() {
                    self.ask(plans, n, &last);
                }
            }
            Step::Pass(time) => self.now = self.now.after(Millis(*time)),
            Step::Request { .. } | Step::Extend { .. } | Step::Pause(_) | Step::Resume(_) => {
                self.wishes = self.wishes.wrapping_add(1);
                self.last = Some((self.wishes, step.clone()));
                self.ask(plans, self.wishes, step);
            }
            Step::Start(which) => self.start(which),
            Step::Stand(which) => self.stand(which),
            Step::Stop(which) => {
                let found = self.pick(which);
                found
                    .filter(|(id, _)| self.guests.contains_key(id))
                    .into_iter()
                    .for_each(|(id, _)| self.stop(id));
            }
            Step::Fail(which) => {
                let Some((id, Sandbox { state: State::Requested, .. })) = self.pick(which) else { return };
                self.tell(id, SandboxFailed { reason: FailReason::NoCapacity });
            }
        }
        // A guest goes on as soon as its sandbox is resumed.
        for (id, guest) in &mut self.guests {
            if self.directory.sandboxes.get(*id).is_some_and(|one| one.state == State::Running)
                && let Some(since) = guest.paused_since.take()
            {
                guest.paused = guest.paused.plus(self.now.since(since));
            }
        }
    }

    fn ask(&mut self, plans: &Plans, n: u8, step: &Step) {
        let wish = wish(n, self.now);
        let directory = &self.directory;
        let decision = match step {
            Step::Request { vcpus, timeout } => {
                let (vcpus, timeout) = (Some(Vcpus(*vcpus)), Seconds(*timeout));
                let wanted = SandboxWish { vcpus, timeout, ..plain() };
                request::decide(directory, plans, &wish, &wanted, None, &Recorded::Nothing)
            }
            Step::Extend { which, timeout } => {
                let Some((id, _)) = self.pick(which) else { return };
                extend::decide(directory, plans, &wish, id, Seconds(*timeout))
            }
            Step::Pause(which) => {
                let Some((id, _)) = self.pick(which) else { return };
                pause::decide(directory, &wish, id)
            }
            Step::Resume(which) => {
                let Some((id, _)) = self.pick(which) else { return };
                resume::decide(directory, plans, &wish, id)
            }
            _ => unreachable!("no command"),
        };
        self.write(decision);
    }

    fn start(&mut self, which: &prop::sample::Index) {
        let Some((id, one @ Sandbox { state: State::Requested, .. })) = self.pick(which) else { return };
        let (started_at, digest) = (self.now, Digest([0; 32]));
        self.tell(id, SandboxClaimed { host: HOST });
        let (end_at, from) = (started_at.after(one.timeout.into()), StartedFrom::Pool);
        self.tell(id, SandboxStarted { started_at, end_at, from, root: digest, kernel: digest });
        self.guests.insert(id, Guest { started: started_at, paused: Millis::ZERO, paused_since: None });
    }

    fn stand(&mut self, which: &prop::sample::Index) {
        let Some((id, one @ Sandbox { state: State::Pausing, .. })) = self.pick(which) else { return };
        let (now, end_at) = (self.now, one.end_at.expect("it runs"));
        let Some(guest) = self.guests.get_mut(&id).filter(|_| now < end_at) else { return };
        guest.paused_since = Some(now);
        let meter = guest.meter(one.shape, now);
        self.tell(id, SandboxPaused { paused_at: now, end_at, meter });
    }

    /// The owner process ends it at its end at the latest, whenever that is told.
    fn stop(&mut self, id: SandboxId) {
        let Some(guest) = self.guests.remove(&id) else { return };
        let one = self.directory.sandboxes.get(id).expect("it has a guest").clone();
        let stopped_at = self.now.min(one.end_at.expect("it runs"));
        let meter = guest.meter(one.shape, stopped_at);
        let (reason, teardown) = (StopReason::Requested, Millis(0));
        self.tell(id, SandboxStopped { reason, stopped_at, meter, teardown });
    }

    /// What a live sandbox has really used.
    fn really_used(&self, id: SandboxId, one: &Sandbox) -> StandardMillis {
        let Some(guest) = self.guests.get(&id) else { return StandardMillis::ZERO };
        let now = self.now.min(one.end_at.expect("it runs"));
        one.shape.charge(guest.meter(one.shape, now).counted(one.shape))
    }
}

/// What the account owes for in all months up to `now`.
fn billed(ledger: &Ledger, now: Timestamp) -> StandardMillis {
    let (mut period, mut sum) = (ledger.first_open(), StandardMillis::ZERO);
    while period.start <= now {
        sum = sum.plus(ledger.used(period));
        period = period.next(ledger.opened_at);
    }
    sum
}

proptest! {
    #[test]
    fn no_history_exceeds_a_limit_and_what_is_charged_is_billed(steps in prop::collection::vec(step(), 1..200)) {
        let plans = plans();
        let plan = plans.start();
        let mut world = World::new();
        for step in &steps {
            world.take(&plans, step);
            let of = || world.directory.sandboxes.of(ACCOUNT).map(|(_, sandbox)| sandbox);
            let live = of().filter(|one| !one.state.is_final()).count();
            prop_assert!(live <= plan.concurrency as usize, "{live} at once");
            let period = Period::of(START, world.now);
            let month = of().filter(|one| period.contains(one.requested_at));
            let charged = month.fold(StandardMillis::ZERO, |sum, one| sum.plus(one.charged()));
            prop_assert!(charged <= plan.price_at(period.start).included, "{charged:?} of a month");
            let minute = |one: &&Sandbox| world.now.since(one.requested_at) < Millis(60_000);
            prop_assert!(of().filter(minute).count() <= plan.creations_per_minute as usize);
            for (id, one) in world.directory.sandboxes.of(ACCOUNT) {
                prop_assert!(world.really_used(id, one) <= one.charged(), "more than is reserved");
                let (Some(started), Some(end)) = (one.started_at, one.end_at) else { continue };
                prop_assert!(end.since(started) <= plan.session_max.into(), "a session of {:?}", end.since(started));
                prop_assert!(one.shape.vcpus <= plan.vcpus_max);
            }
        }
        let ids: Vec<SandboxId> = world.guests.keys().copied().collect();
        ids.into_iter().for_each(|id| world.stop(id));
        let ended = world.directory.sandboxes.of(ACCOUNT).filter(|(_, one)| one.state.is_final());
        let charged = ended.fold(StandardMillis::ZERO, |sum, (_, one)| sum.plus(one.charged()));
        let ledger = world.billing.of(ACCOUNT).expect("it was opened");
        prop_assert_eq!(billed(ledger, world.now), charged);
    }
}
