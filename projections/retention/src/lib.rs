//! Retention: which records of use and of ended sandboxes go, and under which tombstone. Pure: no clock, no files, nothing removed.
//!
//! Nothing of it becomes 90 days old; what is younger stays, except what is before it in the same chain: a chain loses its beginning and
//! never its middle. Statements are accounting records and stay for as long as the account.
//!
//! Reading order: [`seen`], [`usage`] (meter readings), [`sandboxes`] (their lives and requests), [`months`] (keys of their free text).

pub mod seen;

pub mod months;
pub mod sandboxes;
pub mod usage;

use omnirun_events::unit::{Millis, Timestamp};

pub use sandboxes::{Life, Trim};
pub use seen::{Burial, Removal, Seen};

/// The age that no record of use reaches.
pub const KEPT: Millis = Millis(90 * 24 * 3600 * 1000);

/// How often what has expired is removed.
pub const EVERY: Millis = Millis(3600 * 1000);

/// What would reach that age before the run after the next one goes now, so that a run that is missed, or takes long, breaks no promise.
const AHEAD: Millis = Millis(2 * EVERY.0);

/// What happened before this moment goes at `now`.
pub const fn cutoff(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_add(AHEAD.0).saturating_sub(KEPT.0))
}
