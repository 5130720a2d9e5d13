//! Calendar: the civil date of a moment (proleptic Gregorian, UTC) and the months that accounts are billed by.

use omnirun_events::unit::{Day, Millis, Timestamp};

/// Milliseconds in a day; UTC as POSIX counts it has no leap seconds.
const DAY: u64 = 24 * 3600 * 1000;

/// A civil date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// The year, from 1970.
    pub year: u32,
    /// The month, 1 to 12.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
}

impl Date {
    /// The date of a moment in UTC.
    pub fn of(at: Timestamp) -> Self {
        // The year is at most one too high when counted in 365-day years from 1970 (until the year 3430), per 1461 days at most four times.
        let days = at.0 / DAY;
        let mut year = 1970 + days / 366;
        while days_before_year(year + 1) <= days {
            year += 1;
        }
        let mut rest = days - days_before_year(year);
        let mut month = 1;
        while rest >= days_in_month(year, month) {
            rest -= days_in_month(year, month);
            month += 1;
        }
        Self { year: year as u32, month, day: rest as u32 + 1 }
    }

    /// The moment that the date begins in UTC.
    pub fn start(self) -> Timestamp {
        let year = u64::from(self.year);
        let months: u64 = (1..self.month).map(|month| days_in_month(year, month)).sum();
        Timestamp((days_before_year(year) + months + u64::from(self.day) - 1).saturating_mul(DAY))
    }

    /// The date that `text` names, such as `2026-01-31`; none for anything else and for days that no calendar has.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut number = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u32>().ok())?
        };
        let date = Self { year: number(4)?, month: number(2)?, day: number(2)? };
        (date.is_real() && parts.next().is_none()).then_some(date)
    }

    /// The day as year times 10 000 plus month times 100 plus day, as data keys are labelled.
    pub fn yyyymmdd(self) -> u32 {
        (self.year * 100 + self.month) * 100 + self.day
    }

    /// The day that is labelled so, if a calendar has it.
    pub fn from_yyyymmdd(label: u32) -> Option<Self> {
        let date = Self { year: label / 10_000, month: label / 100 % 100, day: label % 100 };
        date.is_real().then_some(date)
    }

    /// The last day of the month that is labelled year times 100 plus month, if there is such a month.
    pub fn last_of_yyyymm(label: u32) -> Option<Self> {
        let first = Self { year: label / 100, month: label % 100, day: 1 };
        first
            .is_real()
            .then(|| Self { day: days_in_month(u64::from(first.year), first.month) as u32, ..first })
    }

    fn is_real(self) -> bool {
        self.year >= 1970
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(u64::from(self.year), self.month) as u32).contains(&self.day)
    }
}

impl std::fmt::Display for Date {
    /// As RFC 3339 writes it: `2026-11-23`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

/// Days from 1970-01-01 to the first of January of `year`, which is 1970 or later.
const fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    365 * (year - 1970) + (past / 4 - past / 100 + past / 400) - 477
}

const fn days_in_month(year: u64, month: u32) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// One month of an account: it begins on the day of the month that the account was opened on, or on the month's last day where
/// the month has no such day, at 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment of the next one.
    pub end: Timestamp,
}

impl Period {
    /// The period of an account opened at `opened` that `now` lies in.
    pub fn of(opened: Timestamp, now: Timestamp) -> Self {
        let anchor = Date::of(opened).day;
        let today = Date::of(now);
        let this = begin(today.year, today.month, anchor);
        if now >= this.start() {
            let (year, month) =
                if today.month == 12 { (today.year + 1, 1) } else { (today.year, today.month + 1) };
            return Self { start: this.start(), end: begin(year, month, anchor).start() };
        }
        let (year, month) =
            if today.month == 1 { (today.year - 1, 12) } else { (today.year, today.month - 1) };
        Self { start: begin(year.max(1970), month, anchor).start(), end: this.start() }
    }

    /// The period that begins where this one ends.
    pub fn next(&self, opened: Timestamp) -> Self {
        Self::of(opened, self.end)
    }

    /// The name of it: [`label`] of its first moment. An account has one period of each name.
    pub fn label(&self) -> String {
        label(self.start)
    }

