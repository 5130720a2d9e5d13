//! When a template's snapshot is made: after a guest had to be booted for want of one, and again where that failed or where
//! guests are booted all the same, each time later than before.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::guests::Kind;
use crate::place::VmId;

/// Time between the first two tries; it doubles with each.
const RETRY_FIRST: Duration = Duration::from_secs(5);

/// The longest time between two tries: a boot an hour is not noticed, and a store that was full may have room by then.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// What is known of each kind's snapshot.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Guests that were booted before a snapshot of their kind was made: they tell nothing about it.
    explained: HashSet<VmId>,
    kinds: HashMap<Kind, Tries>,
}

/// The tries to make one kind's snapshot.
#[derive(Debug, Default)]
struct Tries {
    /// Whether a guest was booted that a snapshot would have saved the boot.
    is_missing: bool,
    count: u32,
    /// Not before; none where nothing was tried.
    next: Option<Instant>,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Made,
    Failed,
}

/// How long to wait after so many tries.
fn pause_after(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX)
}

impl Snapshots {
    /// Notes the living guests that were booted.
    pub fn note_booted(&mut self, booted: Vec<(VmId, Kind)>) {
        self.explained.retain(|vm| booted.iter().any(|(other, _)| other == vm));
        for (vm, kind) in booted {
            if self.explained.insert(vm) {
                self.kinds.entry(kind).or_default().is_missing = true;
            }
        }
    }

    /// A kind whose snapshot is to be made now.
    pub fn due(&self, now: Instant) -> Option<Kind> {
        let is_due = |tries: &Tries| tries.is_missing && tries.next.is_none_or(|next| next <= now);
        self.kinds.iter().find(|(_, tries)| is_due(tries)).map(|(kind, _)| kind.clone())
    }

    /// When one will be due that is not.
    pub fn next_due(&self) -> Option<Instant> {
        self.kinds.values().filter(|tries| tries.is_missing).filter_map(|tries| tries.next).min()
    }

    /// Notes how a try ended.
    pub fn tried(&mut self, kind: &Kind, outcome: Outcome, now: Instant) {
        let tries = self.kinds.entry(kind.clone()).or_default();
        tries.is_missing = outcome == Outcome::Failed;
        tries.count = tries.count.saturating_add(1);
        tries.next = Some(now + pause_after(tries.count));
    }
}

#[cfg(test)]
mod tests {
    use omnirun_events::unit::{Mebibytes, Shape, Vcpus};

    use super::*;

    fn kind() -> Kind {
        Kind { template: "base".to_owned(), shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(128) } }
    }

    fn guest(name: &str) -> Vec<(VmId, Kind)> {
        vec![(VmId::new(name), kind())]
    }

    #[test]
    fn a_booted_guest_asks_for_one_snapshot_and_another_guest_for_another() {
        let (mut snapshots, now) = (Snapshots::default(), Instant::now());
        assert_eq!((snapshots.due(now), snapshots.next_due()), (None, None));
        snapshots.note_booted(guest("one"));
        assert_eq!(snapshots.due(now), Some(kind()));
        snapshots.tried(&kind(), Outcome::Made, now);
        let later = now + RETRY_MAX;
        snapshots.note_booted(guest("one"));
        assert_eq!((snapshots.due(later), snapshots.next_due()), (None, None), "it was booted before");
        snapshots.note_booted(guest("two"));
        assert_eq!((snapshots.due(now), snapshots.due(later)), (None, Some(kind())));
    }

    #[test]
    fn a_snapshot_that_was_not_made_is_tried_again_later_and_later_without_end() {
        let (mut snapshots, mut now) = (Snapshots::default(), Instant::now());
        snapshots.note_booted(guest("one"));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(snapshots.due(now), Some(kind()));
            snapshots.tried(&kind(), Outcome::Failed, now);
            assert_eq!(snapshots.due(now), None);
            let next = snapshots.next_due().expect("it is tried again");
            pauses.push(next.duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(pause_after(u32::MAX), RETRY_MAX);
    }
}
