//! Plans, as `infra/plans.toml` gives them. That file documents each field and its unit; here they become unit types, checked.

use std::collections::BTreeMap;

use omnirun_events::unit::{Mebibytes, Seconds, StandardMillis, Vcpus};
use serde::Deserialize;

use crate::money::MicroCents;

/// Milliseconds in an hour.
const HOUR: u64 = 3600 * 1000;

/// What an account on this plan may use, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name, as accounts record it.
    pub name: String,
    /// For one month, whatever is used.
    pub price_month: MicroCents,
    /// For twelve months paid at once.
    pub price_year: MicroCents,
    /// What a month includes.
    pub included: StandardMillis,
    /// For each second of a standard shape above that; none = not sold, so that nothing above it is admitted.
    pub overage_per_second: Option<MicroCents>,
    /// Sandboxes that exist at once.
    pub concurrency: u32,
    /// Life of one sandbox, extensions included.
    pub session_max: Seconds,
    /// Virtual processors of one sandbox.
    pub vcpus_max: Vcpus,
    /// Memory of one sandbox.
    pub memory_max: Mebibytes,
}

/// Every plan of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    start: String,
    plans: BTreeMap<String, Plan>,
}

/// Why a plans file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    /// It is not TOML of the documented shape.
    #[error("the plans file cannot be read")]
    Toml(#[from] toml::de::Error),
    /// A value is out of its range.
    #[error("plan {plan}: {field} {rule}")]
    Value {
        /// The plan.
        plan: String,
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// `start` names no plan.
    #[error("the plans file starts accounts on {start}, which it does not hold")]
    Start {
        /// The name.
        start: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    start: String,
    plan: BTreeMap<String, Fields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    price_month: u64,
    price_year: u64,
    hours_included: u32,
    overage_per_hour: Option<u64>,
    concurrency: u32,
    session_seconds_max: u32,
    vcpus_max: u8,
    memory_mib_max: u32,
}

impl Plans {
    /// The plans in the text of a plans file.
    pub fn parse(text: &str) -> Result<Self, PlansError> {
        let file: File = toml::from_str(text)?;
        let plans = file.plan.into_iter().map(|(name, fields)| Ok((name.clone(), fields.check(name)?)));
        let plans = plans.collect::<Result<BTreeMap<_, _>, PlansError>>()?;
        if !plans.contains_key(&file.start) {
            return Err(PlansError::Start { start: file.start });
        }
        Ok(Self { start: file.start, plans })
    }

    /// The plan with this name.
    pub fn get(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// The plan that a new account is on.
    pub fn start(&self) -> &Plan {
        &self.plans[&self.start]
    }

    /// Every plan, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
    }
}

impl Fields {
    fn check(self, name: String) -> Result<Plan, PlansError> {
        let refuse = |field, rule| PlansError::Value { plan: name.clone(), field, rule };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(is_name) {
            return Err(refuse("the name", "must be 1 to 32 of a-z, 0-9 and _"));
        }
        if self.overage_per_hour.is_some_and(|price| !price.is_multiple_of(3600)) {
            return Err(refuse("overage_per_hour", "must be a multiple of 3600 micro-cents"));
        }
        if self.concurrency == 0 {
            return Err(refuse("concurrency", "must be at least 1"));
        }
        if !(1..=7 * 24 * 3600).contains(&self.session_seconds_max) {
            return Err(refuse("session_seconds_max", "must be 1 second to 7 days"));
        }
        if self.vcpus_max == 0 {
            return Err(refuse("vcpus_max", "must be at least 1"));
        }
        if self.memory_mib_max < 128 {
            return Err(refuse("memory_mib_max", "must be at least 128 MiB"));
        }
        Ok(Plan {
            name,
            price_month: MicroCents(self.price_month),
            price_year: MicroCents(self.price_year),
            included: StandardMillis(u64::from(self.hours_included).saturating_mul(HOUR)),
            overage_per_second: self.overage_per_hour.map(|price| MicroCents(price / 3600)),
            concurrency: self.concurrency,
            session_max: Seconds(self.session_seconds_max),
            vcpus_max: Vcpus(self.vcpus_max),
            memory_max: Mebibytes(self.memory_mib_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = include_str!("../../../infra/plans.toml");

    #[test]
    fn the_given_plans_are_valid_and_the_first_one_is_free_without_overage() {
        let plans = Plans::parse(GIVEN).expect("the project's own file");
        let start = plans.start();
        assert_eq!((start.name.as_str(), start.price_month), ("sandbox", MicroCents::ZERO));
        assert_eq!((start.included, start.overage_per_second), (StandardMillis(25 * HOUR), None));
        assert!(plans.iter().count() == 3 && plans.get("launch").is_some() && plans.get("scale").is_some());
    }

    #[track_caller]
    fn refused(from: &str, to: &str, expected: &str) {
        let text = GIVEN.replacen(from, to, 1);
        assert_ne!(text, GIVEN, "the file has no {from}");
        let error = Plans::parse(&text).expect_err("a wrong value");
        let text = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_plan_and_field() {
        refused("\nstart = \"sandbox\"", "\nstart = \"gold\"", "gold");
        refused("concurrency = 20", "concurrency = 0", "plan sandbox: concurrency");
        refused("5_000_400", "5_000_401", "plan launch: overage_per_hour");
        refused("session_seconds_max = 3600", "session_seconds_max = 0", "session_seconds_max");
        refused("vcpus_max = 2", "vcpus_max = 0", "vcpus_max");
        refused("memory_mib_max = 2048", "memory_mib_max = 64", "memory_mib_max");
        refused("hours_included = 25", "hours_included = 2.5", "hours_included");
        refused("hours_included = 25", "hours_include = 25", "hours_include");
        refused("[plan.sandbox]", "[plan.\"A b\"]", "the name");
    }
}
