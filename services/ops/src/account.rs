//! `omnirun ops account export`: what somebody asked for by mail. It leaves its own event, with who did it and why.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use omnirun_commands_api::command::{Command, Whose};
use omnirun_commands_api::{Code, Commands, Outcome, SendError};
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::log::Read;
use omnirun_events::ops::OpsActed;
use omnirun_events::unit::{Clock, Millis};
use omnirun_export::Exporter;

use crate::exit::Exit;
use crate::keys;

/// How long the event may take.
const WITHIN: Millis = Millis(10_000);

/// Where an export goes and what it is made with.
pub(crate) struct Export {
    pub whose: Whose,
    pub to: PathBuf,
    pub root: Digest,
    pub reader: Arc<dyn Read>,
    pub commands: Arc<dyn Commands>,
    pub clock: Clock,
}

/// Writes the archive, for its owner alone. An existing file is not replaced; what broke off is removed.
pub(crate) async fn export(export: Export, acted: OpsActed, out: &mut impl Write) -> anyhow::Result<Exit> {
    let Export { whose, to, root, reader, commands, clock } = export;
    let failed = || format!("cannot write {}", to.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).with_context(failed)?;
    let written = async {
        // First, so that nothing is handed out that nobody wrote down.
        let account = record(&*commands, &clock, whose, acted).await?;
        let (actor, taken_within) = (Actor::Operator, Duration::MAX);
        let exporter = Exporter { reader, commands, root, clock, actor, taken_within };
        let bytes = write(exporter, account, &mut file).await.with_context(failed)?;
        file.sync_all().with_context(failed)?;
        anyhow::Ok(bytes)
    };
    match written.await {
        Ok(bytes) => {
            writeln!(out, "written: {}, {bytes} bytes", to.display())?;
            writeln!(out, "Hand it to its owner by a way that only they can read, and delete it here.")?;
            Ok(Exit::Good)
        }
        Err(error) => {
            // Half an archive is nobody's.
            drop(fs::remove_file(&to));
            Err(error)
        }
    }
}

/// Has it written down that the operator acts, and learns for which account.
async fn record(
    commands: &dyn Commands,
    clock: &Clock,
    whose: Whose,
    acted: OpsActed,
) -> anyhow::Result<AccountId> {
    let whose = Some(whose);
    match keys::ask(commands, clock, Command::RecordOperator { whose, acted }, WITHIN).await {
        Ok(Outcome::OperatorRecorded { account: Some(account) }) => Ok(account),
        Ok(_) => bail!("the commands service answered another command than was asked"),
        Err(error) => match error.downcast_ref() {
            Some(SendError::Rejected(rejection)) if rejection.code == Code::NotFound => {
                bail!("there is no account of that id or address")
            }
            _ => Err(error),
        },
    }
}

async fn write(exporter: Exporter, account: AccountId, file: &mut fs::File) -> anyhow::Result<u64> {
    let (mut pieces, mut bytes) = (exporter.begin(account, std::future::pending()), 0);
    while let Some(piece) = pieces.recv().await {
        let piece = piece?;
        file.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}
