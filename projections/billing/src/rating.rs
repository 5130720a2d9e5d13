//! Rating: from use of the plan to an amount. Per second, integers only. What counts as use is [`Shape::charge`]'s to say.
//!
//! [`Shape::charge`]: omnirun_events::unit::Shape::charge

use omnirun_events::unit::{MicroCents, StandardMillis};
use serde::{Deserialize, Serialize};

use crate::plans::Price;

/// What one period costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bill {
    /// Time of a standard shape that was used, whole seconds.
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

/// The bill for this much use. Overage where the price sells none costs nothing: it can only come of a plan that
/// was changed, which is ours to bear.
pub fn rate(price: &Price, standard: StandardMillis) -> Bill {
    let included = standard.min(price.included);
    let overage = standard.minus(included);
    let per_second = price.overage_per_second.unwrap_or_default();
    let amount = price.month.plus(per_second.times(overage.0.div_ceil(1000)));
    Bill { standard, included, overage, base: price.month, amount }
}

#[cfg(test)]
mod tests {
    use omnirun_events::unit::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn price(included: u64, overage_per_second: Option<u64>) -> Price {
        Price {
            from: Timestamp(0),
            month: MicroCents(1_000_000),
            year: MicroCents(10_000_000),
            included: StandardMillis(included),
            overage_per_second: overage_per_second.map(MicroCents),
        }
    }

    #[test]
    fn what_the_plan_includes_costs_nothing_more() {
        let bill = rate(&price(5000, Some(7)), StandardMillis(5000));
        assert_eq!((bill.overage, bill.amount), (StandardMillis::ZERO, bill.base));
        let bill = rate(&price(5000, Some(7)), StandardMillis(6000));
        assert_eq!((bill.overage, bill.amount), (StandardMillis(1000), MicroCents(1_000_007)));
    }

    #[test]
    fn a_plan_without_overage_never_costs_more_than_its_price() {
        assert_eq!(rate(&price(0, None), StandardMillis(9_000_000)).amount, MicroCents(1_000_000));
    }

    proptest! {
        #[test]
        fn a_bill_is_the_price_plus_every_second_above_the_included_ones(
            used in 0_u64..100_000_000, included in 0_u64..1_000_000, per_second in 0_u64..10_000,
        ) {
            let bill = rate(&price(included * 1000, Some(per_second)), StandardMillis(used * 1000));
            let above = u128::from(used).saturating_sub(u128::from(included));
            prop_assert_eq!(u128::from(bill.amount.0), 1_000_000 + above * u128::from(per_second));
            prop_assert_eq!(bill.included.plus(bill.overage), bill.standard);
        }
    }
}
