//! `omnirun ops account erase`: what a person asked for by mail, done by the running commands service. Nothing is written from here.

use std::io::Write;

use anyhow::bail;
use omnirun_commands_api::command::{Command, Whose};
use omnirun_commands_api::{Commands, Outcome};
use omnirun_events::unit::{Clock, Millis};

use crate::exit::Exit;
use crate::keys;

/// How long the commands service may take.
const WITHIN: Millis = Millis(15_000);

/// What is asked for.
pub(crate) struct Erase {
    pub whose: Whose,
    pub operator: String,
    pub reason: String,
}

/// Sends the command and prints what came of it.
pub(crate) async fn run(
    erase: Erase,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let Erase { whose, operator, reason } = erase;
    let command = Command::EraseAccount { whose, operator, reason };
    let Outcome::AccountClosing { receipt, .. } = keys::ask(commands, clock, command, WITHIN).await? else {
        bail!("the commands service answered another command than was asked");
    };
    writeln!(out, "receipt: {receipt}")?;
    writeln!(
        out,
        "The account is being erased; `omnirun ops tail --filter sys.erasure` shows when that is done."
    )?;
    Ok(Exit::Good)
}
