//! `omnirun ops account plan` and `omnirun ops account correct`: what an account pays, done by the running commands service. Who did it and why
//! is written down first.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use omnirun_commands_api::command::{Command, Whose};
use omnirun_commands_api::{Commands, Outcome};
use omnirun_events::billing::StatementCorrected;
use omnirun_events::id::AccountId;
use omnirun_events::ops::{Action, OpsActed};
use omnirun_events::unit::{Clock, Millis};

use crate::exit::Exit;
use crate::keys;

/// How long the commands service may take for each of the two.
const WITHIN: Millis = Millis(10_000);

/// Who acts, and why.
#[derive(Debug, Args)]
pub struct By {
    /// What you are called
    #[arg(long)]
    pub operator: String,
    /// Why, such as the number of the request; never who asked
    #[arg(long)]
    pub reason: String,
}

/// Puts an account on another plan and prints since when.
pub(crate) async fn change_plan(
    account: AccountId,
    plan: String,
    by: By,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    record(by, Some(account), Action::ChangePlan { plan: plan.clone() }, commands, clock).await?;
    match keys::ask(commands, clock, Command::ChangePlan { account, plan }, WITHIN).await? {
        Outcome::PlanChanged { from } => writeln!(out, "from: {}", from.day())?,
        _ => bail!("the commands service answered another command than was asked"),
    }
    Ok(Exit::Good)
}

/// Has a closed month corrected.
pub(crate) async fn correct(
    account: AccountId,
    corrected: StatementCorrected,
    by: By,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let StatementCorrected { start, correction, amount } = corrected.clone();
    record(by, Some(account), Action::CorrectStatement { correction, amount }, commands, clock).await?;
    match keys::ask(commands, clock, Command::CorrectStatement { account, corrected }, WITHIN).await? {
        Outcome::StatementCorrected => writeln!(out, "corrected: the month from {}", start.day())?,
        _ => bail!("the commands service answered another command than was asked"),
    }
    Ok(Exit::Good)
}

/// Writes down who does what, and to which account if it is about one, before it is done.
pub(crate) async fn record(
    by: By,
    account: Option<AccountId>,
    action: Action,
    commands: &dyn Commands,
    clock: &Clock,
) -> anyhow::Result<()> {
    let By { operator, reason } = by;
    let whose = account.map(Whose::Account);
    let acted = OpsActed { operator, action, reason };
    match keys::ask(commands, clock, Command::RecordOperator { whose, acted }, WITHIN).await? {
        Outcome::OperatorRecorded { .. } => Ok(()),
        _ => bail!("the commands service answered another command than was asked"),
    }
}
