//! Admission: the limits of a plan. Exact because every reservation of an account is decided one after the other on one subject.
//!
//! A sandbox's whole charge counts in the month it was admitted in. Sandboxes that are not final count with their reservation, stopped ones
//! with what they ran, failed ones not at all. A paused one keeps its place among those that exist at once.

use omnirun_billing::calendar::Date;
use omnirun_billing::{Period, Plan, Plans, Price};
use omnirun_commands_api::{Code, Rejection};
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::unit::{Day, Millis, Shape, StandardMillis, Timestamp};
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::Sandbox;

use super::must_be_open;

/// The plan an account is on and its month.
pub struct Terms<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The month that now lies in.
    pub period: Period,
    /// The price that this month is rated by.
    pub price: &'a Price,
}

/// The length of time in which a plan admits so many sandboxes.
const MINUTE: Millis = Millis(60_000);

/// The terms of an account at `now`.
pub fn terms<'a>(
    directory: &Directory,
    plans: &'a Plans,
    account: AccountId,
    now: Timestamp,
) -> Result<Terms<'a>, Rejection> {
    let known = must_be_open(directory, account)?;
    let period = Period::of(known.opened_at, now);
    let plan = plan_of(plans, known.plans.at(period.start))?;
    Ok(Terms { plan, period, price: plan.price_at(period.start) })
}

/// The plan with this name; one that a plans file does not have any more is an operator's mistake.
pub(crate) fn plan_of<'a>(plans: &'a Plans, name: &str) -> Result<&'a Plan, Rejection> {
    plans.get(name).ok_or_else(|| {
        let message = "The account's plan is not in this deployment's plans file; an operator has to add it.";
        Rejection::retryable(Code::Busy, message, Millis(60_000))
    })
}

impl Terms<'_> {
    /// Refuses a shape that the plan does not have.
    pub fn allow_shape(&self, shape: Shape) -> Result<(), Rejection> {
        let plan = self.plan;
        if shape.vcpus > plan.vcpus_max || shape.memory > plan.memory_max {
            return Err(self.limit(format!(
                "allows {} vCPU and {} MiB for one sandbox; {} vCPU and {} MiB were asked for.",
                plan.vcpus_max.0, plan.memory_max.0, shape.vcpus.0, shape.memory.0
            )));
        }
        Ok(())
    }

    /// Refuses a life that is longer than the plan's longest.
    pub fn allow_session(&self, length: Millis) -> Result<(), Rejection> {
        let longest = self.plan.session_max;
        if length > Millis::from(longest) {
            return Err(self.limit(format!(
                "lets one sandbox live {} s; {} s were asked for in all.",
                longest.0,
                length.0.div_ceil(1000)
            )));
        }
        Ok(())
    }

    /// Refuses one sandbox more than the plan allows at once.
    pub fn allow_another(&self, directory: &Directory, account: AccountId) -> Result<(), Rejection> {
        let live = directory.sandboxes.live_of(account);
        if live >= self.plan.concurrency {
            return Err(self.limit(format!(
                "allows {} sandboxes at once and {live} exist; there is room again when one of them ends.",
                self.plan.concurrency
            )));
        }
        Ok(())
    }

    /// Refuses one sandbox more than the plan admits in a minute.
    pub fn allow_now(
        &self,
        directory: &Directory,
        account: AccountId,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        let limit = self.plan.creations_per_minute as usize;
        let recent = directory.sandboxes.of(account).rev().map(|(_, sandbox)| sandbox.requested_at);
        // Newest first: the one that has to leave the minute before there is room is the oldest of the last `limit`.
        let Some(oldest) = recent.take(limit).nth(limit - 1) else { return Ok(()) };
        let wait = oldest.after(MINUTE).since(now);
        // A clock that was set back says nothing of how long ago that was, and makes nobody wait until it has caught up.
        if wait == Millis::ZERO || oldest > now {
            return Ok(());
        }
        let message = format!(
            "The plan {} admits {limit} sandboxes a minute and {limit} were admitted in the last one; there is room again in {} s.",
            self.plan.name,
            wait.0.div_ceil(1000)
        );
        Err(Rejection::retryable(Code::RateLimited, message, wait))
    }

    /// Refuses a reservation for `sandbox` that would exceed what the month includes, where the plan sells no more.
    pub fn allow_reservation(
        &self,
        directory: &Directory,
        account: AccountId,
        sandbox: SandboxId,
        wanted: StandardMillis,
    ) -> Result<(), Rejection> {
        if self.price.overage_per_second.is_some() {
            return Ok(());
        }
        let used = charged(directory, account, sandbox, self.period);
        if used.plus(wanted) > self.price.included {
            return Err(self.limit(format!(
                "includes {} sandbox-hours a month; {} are used or reserved and this would reserve {}. It resets on {} at 00:00 UTC.",
                hours(self.price.included),
                hours(used),
                hours(wanted),
                Date::of(self.period.end)
            )));
        }
        Ok(())
    }

    fn limit(&self, rest: String) -> Rejection {
        Rejection::new(Code::PlanLimit, format!("The plan {} {rest}", self.plan.name))
    }
}

/// What the account's sandboxes but `except` use or may use of `period`.
fn charged(directory: &Directory, account: AccountId, except: SandboxId, period: Period) -> StandardMillis {
    let sandboxes = &directory.sandboxes;
    // A month begins and ends with a day.
    let all = sandboxes.charged(account, Day::of(period.start), Day::of(period.end));
    let excepted =
        sandboxes.get(except).filter(|one| one.account == account && period.contains(one.requested_at));
    all.minus(excepted.map_or(StandardMillis::ZERO, Sandbox::charged))
}

/// Hours with two decimals, rounded up: nobody is told that nothing is used when something is.
fn hours(amount: StandardMillis) -> String {
    let hundredths = amount.0.div_ceil(36_000);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
