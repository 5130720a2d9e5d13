//! Moments as people write and read them: RFC 3339 in UTC, to the millisecond.

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, UtcOffset};

use crate::unit::Timestamp;

/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const LAST: Timestamp = Timestamp(253_402_300_799_999);

impl Timestamp {
    /// With milliseconds, such as `2026-01-31T23:59:59.000Z`. A moment after the year 9999 prints as the last one of it.
    pub fn rfc3339(self) -> String {
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        self.civil().format(format).expect("every moment has these parts")
    }

    /// Its day in UTC, such as `2026-01-31`.
    pub fn day(self) -> String {
        let mut text = self.rfc3339();
        text.truncate("2026-01-31".len());
        text
    }

    /// The moment that `text` names: a day (`2026-01-31`, its first millisecond) or RFC 3339 in UTC, cut to the millisecond. None for anything
    /// else, for days that no calendar has, and before 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = match Date::parse(text, format_description!("[year]-[month]-[day]")) {
            Ok(day) => PrimitiveDateTime::new(day, time::Time::MIDNIGHT).assume_utc(),
            Err(_) => OffsetDateTime::parse(text, &Rfc3339).ok().filter(|_| text.ends_with('Z'))?,
        };
        u64::try_from(at.to_offset(UtcOffset::UTC).unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    fn civil(self) -> OffsetDateTime {
        let millis = self.min(LAST).0;
        let seconds = OffsetDateTime::from_unix_timestamp((millis / 1000) as i64);
        let seconds = seconds.expect("it is at most in the year 9999");
        seconds + time::Duration::milliseconds((millis % 1000) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_the_calendar_has_them_and_read_back() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_772_323_199_999, "2026-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(millis).rfc3339(), text);
            assert_eq!(Timestamp::parse_rfc3339(text), Some(Timestamp(millis)));
        }
        assert_eq!(Timestamp(u64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp(951_782_400_001).day(), "2000-02-29");
        assert_eq!(Timestamp::parse_rfc3339("2000-02-29"), Some(Timestamp(951_782_400_000)));
    }

    #[test]
    fn a_leap_second_is_the_last_moment_before_it_and_is_nowhere_but_at_the_end_of_a_month() {
        let last = Timestamp::parse_rfc3339("2016-12-31T23:59:59.999Z");
        for text in ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.000Z", "2016-12-31T23:59:60.500Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text), last, "{text}");
        }
        assert_eq!(last.map(Timestamp::day).as_deref(), Some("2016-12-31"));
        for text in ["2016-12-31T12:59:60Z", "2016-12-30T23:59:60Z", "2016-12-31T23:59:61Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "x",
            "2026-02-30",
            "2026-13-01",
            "2026-01-01T",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00+01:00",
            "1969-12-31",
            "é026-01-01",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }
}
