//! CloseStatement, CorrectStatement, ChangePlan, SendUsageNotice: each writes its event once. What is closed was computed by whoever asks; here it is
//! checked against the plan and against itself.

use omnirun_billing::due::NOTICES;
use omnirun_billing::statement::{CLOSE_AFTER, check};
use omnirun_billing::{Period, Plans};
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::account::PlanChanged;
use omnirun_events::billing::{StatementClosed, StatementCorrected, UsageNoticed};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::MicroCents;
use omnirun_projections::Directory;

use super::admission::{plan_of, terms};
use super::{Decision, Wish, must_be_open, not_found};

/// Decides whether a month is closed with this statement. A month is closed once, in order, 48 hours after its end.
pub fn close(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    statement: &StatementClosed,
) -> Result<Decision, Rejection> {
    let account = directory.accounts.get(wish.account).ok_or_else(not_found)?;
    let standing = directory.standings.of(wish.account).cloned().unwrap_or_default();
    if standing.closed.get(&statement.start) == Some(&wish.commit()) {
        return Ok(Decision::Already(Outcome::StatementClosed));
    }
    if statement.start < standing.closed_through {
        let message = "This month is closed; what is wrong with it is a correction.";
        return Err(Rejection::new(Code::AlreadyFinal, message));
    }
    // Months that cost and used nothing have no statement. Use is not known here; a price is.
    let mut before = Period::of(account.opened_at, standing.closed_through.max(account.opened_at));
    while before.start < statement.start {
        let price = plan_of(plans, account.plans.at(before.start))?.price_at(before.start);
        if price.month > MicroCents::ZERO {
            let message = "A month before it has a price and is not closed; months are closed in order.";
            return Err(Rejection::new(Code::Invalid, message));
        }
        before = before.next(account.opened_at);
    }
    let plan = plan_of(plans, account.plans.at(statement.start))?;
    let period = Period::of(account.opened_at, statement.start);
    check(statement, plan, period).map_err(|wrong| {
        Rejection::new(Code::Invalid, format!("The statement is not what the account owes: {wrong}."))
    })?;
    let closes_at = period.end.after(CLOSE_AFTER);
    if wish.now < closes_at {
        let message = "A month is closed 48 hours after its end, when late readings have arrived.";
        return Err(Rejection::retryable(Code::Busy, message, closes_at.since(wish.now)));
    }
    let draft = wish.draft(SubjectKind::Billing(wish.account), statement.clone());
    Ok(Decision::Write(vec![draft], Outcome::StatementClosed))
}

/// Decides about a correction of a closed month.
pub fn correct(
    directory: &Directory,
    wish: &Wish,
    corrected: &StatementCorrected,
) -> Result<Decision, Rejection> {
    let standing = directory.standings.of(wish.account).ok_or_else(not_found)?;
    if standing.corrections.contains(&wish.commit()) {
        return Ok(Decision::Already(Outcome::StatementCorrected));
    }
    if !standing.closed.contains_key(&corrected.start) {
        return Err(not_found());
    }
    if corrected.amount == MicroCents::ZERO {
        return Err(Rejection::new(Code::Invalid, "A correction is of more than nothing."));
    }
    let draft = wish.draft(SubjectKind::Billing(wish.account), corrected.clone());
    Ok(Decision::Write(vec![draft], Outcome::StatementCorrected))
}

/// Decides whether the account is put on another plan. A month has one plan, so it is from the next month on.
pub fn change_plan(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    plan: &str,
) -> Result<Decision, Rejection> {
    let account = must_be_open(directory, wish.account)?;
    if plans.get(plan).is_none() {
        let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
        let message = format!("There is no such plan; there are {}.", names.join(", "));
        return Err(Rejection::new(Code::Invalid, message));
    }
    let from = Period::of(account.opened_at, wish.now).end;
    let outcome = Outcome::PlanChanged { from };
    if account.plans.at(from) == plan {
        return Ok(Decision::Already(outcome));
    }
    let changed = PlanChanged { plan: plan.to_owned(), from };
    Ok(Decision::Write(vec![wish.draft(SubjectKind::Account(wish.account), changed)], outcome))
}

/// Decides whether the account is told. A percentage that it was told this month, or a higher one, is not told again.
pub fn notice(
    directory: &Directory,
    plans: &Plans,
    wish: &Wish,
    noticed: &UsageNoticed,
) -> Result<Decision, Rejection> {
    let terms = terms(directory, plans, wish.account, wish.now)?;
    let told = directory.standings.of(wish.account).and_then(|standing| standing.noticed);
    if noticed.start != terms.period.start || told >= Some((noticed.start, noticed.percent)) {
        return Ok(Decision::Already(Outcome::UsageAlreadyNoticed));
    }
    let reached =
        u128::from(noticed.used.0) * 100 >= u128::from(noticed.included.0) * u128::from(noticed.percent);
    if !NOTICES.contains(&noticed.percent) || noticed.included != terms.price.included || !reached {
        return Err(Rejection::new(Code::Invalid, "The notice does not follow from the account's plan."));
    }
    let draft = wish.draft(SubjectKind::Billing(wish.account), noticed.clone());
    Ok(Decision::Write(vec![draft], Outcome::UsageNoticed))
}
