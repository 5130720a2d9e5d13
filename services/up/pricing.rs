//! What usage costs, for the gateway: billing's rating behind the gateway's trait.

use std::sync::Arc;

use omnirun_billing::{Plans, rate};
use omnirun_gateway::{MicroCents, Pricing};
use omnirun_projections::usage::SandboxUsage;

/// Prices by the plans of this process.
pub struct PlanPricing(Arc<Plans>);

impl PlanPricing {
    /// Prices by these plans.
    pub fn new(plans: Arc<Plans>) -> Self {
        Self(plans)
    }
}

impl Pricing for PlanPricing {
    fn price(&self, plan: &str, usage: &[&SandboxUsage]) -> Option<MicroCents> {
        let plan = self.0.get(plan)?;
        let used = usage.iter().filter_map(|used| Some(used.shape?.weigh(used.meter.wall)));
        Some(MicroCents(rate(plan, used).amount.0))
    }
}
