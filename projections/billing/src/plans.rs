//! Plans, as `infra/plans.toml` gives them. That file documents each field and its unit; here they become unit types, checked.

use std::collections::BTreeMap;

use omnirun_events::unit::{Mebibytes, MicroCents, Seconds, StandardMillis, Timestamp, Vcpus};
use serde::Deserialize;

use crate::calendar::Date;

/// Milliseconds in an hour.
const HOUR: u64 = 3600 * 1000;

/// What an account on this plan may use, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name, as accounts record it.
    pub name: String,
    /// Sandboxes that exist at once.
    pub concurrency: u32,
    /// Sandboxes that are admitted within a minute.
    pub creations_per_minute: u32,
    /// Life of one sandbox, extensions included.
    pub session_max: Seconds,
    /// Virtual processors of one sandbox.
    pub vcpus_max: Vcpus,
    /// Memory of one sandbox.
    pub memory_max: Mebibytes,
    /// Versions of the price book, oldest first; at least one.
    prices: Vec<Price>,
}

/// One version of what a plan costs and what a month of it includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Since when it holds: the first moment of a day.
    pub from: Timestamp,
    /// For one month, whatever is used.
    pub month: MicroCents,
    /// For twelve months paid at once.
    pub year: MicroCents,
    /// What a month includes.
    pub included: StandardMillis,
    /// For each second of a standard shape above that; none = not sold, so that nothing above it is admitted.
    pub overage_per_second: Option<MicroCents>,
}

impl Plan {
    /// The version that a month which begins at `start` is rated by: the last one that held then, or the first one there is.
    pub fn price_at(&self, start: Timestamp) -> &Price {
        let held = self.prices.iter().rev().find(|price| price.from <= start);
        held.unwrap_or(&self.prices[0])
    }
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
    concurrency: u32,
    creations_per_minute: u32,
    session_seconds_max: u32,
    vcpus_max: u8,
    memory_mib_max: u32,
    #[serde(default)]
    price: Vec<PriceFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFields {
    from: String,
    month: u64,
    year: u64,
    hours_included: u32,
    overage_per_hour: Option<u64>,
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
        if self.concurrency == 0 {
            return Err(refuse("concurrency", "must be at least 1"));
        }
        if self.creations_per_minute == 0 {
            return Err(refuse("creations_per_minute", "must be at least 1"));
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
        let prices =
            self.price.into_iter().map(|price| price.check(refuse)).collect::<Result<Vec<_>, _>>()?;
        if prices.is_empty() {
            return Err(refuse("price", "must have at least one version"));
        }
        if !prices.is_sorted_by(|earlier, later| earlier.from < later.from) {
            return Err(refuse("price.from", "must be a later day in each version"));
        }
        Ok(Plan {
            name,
            concurrency: self.concurrency,
            creations_per_minute: self.creations_per_minute,
            session_max: Seconds(self.session_seconds_max),
            vcpus_max: Vcpus(self.vcpus_max),
            memory_max: Mebibytes(self.memory_mib_max),
            prices,
        })
    }
}

impl PriceFields {
    fn check(self, refuse: impl Fn(&'static str, &'static str) -> PlansError) -> Result<Price, PlansError> {
        let from = Date::parse(&self.from);
        let from = from.ok_or_else(|| refuse("price.from", "must be a day such as 2026-01-31"))?;
        if self.year > self.month.saturating_mul(12) {
            return Err(refuse("price.year", "must be at most twelve times price.month"));
        }
        if self.overage_per_hour.is_some_and(|price| !price.is_multiple_of(3600)) {
            return Err(refuse("price.overage_per_hour", "must be a multiple of 3600 micro-cents"));
        }
        Ok(Price {
            from: from.start(),
            month: MicroCents(self.month),
            year: MicroCents(self.year),
            included: StandardMillis(u64::from(self.hours_included).saturating_mul(HOUR)),
            overage_per_second: self.overage_per_hour.map(|price| MicroCents(price / 3600)),
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
        let price = start.price_at(Timestamp(0));
        assert_eq!((start.name.as_str(), price.month, price.year), ("sandbox", MicroCents(0), MicroCents(0)));
        assert_eq!((price.included, price.overage_per_second), (StandardMillis(25 * HOUR), None));
        assert!(plans.iter().count() == 3 && plans.get("launch").is_some() && plans.get("scale").is_some());
    }

    #[test]
    fn a_month_is_rated_by_the_version_that_holds_when_it_begins() {
        let newer =
            "\n[[plan.launch.price]]\nfrom = \"2027-03-10\"\nmonth = 5\nyear = 50\nhours_included = 1\n";
        let plans = Plans::parse(&format!("{GIVEN}{newer}")).expect("a later version");
        let launch = plans.get("launch").expect("there is one");
        let month = |year, month, day| launch.price_at(Date { year, month, day }.start()).month.0;
        assert_eq!(month(2027, 3, 9), 1_900_000_000);
        assert_eq!(month(2027, 3, 10), 5);
        assert_eq!(month(2020, 1, 1), 1_900_000_000, "before the first version, the first holds");
        let older = newer.replace("2027", "2025");
        let error = Plans::parse(&format!("{GIVEN}{older}")).expect_err("out of order");
        assert!(error.to_string().contains("plan launch: price.from"), "{error}");
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
        refused(
            "creations_per_minute = 300",
            "creations_per_minute = 0",
            "plan launch: creations_per_minute",
        );
        refused("session_seconds_max = 3600", "session_seconds_max = 0", "session_seconds_max");
        refused("vcpus_max = 2", "vcpus_max = 0", "vcpus_max");
        refused("memory_mib_max = 2048", "memory_mib_max = 64", "memory_mib_max");
        refused("5_000_400", "5_000_401", "plan launch: price.overage_per_hour");
        refused("year = 19_000_000_000", "year = 22_800_000_001", "plan launch: price.year");
        refused("from = \"2026-01-01\"", "from = \"2026-02-30\"", "plan sandbox: price.from");
        refused("hours_included = 25", "hours_included = 2.5", "hours_included");
        refused("hours_included = 25", "hours_include = 25", "hours_include");
        refused("month = 0\n", "month = -1\n", "month");
        let error = Plans::parse(&GIVEN.replace("plan.scale", "plan.\"A b\"")).expect_err("no name");
        assert!(error.to_string().contains("plan A b: the name"), "{error}");
        let without = GIVEN.split("[[plan.scale.price]]").next().expect("there is a first part");
        let error = Plans::parse(without).expect_err("no price");
        assert_eq!(error.to_string(), "plan scale: price must have at least one version");
    }
}
