//! `omnirun ops keys rotate`: asks the commands service for a new epoch of the master key.

use std::io::Write;

use anyhow::bail;
use omnirun_commands_api::command::{Command, Envelope};
use omnirun_commands_api::{Commands, Outcome};
use omnirun_events::envelope::Actor;
use omnirun_events::id::CommandId;
use omnirun_events::unit::{Clock, Millis};

use crate::exit::Exit;

/// How long a rotation may take: every data key is wrapped anew.
const WITHIN: Millis = Millis(10 * 60 * 1000);

pub(crate) async fn rotate(
    commands: &dyn Commands,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    writeln!(out, "wrapping every data key anew; broken off, it is finished the next time")?;
    out.flush()?;
    match ask(commands, clock, Command::RotateMasterKey, WITHIN).await? {
        Outcome::MasterKeyRotated { epoch, keys } => {
            writeln!(out, "epoch: {epoch}")?;
            writeln!(out, "data keys wrapped anew: {keys}")?;
            writeln!(
                out,
                "Copies of the master key made before this open nothing that is written from here on; copy it again."
            )?;
            Ok(Exit::Good)
        }
        _ => bail!("the commands service answered another command"),
    }
}

/// Asks for something as an operator.
pub(crate) async fn ask(
    commands: &dyn Commands,
    clock: &Clock,
    command: Command,
    within: Millis,
) -> anyhow::Result<Outcome> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let (id, at) = (CommandId::from_bytes(id), clock());
    let envelope = Envelope { id, actor: Actor::Operator, at, deadline: at.after(within), command };
    Ok(commands.send(envelope).await?.outcome)
}
