//! Bills over made-up histories, beside bills computed naively from the same histories.

mod history;

use std::collections::BTreeMap;

use history::{Chaos, History, PRICE, history};
use omnirun_billing::due::{month_to_date, notice_due};
use omnirun_billing::statement::{check, statement, sum};
use omnirun_billing::{Billing, Ledger, Period, Plans};
use omnirun_events::billing::StatementClosed;
use omnirun_events::event::Event;
use omnirun_events::sandbox::StopReason;
use omnirun_events::unit::{MebibyteSeconds, Millis, Shape, StandardMillis, Timestamp};
use omnirun_events::usage::Meter;
use omnirun_projections::Fold as _;
use proptest::prelude::*;

/// Seconds of a standard shape that a sandbox of this shape has used by a reading, by the words of the price list alone: running time, and
/// a quarter of what a guest of this memory would count for the memory that was held beyond that.
fn naive_seconds(shape: Shape, meter: &Meter) -> u128 {
    let (vcpus, memory) = (u128::from(shape.vcpus.0), u128::from(shape.memory.0));
    let ran = u128::from(meter.wall.0);
    let held_paused =
        u128::from(meter.memory.0) * 1000 - (ran * memory).min(u128::from(meter.memory.0) * 1000);
    let counted = ran + held_paused / (4 * 2048.max((2048 * vcpus).div_ceil(4)).max(memory));
    let by_cpu = (counted * vcpus).div_ceil(4);
    let by_memory = (counted * memory).div_ceil(2048);
    counted.max(by_cpu).max(by_memory).div_ceil(1000)
}

/// Everything that an account was or will be charged for: closed statements, and the rest as if the months were closed at the end.
fn all_statements(ledger: &Ledger, plans: &Plans, end: Timestamp) -> Vec<StatementClosed> {
    let plan = plans.get("test").expect("one plan");
    let mut all: Vec<_> = ledger.statements().iter().map(|closed| closed.statement.clone()).collect();
    let mut period = ledger.first_open();
    while period.start <= end {
        all.push(statement(ledger, plan, period));
        period = period.next(ledger.opened_at);
    }
    all
}

/// Seconds by account and first moment of a month, of what was known by the time that the month was closed.
fn naive_months(history: &History) -> BTreeMap<(u8, u64), u128> {
    let mut months = BTreeMap::new();
    for sandbox in &history.sandboxes {
        let opened = history.opened(sandbox.account);
        let mut readings = sandbox.readings();
        readings.sort_by_key(|(at, meter)| (*at, meter.wall, meter.memory));
        let mut before = 0;
        for (at, meter) in readings {
            let so_far = naive_seconds(sandbox.shape(), &meter).max(before);
            let month = Period::of(opened, at).start.0;
            *months.entry((sandbox.account, month)).or_default() += so_far - before;
            before = so_far;
        }
    }
    months
}

