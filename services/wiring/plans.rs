//! Plans and what usage costs by them: the option that names them, and billing's rating behind the gateway's trait.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use omnirun_billing::{Plans, billed, rate};
use omnirun_events::unit::{StandardMillis, Timestamp};
use omnirun_gateway::{MicroCents, Pricing};
use omnirun_projections::usage::SandboxUsage;

/// Which plans.
#[derive(Debug, Args)]
pub struct PlanOptions {
    /// Plans and prices; without it, those of infra/plans.toml as it was built in
    #[arg(long, env = "OMNIRUN_PLANS")]
    pub plans: Option<PathBuf>,
}

impl PlanOptions {
    /// The plans.
    pub fn load(&self) -> Result<Plans> {
        let Some(path) = &self.plans else {
            return Plans::parse(include_str!("../../infra/plans.toml"))
                .context("the plans that were built in are wrong");
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Plans::parse(&text).with_context(|| format!("the plans in {} are wrong", path.display()))
    }
}

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
        let used = usage.iter().filter_map(|used| Some(billed(used.shape?, used.meter.wall)));
        let used = used.fold(StandardMillis::ZERO, StandardMillis::plus);
        Some(MicroCents(rate(plan.price_at(Timestamp(u64::MAX)), used).amount.0))
    }
}
