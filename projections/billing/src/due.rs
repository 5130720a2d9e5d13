//! What is due: the month so far, what it will come to, and what somebody has to do about an account's bills at a given time.

use omnirun_events::billing::{StatementClosed, StatementLine, UsageNoticed};
use omnirun_events::unit::{Millis, StandardMillis, Timestamp};

use crate::calendar::Period;
use crate::ledger::Ledger;
use crate::plans::{Plan, Plans};
use crate::rating::{Bill, rate};
use crate::statement::{CLOSE_AFTER, statement, sum};

/// Percentages of what a month includes that accounts are told of.
pub const NOTICES: [u8; 3] = [50, 80, 100];

/// The least time that a forecast looks back at: the first hours of a month say little.
const DAY: Millis = Millis(24 * 3600 * 1000);

/// An account is on a plan that the plans file does not have: an operator's mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan {name}, which accounts are on, is not in the plans file")]
pub struct UnknownPlan {
    /// Its name.
    pub name: String,
}

/// A month that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonthToDate {
    /// The month.
    pub period: Period,
    /// What was used, by day and shape.
    pub lines: Vec<StatementLine>,
    /// What that costs.
    pub bill: Bill,
    /// What the month will cost if it goes on like this.
    pub forecast: Bill,
}

/// The account's month that `now` lies in.
pub fn month_to_date(ledger: &Ledger, plans: &Plans, now: Timestamp) -> Result<MonthToDate, UnknownPlan> {
    let period = ledger.period(now);
    let lines = ledger.lines(period);
    let price = plan_of(ledger, plans, period)?.price_at(period.start);
    let used = sum(&lines);
    let forecast = rate(price, forecast(used, period, now));
    Ok(MonthToDate { period, lines, bill: rate(price, used), forecast })
}

/// The plan that a month is rated by: the account's when it begins.
fn plan_of<'a>(ledger: &Ledger, plans: &'a Plans, period: Period) -> Result<&'a Plan, UnknownPlan> {
    let name = ledger.plans.at(period.start);
    plans.get(name).ok_or_else(|| UnknownPlan { name: name.to_owned() })
}

/// What will be used by the month's end at the pace so far. Whole seconds.
fn forecast(used: StandardMillis, period: Period, now: Timestamp) -> StandardMillis {
    let (elapsed, left) = (now.since(period.start).max(DAY), period.end.since(now));
    let more = u128::from(used.0) * u128::from(left.0) / u128::from(elapsed.0);
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    StandardMillis(used.plus(StandardMillis(more)).0 / 1000 * 1000)
}

/// The statement that has to be closed next, if its time has come. Months that cost and used nothing have none.
pub fn statement_due(
    ledger: &Ledger,
    plans: &Plans,
    now: Timestamp,
) -> Result<Option<StatementClosed>, UnknownPlan> {
    let mut period = ledger.first_open();
    while period.end.after(CLOSE_AFTER) <= now {
        let plan = plan_of(ledger, plans, period)?;
        if ledger.used(period) > StandardMillis::ZERO || plan.price_at(period.start).month.0 > 0 {
            return Ok(Some(statement(ledger, plan, period)));
        }
        period = period.next(ledger.opened_at);
    }
    Ok(None)
}

/// The highest percentage that was reached this month, unless the account was told of it.
pub fn notice_due(
    ledger: &Ledger,
    plans: &Plans,
    now: Timestamp,
) -> Result<Option<UsageNoticed>, UnknownPlan> {
    let period = ledger.period(now);
    let included = plan_of(ledger, plans, period)?.price_at(period.start).included;
    let used = ledger.used(period);
    let reached = |percent: u8| u128::from(used.0) * 100 >= u128::from(included.0) * u128::from(percent);
    let percent = NOTICES.into_iter().rev().find(|percent| included.0 > 0 && reached(*percent));
    let news = percent.filter(|percent| !ledger.was_told(period.start, *percent));
    Ok(news.map(|percent| UsageNoticed { start: period.start, percent, used, included }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Date;

    #[test]
    fn a_forecast_goes_on_at_the_pace_so_far_and_takes_a_first_hour_for_a_day() {
        let at = |day| Date { year: 2026, month: 11, day }.start();
        let period = Period::of(at(1), at(1));
        let used = StandardMillis(3_600_000);
        assert_eq!(forecast(used, period, at(11)), StandardMillis(3 * 3_600_000));
        let early = forecast(used, period, at(1).after(Millis(3_600_000)));
        assert_eq!(early, StandardMillis((3_600 + 3_600 * (30 * 24 - 1) / 24) * 1000));
        assert_eq!(forecast(used, period, Timestamp(period.end.0)), used);
        assert_eq!(forecast(StandardMillis(0), period, at(2)), StandardMillis(0));
    }
}
