//! `omnirun ops host lost`: giving up a host, done by the running commands service. Nothing is written from here.

use std::io::Write;

use anyhow::bail;
use omnirun_commands_api::command::Command;
use omnirun_commands_api::{Commands, Outcome};
use omnirun_events::unit::{Clock, Millis};

use crate::command::HostCommand;
use crate::exit::Exit;
use crate::keys;

/// How long the commands service may take: two round trips to the log for each sandbox of the host. What it has not done by then it does by
/// itself.
const WITHIN: Millis = Millis(60_000);

/// Sends the command and prints what came of it.
pub(crate) async fn run(
    command: HostCommand,
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let HostCommand::Lost { host, operator, reason } = command;
    let command = Command::LoseHost { host, operator, reason };
    let Outcome::HostLost { ended } = keys::ask(commands, clock, command, WITHIN).await? else {
        bail!("the commands service answered another command than was asked");
    };
    writeln!(out, "lost: {host}")?;
    writeln!(out, "{ended} of its sandboxes were ended now, each billed to its last meter reading.")?;
    Ok(Exit::Good)
}
