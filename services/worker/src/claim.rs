//! Who runs a sandbox: every host takes requests from one queue, and the first to append SandboxClaimed has it.

mod take;

use omnirun_events::sandbox::{Network, SandboxRequested};
use omnirun_events::unit::{Mebibytes, Timestamp, Vcpus};
use omnirun_projections::sandboxes::State;

pub(crate) use take::run;

/// What this host can take now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Sandboxes that it could still run.
    pub free: u32,
    /// Virtual processors that one guest may have.
    pub vcpus_max: Vcpus,
    /// Memory that one guest may have.
    pub memory_max: Mebibytes,
    /// Names of the templates it has.
    pub templates: Vec<String>,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Try to have it.
    Claim,
    /// Nobody needs to see it any more.
    Drop,
    /// Another host may have it, or this one later.
    Later,
}

/// What to do with a request for a sandbox that is in `state` on the log.
pub fn answer(requested: &SandboxRequested, state: State, capacity: &Capacity, now: Timestamp) -> Answer {
    if state != State::Requested || now > requested.deadline {
        return Answer::Drop;
    }
    let shape = requested.shape;
    // No monitor here gives a guest a network device. A guest without one is less than was asked for, so it is not given out as one.
    let fits = requested.network == Network::Off
        && capacity.templates.contains(&requested.template)
        && shape.vcpus <= capacity.vcpus_max
        && shape.memory <= capacity.memory_max;
    if fits && capacity.free > 0 { Answer::Claim } else { Answer::Later }
}

#[cfg(test)]
mod tests {
    use omnirun_events::SandboxId;
    use omnirun_events::sandbox::FailReason;
    use omnirun_events::unit::{Seconds, Shape, StandardMillis};

    use super::*;

    fn requested() -> SandboxRequested {
        SandboxRequested {
            sandbox: SandboxId::from_bytes([1; 16]),
            template: "base".to_owned(),
            shape: Shape { vcpus: Vcpus(2), memory: Mebibytes(512) },
            timeout: Seconds(300),
            reserved: StandardMillis(300_000),
            deadline: Timestamp(60_000),
            network: Network::Off,
            metadata: None,
        }
    }

    fn capacity() -> Capacity {
        let templates = vec!["base".to_owned()];
        Capacity { free: 1, vcpus_max: Vcpus(2), memory_max: Mebibytes(512), templates }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut SandboxRequested, &mut Capacity), expected: Answer) {
        let (mut requested, mut capacity) = (requested(), capacity());
        change(&mut requested, &mut capacity);
        assert_eq!(answer(&requested, State::Requested, &capacity, Timestamp(60_000)), expected);
    }

    #[test]
    fn a_host_claims_what_it_can_run_until_the_deadline() {
        check(|_, _| {}, Answer::Claim);
        check(|requested, _| requested.deadline = Timestamp(59_999), Answer::Drop);
    }

    #[test]
    fn what_a_host_cannot_run_is_left_for_others() {
        check(|_, capacity| capacity.free = 0, Answer::Later);
        check(|requested, _| requested.template = "other".to_owned(), Answer::Later);
        check(|requested, _| requested.shape.vcpus = Vcpus(3), Answer::Later);
        check(|requested, _| requested.shape.memory = Mebibytes(513), Answer::Later);
        check(|requested, _| requested.network = Network::Filtered, Answer::Later);
    }

    #[test]
    fn a_sandbox_that_is_not_waiting_any_more_is_dropped() {
        for state in [State::Starting, State::Stopping, State::Failed(FailReason::Cancelled)] {
            assert_eq!(answer(&requested(), state, &capacity(), Timestamp(1)), Answer::Drop, "{state:?}");
        }
    }
}
