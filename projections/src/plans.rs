//! Which plan an account is on at a time. A change holds from the beginning of a month on, so that a month has one plan.

use omnirun_events::account::PlanChanged;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

/// The names of an account's plans, past and to come. What they mean is in the plans file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNames {
    opened: String,
    /// Since when which, oldest first.
    changes: Vec<(Timestamp, String)>,
}

impl PlanNames {
    /// Of an account that was opened on this plan.
    pub fn opened(plan: &str) -> Self {
        Self { opened: plan.to_owned(), changes: Vec::new() }
    }

    /// The plan at a moment.
    pub fn at(&self, at: Timestamp) -> &str {
        let held = self.changes.iter().rev().find(|(from, _)| *from <= at);
        held.map_or(&self.opened, |(_, plan)| plan)
    }

    /// The last plan that was wished for, from now on or from later.
    pub fn last(&self) -> &str {
        self.changes.last().map_or(&self.opened, |(_, plan)| plan)
    }

    /// Takes a change in. One for the same month or a later one is replaced: what was said last counts.
    pub fn change(&mut self, changed: &PlanChanged) {
        self.changes.retain(|(from, _)| *from < changed.from);
        self.changes.push((changed.from, changed.plan.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(plans: &mut PlanNames, from: u64, plan: &str) {
        plans.change(&PlanChanged { plan: plan.to_owned(), from: Timestamp(from) });
    }

    #[test]
    fn a_plan_holds_from_its_month_on_and_the_last_wish_for_a_month_counts() {
        let mut plans = PlanNames::opened("a");
        assert_eq!((plans.at(Timestamp(5)), plans.last()), ("a", "a"));
        change(&mut plans, 10, "b");
        change(&mut plans, 10, "c");
        assert_eq!((plans.at(Timestamp(9)), plans.at(Timestamp(10)), plans.last()), ("a", "c", "c"));
        change(&mut plans, 20, "a");
        assert_eq!([9, 19, 20].map(|at| plans.at(Timestamp(at))), ["a", "c", "a"]);
    }
}
