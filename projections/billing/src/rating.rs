//! Rating: from metered time to an amount. Per second, integers only.

use omnirun_events::id::AccountId;
use omnirun_events::unit::StandardMillis;
use omnirun_projections::Usage;
use serde::Serialize;

use crate::calendar::Period;
use crate::money::MicroCents;
use crate::plans::Plan;

/// What one period costs so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bill {
    /// Time of a standard shape that was used, each sandbox's rounded up to a whole second.
    pub standard: StandardMillis,
    /// The part of it that the plan includes.
    pub included: StandardMillis,
    /// The part above that.
    pub overage: StandardMillis,
    /// The plan's price of the month.
    pub base: MicroCents,
    /// Base and overage together.
    pub amount: MicroCents,
}

/// The bill for sandboxes that used these times. Overage on a plan that sells none costs nothing: it can only be what a sandbox ran
/// beyond its reservation, which is ours to bear.
pub fn rate(plan: &Plan, used: impl IntoIterator<Item = StandardMillis>) -> Bill {
    let seconds = used.into_iter().fold(0_u64, |sum, used| sum.saturating_add(used.0.div_ceil(1000)));
    let standard = StandardMillis(seconds.saturating_mul(1000));
    let included = standard.min(plan.included);
    let overage = standard.minus(included);
    let price = plan.overage_per_second.unwrap_or_default();
    let amount = plan.price_month.plus(price.times(overage.0 / 1000));
    Bill { standard, included, overage, base: plan.price_month, amount }
}

/// The time that each of an account's sandboxes used which started in `period`. A sandbox belongs whole to the period it started in.
pub fn used_in(usage: &Usage, account: AccountId, period: Period) -> impl Iterator<Item = StandardMillis> {
    usage.of(account).filter_map(move |(_, used)| {
        let started = used.started_at?;
        period.contains(started).then(|| used.shape.map(|shape| shape.weigh(used.meter.wall)))?
    })
}

#[cfg(test)]
mod tests {
    use omnirun_events::unit::{Mebibytes, Seconds, Vcpus};
    use proptest::prelude::*;

    use super::*;

    fn plan(included: u64, overage_per_second: Option<u64>) -> Plan {
        Plan {
            name: "test".to_owned(),
            price_month: MicroCents(1_000_000),
            price_year: MicroCents(10_000_000),
            included: StandardMillis(included),
            overage_per_second: overage_per_second.map(MicroCents),
            concurrency: 1,
            session_max: Seconds(3600),
            vcpus_max: Vcpus(1),
            memory_max: Mebibytes(512),
        }
    }

    #[test]
    fn a_started_second_is_a_second() {
        let bill = rate(&plan(0, Some(7)), [StandardMillis(1), StandardMillis(1001), StandardMillis(0)]);
        assert_eq!((bill.overage, bill.amount), (StandardMillis(3000), MicroCents(1_000_021)));
    }

    #[test]
    fn what_the_plan_includes_costs_nothing_more() {
        let bill = rate(&plan(5000, Some(7)), [StandardMillis(2000), StandardMillis(3000)]);
        assert_eq!(
            (bill.included, bill.overage, bill.amount),
            (StandardMillis(5000), StandardMillis::ZERO, bill.base)
        );
    }

    #[test]
    fn a_plan_without_overage_never_costs_more_than_its_price() {
        assert_eq!(rate(&plan(0, None), [StandardMillis(9_000_000)]).amount, MicroCents(1_000_000));
    }

    proptest! {
        #[test]
        fn a_bill_is_the_price_plus_every_second_above_the_included_ones(
            used in prop::collection::vec(0_u64..100_000_000, 0..50), included in 0_u64..1_000_000, price in 0_u64..10_000,
        ) {
            let bill = rate(&plan(included * 1000, Some(price)), used.iter().copied().map(StandardMillis));
            let seconds: u128 = used.iter().map(|used| u128::from(*used).div_ceil(1000)).sum();
            let above = seconds.saturating_sub(u128::from(included));
            prop_assert_eq!(u128::from(bill.amount.0), 1_000_000 + above * u128::from(price));
            prop_assert_eq!(bill.included.plus(bill.overage), bill.standard);
        }

        #[test]
        fn the_order_of_sandboxes_changes_no_bill(used in prop::collection::vec(0_u64..100_000_000, 0..50)) {
            let plan = plan(10_000, Some(3));
            let forwards = rate(&plan, used.iter().copied().map(StandardMillis));
            prop_assert_eq!(forwards, rate(&plan, used.iter().rev().copied().map(StandardMillis)));
        }
    }
}
