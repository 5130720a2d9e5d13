//! Statements: a month's lines rated by its price, and whether a statement that somebody else made follows from its lines and price.

use std::collections::BTreeMap;

use omnirun_events::billing::{Carried, SeenThrough, StatementClosed, StatementLine};
use omnirun_events::unit::{Day, MicroCents, Millis, StandardMillis};

use crate::calendar::Period;
use crate::ledger::Ledger;
use crate::plans::{Plan, Price};
use crate::rating::rate;

/// From a month's end until its statement is closed: how late a reading may arrive and still be on it.
pub const CLOSE_AFTER: Millis = Millis(48 * 3600 * 1000);

/// Shapes of one day that have their own line; the others share one, so that a statement always fits into a record.
pub const SHAPES_PER_DAY: usize = 40;

/// The statement of a month that is not closed, from all that is known of it. How far that was read is for whoever read it to say.
pub fn statement(ledger: &Ledger, plan: &Plan, period: Period) -> StatementClosed {
    rated(ledger, &plan.name, plan.price_at(period.start), period)
}

/// The statement that an account's ledger gives for the month, plan and price of another one, which it does not know. It equals that one
/// if the ledger knows what that one was computed from.
pub fn again(ledger: &Ledger, closed: &StatementClosed) -> StatementClosed {
    let price = Price {
        from: closed.price_from,
        month: closed.base,
        // No statement depends on it.
        year: MicroCents::ZERO,
        included: closed.included,
        overage_per_second: closed.overage_per_second,
    };
    let statement = rated(ledger, &closed.plan, &price, ledger.period(closed.start));
    StatementClosed { seen: closed.seen.clone(), ..statement }
}

fn rated(ledger: &Ledger, plan: &str, price: &Price, period: Period) -> StatementClosed {
    let lines = fitting(ledger.lines(period));
    let bill = rate(price, sum(&lines));
    StatementClosed {
        start: period.start,
        end: period.end,
        plan: plan.to_owned(),
        price_from: price.from,
        base: price.month,
        included: price.included,
        overage_per_second: price.overage_per_second,
        standard: bill.standard,
        overage: bill.overage,
        amount: bill.amount,
        carried: ledger.carried(period.end),
        lines,
        seen: Vec::new(),
    }
}

/// Whether the statement of `plan` for `period` follows from its own lines; if not, what is wrong.
pub fn check(statement: &StatementClosed, plan: &Plan, period: Period) -> Result<(), &'static str> {
    let price = plan.price_at(period.start);
    let is = |holds: bool, wrong| if holds { Ok(()) } else { Err(wrong) };
    is((statement.start, statement.end) == (period.start, period.end), "it is of no month of the account")?;
    is(statement.plan == plan.name, "it is of another plan")?;
    let said = (statement.price_from, statement.base, statement.included, statement.overage_per_second);
    let wanted = (price.from, price.month, price.included, price.overage_per_second);
    is(said == wanted, "it is of another price")?;
    let order = |line: &StatementLine| {
        (line.day, line.shape.is_none(), line.shape.map(|shape| (shape.vcpus, shape.memory)))
    };
    is(statement.lines.is_sorted_by(|a, b| order(a) < order(b)), "its lines are out of order")?;
    let in_month = |line: &StatementLine| period.contains(line.day.start());
    is(statement.lines.iter().all(in_month), "a line is of another month")?;
    let is_whole = |line: &StatementLine| line.standard.0.is_multiple_of(1000) && line.sandboxes > 0;
    is(statement.lines.iter().all(is_whole), "a line is of no whole second")?;
    let bill = rate(price, sum(&statement.lines));
    let said = (statement.standard, statement.overage, statement.amount);
    is(said == (bill.standard, bill.overage, bill.amount), "its amount does not follow from its lines")?;
    let ids = |a: &Carried, b: &Carried| a.sandbox < b.sandbox;
    is(statement.carried.is_sorted_by(ids), "its carried sandboxes are out of order")?;
    let logs = |a: &SeenThrough, b: &SeenThrough| a.0 < b.0;
    is(statement.seen.is_sorted_by(logs), "the logs that it was read from are out of order")
}

/// The sum of lines.
pub fn sum(lines: &[StatementLine]) -> StandardMillis {
    lines.iter().fold(StandardMillis::ZERO, |sum, line| sum.plus(line.standard))
}

/// The same use in lines that fit: of days with too many shapes, those that were used least become one line.
fn fitting(lines: Vec<StatementLine>) -> Vec<StatementLine> {
    let mut days: BTreeMap<Day, Vec<StatementLine>> = BTreeMap::new();
    for line in lines {
        days.entry(line.day).or_default().push(line);
    }
    days.into_values().flat_map(fitting_day).collect()
}

fn fitting_day(mut lines: Vec<StatementLine>) -> Vec<StatementLine> {
    if lines.len() <= SHAPES_PER_DAY {
        return lines;
    }
    // By use, most first; among equals the order of shapes stays.
    lines.sort_by_key(|line| std::cmp::Reverse(line.standard));
    let rare = lines.split_off(SHAPES_PER_DAY - 1);
    lines.sort_by_key(|line| line.shape.map(|shape| (shape.vcpus, shape.memory)));
    let day = rare[0].day;
    let sandboxes = rare.iter().fold(0_u32, |sum, line| sum.saturating_add(line.sandboxes));
    lines.push(StatementLine { day, shape: None, sandboxes, standard: sum(&rare) });
    lines
}

#[cfg(test)]
mod tests {
    use omnirun_events::unit::{Mebibytes, Shape, Vcpus};

    use super::*;

    #[test]
    fn a_day_of_many_shapes_has_few_lines_and_the_same_sum() {
        let line = |n: u32| StatementLine {
            day: Day(7),
            shape: Some(Shape { vcpus: Vcpus(1), memory: Mebibytes(n) }),
            sandboxes: 2,
            standard: StandardMillis(u64::from(n % 50) * 1000),
        };
        let many: Vec<_> = (0..1000).map(line).collect();
        let few = fitting(many.clone());
        assert_eq!((few.len(), sum(&few)), (SHAPES_PER_DAY, sum(&many)));
        let last = few.last().expect("there are forty");
        assert_eq!((last.shape, last.sandboxes), (None, 2 * (1000 - 39)));
        assert!(few.iter().take(39).all(|line| line.standard >= StandardMillis(48_000)));
        assert_eq!(fitting(many[..40].to_vec()), many[..40]);
    }
}
