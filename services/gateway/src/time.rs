//! Times as users write and read them: RFC 3339 in UTC.

use omnirun_events::unit::Timestamp;

/// Milliseconds in a day.
const DAY: u64 = 86_400_000;

/// `at` as RFC 3339 with milliseconds, such as `2026-01-31T23:59:59.000Z`.
pub fn rfc3339(at: Timestamp) -> String {
    omnirun_agent_api::Timestamp::from(omnirun_agent_api::UnixMillis(at.0)).0
}

/// The day of `at` in UTC, such as `2026-01-31`.
pub fn day(at: Timestamp) -> String {
    let mut text = rfc3339(at);
    text.truncate(10);
    text
}

/// The moment that `text` names: a day (`2026-01-31`, its first millisecond) or RFC 3339 in UTC, to the millisecond. None for anything
/// else, and for days that no calendar has.
pub fn parse(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T').map_or((text, None), |(day, time)| (day, Some(time)));
    let [year, month, day] = numbers(day, '-', [4, 2, 2])?;
    let midnight = Timestamp(days_from_civil(year, month, day)?.checked_mul(DAY)?);
    let millis = time.map_or(Some(0), time_of_day)?;
    let at = Timestamp(midnight.0.checked_add(millis)?);
    // 31 February is a sum that comes out as a day of March.
    rfc3339(midnight).starts_with(&text[..10]).then_some(at)
}

fn time_of_day(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if hour > 23 || minute > 59 || second > 59 || !is_fraction {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(((hour * 60 + minute) * 60 + second) * 1000 + millis)
}

fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (slot, length) in found.iter_mut().zip(lengths) {
        let part = parts.next()?;
        let is_number = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        *slot = is_number.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(found)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so that the leap day is the last one of a
/// year; 146 097 days are 400 years.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for millis in [0, 951_782_400_000, 1_735_689_599_999, 4_107_542_400_000] {
            assert_eq!(parse(&rfc3339(Timestamp(millis))), Some(Timestamp(millis)));
        }
        assert_eq!(parse("2000-02-29"), Some(Timestamp(951_782_400_000)));
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
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
