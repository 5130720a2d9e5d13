//! Retention: which records of use and of ended sandboxes go, and under which tombstone. Pure: no clock, no files, nothing removed.
//!
//! Nothing of it becomes 90 days old; what is younger stays, except what is before it in the same chain: a chain loses its beginning and
//! never its middle. Statements are accounting records and stay for as long as the account.
//!
//! Reading order: [`seen`], [`usage`] (meter readings), [`sandboxes`] (their lives and requests), [`texts`] (keys of their free text).

pub mod seen;

pub mod sandboxes;
pub mod texts;
pub mod usage;

use omnirun_events::unit::{Millis, Timestamp};

pub use sandboxes::{Life, Trim};
pub use seen::{Burial, Removal, Seen};

/// The age that no record of use reaches.
pub const KEPT: Millis = Millis(90 * 24 * 3600 * 1000);

/// How often what has expired is removed.
pub const EVERY: Millis = Millis(3600 * 1000);

/// What would reach that age before the run after the next one goes now, so that a run that is missed, or takes long, breaks no promise. One
/// hour of it is lost to rounding.
const AHEAD: Millis = Millis(3 * EVERY.0);

/// What happened before this moment goes at `now`. It is a whole hour, so that what goes is the same for an hour.
pub const fn cutoff(now: Timestamp) -> Timestamp {
    let exact = now.0.saturating_add(AHEAD.0).saturating_sub(KEPT.0);
    Timestamp(exact - exact % EVERY.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_between_two_and_three_hours_from_90_days_old() {
        for now in [KEPT.0, KEPT.0 + 1, KEPT.0 + EVERY.0 - 1, KEPT.0 + 7 * EVERY.0 + 5] {
            let left = cutoff(Timestamp(now)).after(KEPT).since(Timestamp(now));
            assert!(Millis(2 * EVERY.0) < left && left <= AHEAD, "{now}: {left:?}");
        }
        assert_eq!(cutoff(Timestamp(0)), Timestamp(0));
    }
}
