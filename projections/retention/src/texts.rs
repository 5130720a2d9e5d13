//! Keys of free text: the key of a day goes on its 90th day, whatever is left of the sandboxes that were requested on it.

use omnirun_events::unit::Timestamp;

use crate::KEPT;

/// Whether the key of a day that begins at `day` goes at `now`: everything that was sealed under it is 89 to 90 days old then. A key of
/// several days goes with the last of them.
pub fn key_goes(day: Timestamp, now: Timestamp) -> bool {
    day.after(KEPT) <= now
}

#[cfg(test)]
mod tests {
    use omnirun_events::unit::Millis;

    use super::*;

    #[test]
    fn the_key_of_a_day_goes_90_days_after_its_beginning() {
        let day = Timestamp(20_819 * 24 * 3_600_000);
        assert!(!key_goes(day, day));
        assert!(!key_goes(day, day.after(Millis(KEPT.0 - 1))));
        assert!(key_goes(day, day.after(KEPT)));
        assert!(key_goes(day, day.after(Millis(2 * KEPT.0))));
    }
}