    /// Its first day.
    pub fn first_day(&self) -> Day {
        Day::of(self.start)
    }

    /// The first day after it.
    pub fn end_day(&self) -> Day {
        Day::of(self.end)
    }

    /// Whether `at` lies in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        (self.start..self.end).contains(&at)
    }

    /// Its length.
    pub fn length(&self) -> Millis {
        self.end.since(self.start)
    }
}

/// The month that `at` lies in, such as `2026-11`.
pub fn label(at: Timestamp) -> String {
    let date = Date::of(at);
    format!("{:04}-{:02}", date.year, date.month)
}

fn begin(year: u32, month: u32, anchor: u32) -> Date {
    Date { year, month, day: anchor.min(days_in_month(u64::from(year), month) as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn at(year: u32, month: u32, day: u32) -> Timestamp {
        Date { year, month, day }.start()
    }

    #[test]
    fn known_moments_have_their_dates() {
        for (millis, text) in [
            (0, "1970-01-01"),
            (951_782_400_000, "2000-02-29"),
            (1_582_934_400_000, "2020-02-29"),
            (1_767_225_599_999, "2025-12-31"),
            (1_767_225_600_000, "2026-01-01"),
            (4_107_542_400_000, "2100-03-01"),
        ] {
            assert_eq!(Date::of(Timestamp(millis)).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_two_centuries_reads_back() {
        for day in 0..73_000 {
            let start = Timestamp(day * DAY);
            assert_eq!(Date::of(start).start(), start);
            assert_eq!(Date::of(start.after(Millis(DAY - 1))).start(), start);
        }
    }

    #[test]
    fn labels_of_data_keys_are_days_that_a_calendar_has() {
        let date = Date { year: 2028, month: 2, day: 29 };
        assert_eq!((date.yyyymmdd(), Date::from_yyyymmdd(20_280_229)), (20_280_229, Some(date)));
        assert_eq!(Date::last_of_yyyymm(202_802), Some(date));
        for label in [0, 20_270_229, 20_281_301, 20_280_100, u32::MAX] {
            assert_eq!(Date::from_yyyymmdd(label), None, "{label}");
        }
        assert_eq!((Date::last_of_yyyymm(202_813), Date::last_of_yyyymm(202_700)), (None, None));
    }

    #[test]
    fn only_days_that_a_calendar_has_are_dates() {
        assert_eq!(Date::parse("2028-02-29"), Some(Date { year: 2028, month: 2, day: 29 }));
        for text in ["", "2026-02-29", "2026-13-01", "2026-1-01", "2026-01-01-", "1969-12-31", "+026-01-01"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }

    #[test]
    fn periods_follow_each_other_without_a_gap_and_each_month_names_one() {
        for day in [1, 15, 28, 29, 30, 31] {
            let opened = at(2026, 1, day);
            let mut period = Period::of(opened, opened);
            assert_eq!(period.start, opened);
            let mut labels = std::collections::BTreeSet::new();
            for _ in 0..48 {
                assert!(labels.insert(period.label()), "{} twice", period.label());
                let next = period.next(opened);
                assert_eq!(next.start, period.end);
                assert_eq!(Period::of(opened, Timestamp(period.end.0 - 1)), period);
                period = next;
            }
        }
    }

    #[test]
    fn a_period_begins_on_the_day_the_account_was_opened() {
        let period = Period::of(at(2026, 1, 15), at(2026, 11, 23));
        assert_eq!(period, Period { start: at(2026, 11, 15), end: at(2026, 12, 15) });
        let period = Period::of(at(2026, 1, 15), at(2027, 1, 3));
        assert_eq!(period, Period { start: at(2026, 12, 15), end: at(2027, 1, 15) });
    }

    #[test]
    fn an_account_opened_on_the_31st_begins_shorter_months_on_their_last_day() {
        let opened = at(2026, 1, 31);
        assert_eq!(
            Period::of(opened, at(2026, 2, 28)),
            Period { start: at(2026, 2, 28), end: at(2026, 3, 31) }
        );
        assert_eq!(
            Period::of(opened, at(2026, 2, 27)),
            Period { start: at(2026, 1, 31), end: at(2026, 2, 28) }
        );
    }
}