proptest! {
    #[test]
    fn a_bill_is_what_every_sandbox_ran_times_the_price_to_the_micro_cent(history in history(Chaos::Late)) {
        let (live, plans) = (history.live(), history.plans());
        let naive = naive_months(&history);
        for account in 0..history::ACCOUNTS {
            let ledger = live.of(history::account(account)).expect("it was opened");
            let mut expected: BTreeMap<u64, u128> = BTreeMap::new();
            for ((_, month), seconds) in naive.iter().filter(|((of, _), _)| *of == account) {
                expected.insert(*month, *seconds);
            }
            for statement in all_statements(ledger, &plans, history.end()) {
                let seconds = expected.remove(&statement.start.0).unwrap_or_default();
                prop_assert_eq!(u128::from(statement.standard.0), seconds * 1000);
                let above = seconds.saturating_sub(u128::from(history::INCLUDED_SECONDS));
                prop_assert_eq!(u128::from(statement.amount.0), 1_000 + above * u128::from(PRICE));
                prop_assert_eq!(sum(&statement.lines), statement.standard);
            }
            expected.retain(|_, seconds| *seconds > 0);
            prop_assert!(expected.is_empty(), "not billed: {:?}", expected);
        }
    }

    #[test]
    fn no_clock_no_lateness_and_no_repetition_bills_a_second_twice(history in history(Chaos::Anything)) {
        let (live, plans) = (history.live(), history.plans());
        for account in 0..history::ACCOUNTS {
            let ledger = live.of(history::account(account)).expect("it was opened");
            // Readings whose clock was far off lie in months up to a day past the end.
            let all = all_statements(ledger, &plans, history.end().after(Millis(40 * history::DAY)));
            let billed: u128 = all.iter().map(|statement| u128::from(statement.standard.0)).sum();
            let ran = history.sandboxes.iter().filter(|sandbox| sandbox.account == account);
            let ran: u128 = ran.map(|sandbox| naive_seconds(sandbox.shape(), &sandbox.ran()) * 1000).sum();
            prop_assert!(billed <= ran, "{} of {}", billed, ran);
            prop_assert!(all.is_sorted_by(|a, b| a.end <= b.start), "months overlap");
        }
    }

    #[test]
    fn a_replay_gives_the_live_state_and_so_does_every_checkpoint(history in history(Chaos::Anything), cut in any::<prop::sample::Index>()) {
        let live = history.live();
        let replayed = history.replayed(|_| true);
        prop_assert_eq!(&replayed, &live);
        prop_assert_eq!(replayed.digest(), live.digest());
        let steps = history.run().1;
        let cut = cut.index(steps.len() + 1);
        let before = history::fold(Billing::default(), &steps[..cut]);
        let bytes = rmp_serde::to_vec_named(&before).expect("it encodes");
        let stored: Billing = rmp_serde::from_slice(&bytes).expect("it was just encoded");
        prop_assert_eq!(history::fold(stored, &steps[cut..]), live);
    }

    #[test]
    fn a_rebuild_needs_no_reading_from_before_the_last_closed_statement(history in history(Chaos::Anything)) {
        let live = history.live();
        let closed = |account| live.of(account).map(|ledger| ledger.first_open().start).unwrap_or_default();
        let rebuilt = history.replayed(|reading| reading.observed_at >= closed(reading.account));
        prop_assert_eq!(rebuilt, live);
    }

    #[test]
    fn every_statement_follows_from_its_own_lines_and_from_no_others(history in history(Chaos::Late), more in 1_u64..9) {
        let (live, plans) = (history.live(), history.plans());
        let ledger = live.of(history::account(0)).expect("it was opened");
        let plan = plans.get("test").expect("one plan");
        for statement in all_statements(ledger, &plans, history.end()) {
            let period = ledger.period(statement.start);
            prop_assert_eq!(check(&statement, plan, period), Ok(()));
            let mut other = statement.clone();
            other.amount.0 += more;
            prop_assert!(check(&other, plan, period).is_err());
            let mut other = statement.clone();
            if let Some(line) = other.lines.first_mut() {
                line.standard.0 += more * 1000;
                prop_assert!(check(&other, plan, period).is_err());
            }
            prop_assert!(check(&statement, plan, period.next(ledger.opened_at)).is_err());
        }
    }
}

/// One sandbox of account 0 that ran from its first moment on, read once an hour.
fn steady(hours: u64) -> History {
    let sandbox = history::Sandbox { start: 0, length: hours * 3_600_000, ..history::Sandbox::plain() };
    History { sandboxes: vec![sandbox], ..History::empty() }
}

#[test]
fn a_sandbox_over_a_months_end_is_billed_in_both_months_and_in_each_once() {
    let mut history = steady(24);
    history.sandboxes[0].start = 30 * history::DAY + 12 * 3_600_000;
    let state = history.until(history::begin().after(Millis(40 * history::DAY)));
    let ledger = state.of(history::account(0)).expect("it was opened");
    let closed = ledger.statements().last().expect("January is closed, February is not");
    assert_eq!(closed.statement.standard, StandardMillis(11 * 3_600_000));
    let [carried] = closed.statement.carried[..] else { panic!("one sandbox ran on") };
    // The reading at midnight is the next day's.
    assert_eq!(carried.wall, Millis(11 * 3_600_000));
    assert_eq!(ledger.used(ledger.first_open()), StandardMillis(13 * 3_600_000));
}

