//! Plans: the option that names them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use omnirun_billing::Plans;

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
