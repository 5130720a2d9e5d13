//! Admission over made-up histories: whatever is asked for, extended, started, stopped, failed or lost, in whatever order, no limit of the plan is
//! ever exceeded. Each decision sees what was decided before it, as the log's expectations see to; races are in [`crate::sandboxes`].

use omnirun_billing::{Period, Plans};
use omnirun_commands::decide::repeat::Recorded;
use omnirun_commands::decide::{Decision, extend, request};
use omnirun_commands_api::Rejection;
use omnirun_commands_api::command::SandboxWish;
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::unit::{Seconds, StandardMillis};
use omnirun_events::usage::Meter;
use omnirun_events::*;
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;
use proptest::prelude::*;

use crate::deciders::{ACCOUNT, HOUR, apply, known, plain, wish};
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
    /// How much of its time it ran, in percent.
    Stop(prop::sample::Index, u64),
    Fail(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0..3 * HOUR).prop_map(Step::Pass),
        (0..20_000_u64).prop_map(Step::Pass),
        (1..4_u8, 0..4000_u32).prop_map(|(vcpus, timeout)| Step::Request { vcpus, timeout }),
        (1..3_u8, 3000..3600_u32).prop_map(|(vcpus, timeout)| Step::Request { vcpus, timeout }),
        (index(), 0..4000_u32).prop_map(|(which, timeout)| Step::Extend { which, timeout }),
        index().prop_map(Step::Start),
        (index(), 0..101_u64).prop_map(|(which, part)| Step::Stop(which, part)),
        index().prop_map(Step::Fail),
    ]
}

fn plans() -> Plans {
    let text = include_str!("../../../../infra/plans.toml");
    let text = text.replacen("concurrency = 20", "concurrency = 4", 1);
    let text = text.replacen("creations_per_minute = 120", "creations_per_minute = 3", 1);
    Plans::parse(&text.replacen("hours_included = 25", "hours_included = 6", 1)).expect("valid")
}

struct World {
    directory: Directory,
    now: Timestamp,
    wishes: u8,
}

impl World {
    fn write(&mut self, decision: Result<Decision, Rejection>) {
        let Ok(decision) = decision else { return };
        for draft in decision.drafts() {
            for event in &draft.events {
                apply(&mut self.directory, draft.subject.kind(), event.clone(), draft.at);
            }
        }
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<(SandboxId, State)> {
        let all: Vec<_> = self.directory.sandboxes.of(ACCOUNT).map(|(id, one)| (id, one.state)).collect();
        (!all.is_empty()).then(|| all[index.index(all.len())])
    }

    fn take(&mut self, plans: &Plans, step: &Step) {
        self.wishes = self.wishes.wrapping_add(1);
        let (wish, now) = (wish(self.wishes, self.now), self.now);
        match step {
            Step::Pass(time) => self.now = now.after(Millis(*time)),
            Step::Request { vcpus, timeout } => {
                let wanted =
                    SandboxWish { vcpus: Some(Vcpus(*vcpus)), timeout: Seconds(*timeout), ..plain() };
                let decision =
                    request::decide(&self.directory, plans, &wish, &wanted, None, &Recorded::Nothing);
                self.write(decision);
            }
            Step::Extend { which, timeout } => {
                let Some((id, _)) = self.pick(which) else { return };
                let decision = extend::decide(&self.directory, plans, &wish, id, Seconds(*timeout));
                self.write(decision);
            }
            Step::Start(which) => {
                let Some((id, State::Requested)) = self.pick(which) else { return };
                let timeout = self.directory.sandboxes.get(id).expect("picked").timeout;
                let (kind, digest) = (SubjectKind::Sandbox(ACCOUNT, id), Digest([0; 32]));
                apply(&mut self.directory, kind, SandboxClaimed { host: HOST }, now);
                let (started_at, end_at, from) = (now, now.after(timeout.into()), StartedFrom::Pool);
                let started = SandboxStarted { started_at, end_at, from, root: digest, kernel: digest };
                apply(&mut self.directory, kind, started, now);
            }
            Step::Stop(which, part) => {
                let Some((id, State::Running)) = self.pick(which) else { return };
                let one = self.directory.sandboxes.get(id).expect("picked");
                // The owner process ends it at its end at the latest.
                let most = one.end_at.expect("it runs").since(one.started_at.expect("it runs"));
                let wall = Millis(most.0 / 100 * part);
                let meter = Meter { wall, ..Meter::default() };
                let (reason, stopped_at) = (StopReason::Requested, now);
                let stopped = SandboxStopped { reason, stopped_at, meter, teardown: Millis(0) };
                apply(&mut self.directory, SubjectKind::Sandbox(ACCOUNT, id), stopped, now);
            }
            Step::Fail(which) => {
                let Some((id, State::Requested)) = self.pick(which) else { return };
                let failed = SandboxFailed { reason: FailReason::NoCapacity };
                apply(&mut self.directory, SubjectKind::Sandbox(ACCOUNT, id), failed, now);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_history_exceeds_a_limit(steps in prop::collection::vec(step(), 1..200)) {
        let plans = plans();
        let plan = plans.start();
        let mut world = World { directory: known(), now: START, wishes: 0 };
        for step in &steps {
            world.take(&plans, step);
            let of = || world.directory.sandboxes.of(ACCOUNT).map(|(_, sandbox)| sandbox);
            let live = of().filter(|one| !one.state.is_final()).count();
            prop_assert!(live <= plan.concurrency as usize, "{live} at once");
            let period = Period::of(START, world.now);
            let month = of().filter(|one| period.contains(one.requested_at));
            let charged = month.fold(StandardMillis::ZERO, |sum, one| sum.plus(one.charged()));
            prop_assert!(charged <= plan.price_at(period.start).included, "{charged:?} of a month");
            let minute = |one: &&omnirun_projections::sandboxes::Sandbox| world.now.since(one.requested_at) < Millis(60_000);
            prop_assert!(of().filter(minute).count() <= plan.creations_per_minute as usize);
            for one in of() {
                let (Some(started), Some(end)) = (one.started_at, one.end_at) else { continue };
                prop_assert!(end.since(started) <= plan.session_max.into(), "a session of {:?}", end.since(started));
                prop_assert!(one.shape.vcpus <= plan.vcpus_max);
            }
        }
    }
}
