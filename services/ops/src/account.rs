//! `omnirun ops account erase`: what a person asked for by mail, done by the running commands service. Nothing is written from here.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use omnirun_commands_api::command::{Command, Envelope, Personal, Whose};
use omnirun_commands_api::{Commands, Outcome, Reply};
use omnirun_events::Actor;
use omnirun_events::id::CommandId;
use omnirun_events::unit::{Clock, Millis};

use crate::command::Exit;

/// How long the commands service may take.
const WITHIN: Millis = Millis(15_000);

/// What can be done to an account.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Erase an account and everything of it, as DELETE /account does. It cannot be undone
    Erase {
        /// The account's id, or its address
        account: String,
        /// Why, such as the number of the request; it stays on the log, so it names nobody
        #[arg(long)]
        reason: String,
        /// Who you are
        #[arg(long)]
        operator: String,
    },
}

/// Sends the command and prints what came of it.
pub(crate) async fn run(
    command: AccountCommand,
    commands: Arc<dyn Commands>,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let AccountCommand::Erase { account, reason, operator } = command;
    let whose = match account.contains('@') {
        true => Whose::Address(Personal(account)),
        false => Whose::Account(account.parse().context("an account is 26 characters, or an address")?),
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("no random bytes")?;
    let at = clock();
    let envelope = Envelope {
        id: CommandId::from_bytes(id),
        actor: Actor::Operator,
        at,
        deadline: at.after(WITHIN),
        command: Command::EraseAccount { whose, operator, reason },
    };
    let sent = tokio::time::timeout(Duration::from_millis(WITHIN.0), commands.send(envelope)).await;
    let Reply { outcome, .. } = sent.context("the commands service did not answer in time; ask again")??;
    let Outcome::AccountClosing { receipt, .. } = outcome else {
        bail!("the commands service answered another command than was asked");
    };
    writeln!(out, "receipt: {receipt}")?;
    writeln!(out, "The account is being erased; `omnirun ops tail --filter sys.erasure` shows when that is done.")?;
    Ok(Exit::Good)
}