#[test]
fn a_host_that_died_is_billed_to_its_last_reading_and_not_beyond() {
    let mut history = steady(10);
    history.sandboxes[0].dies_after = Some(3);
    let live = history.live();
    let ledger = live.of(history::account(0)).expect("it was opened");
    let used: u64 = ledger.statements().iter().map(|closed| closed.statement.standard.0).sum();
    assert_eq!(used, 3 * 3_600_000);
}

#[test]
fn a_pause_of_eight_gibibyte_hours_costs_an_hour_of_a_standard_shape() {
    let mut history = steady(17);
    history.sandboxes[0].pause = Some((3_600_000, 16 * 3_600_000));
    let live = history.live();
    let ledger = live.of(history::account(0)).expect("it was opened");
    let used: u64 = ledger.statements().iter().map(|closed| closed.statement.standard.0).sum();
    // An hour running, and 16 hours of 512 MiB.
    assert_eq!(used, 2 * 3_600_000);
}

#[test]
fn nobody_is_billed_for_more_than_was_reserved() {
    let mut steps = steady(1).run().1;
    let more = Meter { wall: Millis(3_600_001), memory: MebibyteSeconds(512 * 3_601), ..Meter::default() };
    for step in &mut steps {
        match &mut step.event {
            Event::UsageMetered(metered) => metered.meter = more,
            Event::SandboxStopped(stopped) => stopped.meter = more,
            _ => {}
        }
    }
    steps.retain(|step| !matches!(step.event, Event::StatementClosed(_)));
    let state = history::fold(Billing::default(), &steps);
    let ledger = state.of(history::account(0)).expect("it was opened");
    assert_eq!(ledger.used(ledger.period(history::begin())), StandardMillis(3_600_000));
}

#[test]
fn a_host_that_comes_back_without_its_numbers_takes_nothing_off_the_bill() {
    let mut steps = steady(2).run().1;
    for step in &mut steps {
        if let Event::SandboxStopped(stopped) = &mut step.event {
            (stopped.reason, stopped.meter) = (StopReason::OwnerDied, Meter::default());
        }
    }
    steps.retain(|step| !matches!(step.event, Event::StatementClosed(_)));
    let state = history::fold(Billing::default(), &steps);
    let ledger = state.of(history::account(0)).expect("it was opened");
    assert_eq!(ledger.used(ledger.period(history::begin())), StandardMillis(2 * 3_600_000));
}

#[test]
fn a_second_that_the_clock_counts_twice_at_a_months_end_is_billed_as_often_as_it_passed() {
    let mut history = steady(1);
    let sandbox = &mut history.sandboxes[0];
    (sandbox.start, sandbox.length, sandbox.every) = (31 * history::DAY - 4_000, 10_000, 1_000);
    // The fifth reading has the time of the fourth, the first moment of February; the clock is a second behind from there on.
    sandbox.clock = [vec![history::DAY; 4], vec![history::DAY - 1_000; 6]].concat();
    let (live, plans) = (history.live(), history.plans());
    let ledger = live.of(history::account(0)).expect("it was opened");
    let all = all_statements(ledger, &plans, history.end());
    let seconds: Vec<u64> =
        all.iter().map(|statement| statement.standard.0 / 1000).filter(|n| *n > 0).collect();
    assert_eq!(seconds, [3, 7]);
}

#[test]
fn half_four_fifths_and_all_of_what_a_month_includes_are_worth_a_notice() {
    let plans = History::empty().plans();
    let hours = history::INCLUDED_SECONDS / 3600;
    for (ran, expected) in
        [(hours / 2 - 1, None), (hours / 2, Some(50)), (hours * 4 / 5, Some(80)), (hours, Some(100))]
    {
        let history = steady(ran);
        let now = history::begin().after(Millis(20 * history::DAY));
        let state = history.until(now);
        let ledger = state.of(history::account(0)).expect("it was opened");
        let notice = notice_due(ledger, &plans, now).expect("one plan");
        assert_eq!(notice.as_ref().map(|notice| notice.percent), expected, "{ran} h");
        let month = month_to_date(ledger, &plans, now).expect("one plan");
        assert_eq!(month.bill.standard, StandardMillis(ran * 3_600_000));
        assert!(month.forecast.standard >= month.bill.standard && month.forecast.amount >= month.bill.amount);
    }
}
