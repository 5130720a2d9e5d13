//! Whether this gateway still sees the log. Without it, it answers from what it knew for a while, and then refuses: a credential that was
//! revoked in the meantime would still look good.
//!
//! A read model that waits for the next record looks the same whether there is none or the bus has gone. So the gateway asks the log for its
//! last position again and again, whether or not anybody calls, and notes when its directory held everything up to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use omnirun_events::unit::{Seconds, Timestamp};

use crate::gateway::{Shared, duration};

/// Longest pause between two looks at the log, and after one that failed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Shortest pause, however small the limit is.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);

/// When the directory was last known to be what the log says, by the clock that the gateway was given.
pub(crate) struct Sight {
    seen_at: AtomicU64,
    limit: Seconds,
}

impl Sight {
    /// Counts as seen `now`: until the first look, the directory itself says whether it has caught up.
    pub fn new(now: Timestamp, limit: Seconds) -> Self {
        Self { seen_at: AtomicU64::new(now.0), limit }
    }

    /// The directory holds all that was in the log at this time.
    pub fn saw(&self, at: Timestamp) {
        self.seen_at.store(at.0, Ordering::Relaxed);
    }

    /// Whether that is longer ago than the limit. A clock that was set back by more than the limit tells nothing, which counts as lost until the
    /// next look.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        now.0.abs_diff(self.seen_at.load(Ordering::Relaxed)) > u64::from(self.limit.0) * 1000
    }

    /// Pause after a look: a limit holds several.
    fn pause(&self, was_seen: bool) -> Duration {
        let longest = if was_seen { LOOK_EVERY } else { LOOK_AGAIN };
        (duration(self.limit) / 4).clamp(LOOK_EVERY_MIN, longest)
    }
}

impl Shared {
    /// Looks at the log for ever, and says in the operator's log when it is lost and when it is back.
    pub(crate) async fn watch_log(&self) {
        let mut was_lost = false;
        loop {
            let is_seen = self.catch_up().await.is_ok();
            let is_lost = self.sight.is_lost(self.now());
            metrics::gauge!("omnirun_gateway_log_lost").set(f64::from(u8::from(is_lost)));
            match (was_lost, is_lost) {
                (false, true) => tracing::error!(
                    limit = self.config.times.without_log.0,
                    "the event log was not seen for longer than the limit in seconds; every credential is refused until it is"
                ),
                (true, false) => tracing::info!("the event log is seen again; credentials are accepted"),
                _ => {}
            }
            was_lost = is_lost;
            tokio::time::sleep(self.sight.pause(is_seen)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_lost_once_the_limit_has_passed_and_not_before() {
        let sight = Sight::new(Timestamp(100_000), Seconds(60));
        assert!(!sight.is_lost(Timestamp(160_000)));
        assert!(sight.is_lost(Timestamp(160_001)));
        sight.saw(Timestamp(150_000));
        assert!(!sight.is_lost(Timestamp(210_000)));
        assert!(sight.is_lost(Timestamp(210_001)));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_make_the_limit_longer() {
        let sight = Sight::new(Timestamp(100_000), Seconds(60));
        assert!(!sight.is_lost(Timestamp(99_999)), "a correction by a moment is none");
        assert!(sight.is_lost(Timestamp(39_999)));
    }

    #[test]
    fn the_log_is_looked_at_several_times_within_the_limit() {
        for (limit, seen, missed) in [(0, 100, 100), (2, 500, 500), (60, 5_000, 1_000), (9_999, 5_000, 1_000)]
        {
            let sight = Sight::new(Timestamp(0), Seconds(limit));
            assert_eq!(sight.pause(true), Duration::from_millis(seen), "{limit}");
            assert_eq!(sight.pause(false), Duration::from_millis(missed), "{limit}");
        }
    }
}
