//! The logs, and the weeks that share one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::unit::Timestamp;

/// Number of usage logs; a week's meters go to week modulo this, and a log is purged whole before its week comes again.
pub const USAGE_SLOTS: u8 = 14;

/// Milliseconds in a week.
const WEEK: u64 = 7 * 24 * 3600 * 1000;

/// One of the fourteen usage logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u8);

impl Slot {
    /// The slot that meters observed at `at` go to.
    pub const fn of(at: Timestamp) -> Self {
        Self(((at.0 / WEEK) % USAGE_SLOTS as u64) as u8)
    }

    /// The slots of `at` by clocks that are wrong by a week at most.
    pub fn near(at: Timestamp) -> [Self; 3] {
        [at.0.saturating_sub(WEEK), at.0, at.0.saturating_add(WEEK)].map(|at| Self::of(Timestamp(at)))
    }

    /// Slot number `index`, if there are that many.
    pub const fn from_index(index: u8) -> Option<Self> {
        if index < USAGE_SLOTS { Some(Self(index)) } else { None }
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..USAGE_SLOTS).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// One append-only log with its own sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Log {
    /// Everything that is kept: accounts, tokens, sandboxes, hosts, signing keys, tombstones.
    Events,
    /// Wrapped data keys; deletion overwrites.
    Keys,
    /// Sign-in challenges; memory only, fifteen minutes.
    Auth,
    /// Meters of the weeks that share a slot.
    Usage(Slot),
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events => f.write_str("EVENTS"),
            Self::Keys => f.write_str("KEYS"),
            Self::Auth => f.write_str("AUTH"),
            Self::Usage(slot) => write!(f, "USAGE_{slot}"),
        }
    }
}

impl Log {
    /// Every log that outlives the process, in the order that operators see them.
    pub fn kept() -> impl Iterator<Item = Self> {
        [Self::Events, Self::Keys].into_iter().chain(Slot::all().map(Self::Usage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_near_a_moment_are_the_weeks_before_it_and_after_it_round_the_end() {
        let numbers = |at| Slot::near(Timestamp(at)).map(|slot| slot.0);
        assert_eq!(numbers(5 * WEEK), [4, 5, 6]);
        assert_eq!(numbers(27 * WEEK), [12, 13, 0]);
        assert_eq!(numbers(0), [0, 0, 1]);
    }
}
