//! `omnirun ops retention`: what the next hourly run removes, looked at first, and done now. The running commands service does it.

use std::io::Write;

use anyhow::bail;
use clap::Subcommand;
use omnirun_commands_api::command::Command;
use omnirun_commands_api::{Commands, Outcome};
use omnirun_events::keys::Digest;
use omnirun_events::ops::Action;
use omnirun_events::unit::{Clock, Millis};

use crate::bills::{By, record};
use crate::exit::Exit;
use crate::{keys, text};

/// How long the commands service may take: it looks through every log.
const WITHIN: Millis = Millis(10 * 60 * 1000);

/// What can be done with what has expired.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Print what would be removed now, and the hash that names exactly that; asks the running commands service
    Plan,
    /// Remove what a plan said, if it is still what goes
    Apply {
        /// The hash that `plan` printed
        #[arg(value_parser = text::parse_digest)]
        plan: Digest,
        /// Who, and why
        #[command(flatten)]
        by: By,
    },
}

/// Does what was asked.
pub(crate) async fn run(
    command: RetentionCommand,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    match command {
        RetentionCommand::Plan => plan(commands, clock, out).await,
        RetentionCommand::Apply { plan, by } => apply(plan, by, commands, clock, out).await,
    }
}

/// Prints what would go.
async fn plan(commands: &dyn Commands, clock: &Clock, out: &mut impl Write) -> anyhow::Result<Exit> {
    let Outcome::RetentionPlanned(plan) = keys::ask(commands, clock, Command::PlanRetention, WITHIN).await?
    else {
        bail!("the commands service answered another command than was asked");
    };
    for (log, records) in &plan.records {
        writeln!(out, "{log}: {records} records")?;
    }
    writeln!(out, "sandboxes of which nothing is left: {}", plan.sandboxes)?;
    writeln!(out, "keys of free text: {}", plan.keys)?;
    writeln!(out, "plan: {}", plan.hash)?;
    Ok(Exit::Good)
}

/// Has a plan carried out, after who wants it was written down.
async fn apply(
    plan: Digest,
    by: By,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    record(by, None, Action::ApplyRetention { plan }, commands, clock).await?;
    match keys::ask(commands, clock, Command::ApplyRetention { plan }, WITHIN).await? {
        Outcome::RetentionApplied { records, sandboxes, keys } => {
            writeln!(out, "gone: {records} records, {sandboxes} sandboxes, {keys} keys of free text")?;
            Ok(Exit::Good)
        }
        _ => bail!("the commands service answered another command than was asked"),
    }
}
