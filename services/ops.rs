//! `omnirun ops` on either store: how the log is opened, and what there is to do for nats-server alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use omnirun_commands_api::Commands;
use omnirun_commands_api::nats::NatsCommands;
use omnirun_events::log::ReadError;
use omnirun_events::subject::Log;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{Applied, ConnectError, JetStreamLog, Replicas, apply_streams};
use omnirun_ops::{Context, Exit, Opened, OpsArgs, OpsCommand, Running, SocketRead};
use omnirun_sled::OpenError;

use crate::wiring::bus::{self, BusOptions};
use crate::wiring::nkeys;
use crate::wiring::state::views_of;
use crate::{process, up};

/// The roles that keep read models, the one that keeps them all first.
const ROLES: [&str; 3] = ["gateway", "commands", "worker"];

/// Arguments of `omnirun ops`
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory with the keys, and with the embedded log unless --nats is given
    #[arg(long, global = true, env = "OMNIRUN_DATA", default_value = ".data")]
    data: PathBuf,
    #[command(flatten)]
    bus: BusOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The streams of the log on nats-server
    Streams {
        #[command(subcommand)]
        command: StreamsCommand,
    },
    /// Make the seeds of nats.conf's users in a directory; prints their public halves for nats-server's environment
    Nkeys {
        /// The directory, made if missing; seeds in it are kept
        directory: PathBuf,
    },
    #[command(flatten)]
    Log(OpsCommand),
}

#[derive(Debug, Subcommand)]
enum StreamsCommand {
    /// Make the streams that do not exist and change those that differ. Not on a server that had them yesterday: look for a wrong key first
    Apply {
        /// Copies of each: 1 on one server, 3 on three
        #[arg(long, default_value_t = 1)]
        replicas: usize,
    },
}

/// Does what the operator asked.
pub async fn run(arguments: Arguments) -> Exit {
    let Arguments { data, bus, command } = arguments;
    let done = match command {
        Command::Log(command) => return log(OpsArgs { data, command }, bus).await,
        Command::Nkeys { directory } => nkeys::make(&directory),
        Command::Streams { command: StreamsCommand::Apply { replicas } } => {
            streams(&bus, Replicas(replicas)).await
        }
    };
    match done {
        Ok(text) => {
            print!("{text}");
            Exit::Good
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

async fn streams(bus: &BusOptions, replicas: Replicas) -> anyhow::Result<String> {
    let client = connect(&bus.as_role("ops", Vec::new())?).await.with_context(bus::advice)?;
    let mut text = String::new();
    for (log, applied) in apply_streams(&client, replicas).await? {
        let what = match applied {
            Applied::Created => "created".to_owned(),
            Applied::Unchanged => "as wanted".to_owned(),
            Applied::Updated(differences) => {
                let changed: Vec<_> = differences.iter().map(|difference| difference.setting).collect();
                format!("changed: {}", changed.join(", "))
            }
        };
        text += &format!("{log}: {what}\n");
    }
    Ok(text)
}

/// What is done on the log: the embedded one, or JetStream where a server is named.
async fn log(args: OpsArgs, bus: BusOptions) -> Exit {
    let data = args.data.clone();
    let is_on_bus = !bus.nats.is_empty();
    let roles: Vec<PathBuf> = ROLES.into_iter().map(|role| data.join(role)).collect();
    let (running, checkpoints) = if is_on_bus {
        let kept = roles.iter().map(|role| views_of(role)).find(|views| views.exists());
        (Running::Roles(roles), kept.unwrap_or_else(|| views_of(&data.join("ops"))))
    } else {
        (Running::Holder, views_of(&data))
    };
    let bus_of_commands = is_on_bus.then(|| bus.clone());
    let context = Context {
        running,
        open: Box::new(move |data| {
            let data = data.to_owned();
            Box::pin(async move { if is_on_bus { open_bus(&bus).await } else { open_embedded(&data) } })
        }),
        connect: Box::new(move |data| {
            let data = data.to_owned();
            Box::pin(async move { connect_commands(&data, bus_of_commands).await })
        }),
        make_more: Box::new(process::make_master_key),
        checkpoints: Some(checkpoints),
        clock: process::clock(),
        out: Box::new(std::io::stdout()),
        errors: Box::new(std::io::stderr()),
    };
    omnirun_ops::run(args, context).await
}

/// The running `omnirun up` of a data directory, or whoever answers on the bus.
async fn connect_commands(data: &Path, bus: Option<BusOptions>) -> anyhow::Result<Arc<dyn Commands>> {
    if let Some(bus) = bus {
        let client = connect(&bus.as_role("ops", Vec::new())?).await.with_context(bus::advice)?;
        return Ok(Arc::new(NatsCommands::new(client, process::now)));
    }
    let live = SocketRead::connect(data).await;
    let live =
        live.with_context(|| format!("nothing runs in {}; start `omnirun up` there", data.display()))?;
    Ok(Arc::new(live))
}

fn open_embedded(data: &Path) -> anyhow::Result<Opened> {
    let store = Arc::new(up::open_store(data).map_err(damaged)?);
    Ok(Opened { read: store.clone(), append: store })
}

/// A store that does not open because of what is in it is a log that is wrong; the exit code tells it from a wrong question.
fn damaged(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<OpenError>() {
        Ok(OpenError::Damaged { dir, at, what }) => anyhow::Error::new(ReadError::Corrupt { at, what })
            .context(format!("cannot open the log in {}", dir.display())),
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

async fn open_bus(bus: &BusOptions) -> anyhow::Result<Opened> {
    let logs = Log::kept().chain([Log::Auth]).collect();
    let store = JetStreamLog::connect(&bus.as_role("ops", logs)?).await;
    let store = Arc::new(store.map_err(unreadable).with_context(bus::advice)?);
    Ok(Opened { read: store.clone(), append: store })
}

/// A server that is away says nothing about the log; the exit code tells it from a log that is wrong.
fn unreadable(error: ConnectError) -> anyhow::Error {
    if bus::is_away(&error) {
        return ReadError::Unavailable { log: Log::Events, source: Box::new(error) }.into();
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use omnirun_events::log::{Position, Sequence};

    use super::*;

    #[test]
    fn a_store_that_is_damaged_is_a_log_that_is_wrong_and_one_in_use_is_not() {
        let at = Position { log: Log::Events, sequence: Sequence(7) };
        let opened = OpenError::Damaged { dir: "log".into(), at, what: "cut".to_owned() };
        let error = damaged(opened.into());
        assert!(
            matches!(error.downcast_ref(), Some(ReadError::Corrupt { at: bad, .. }) if *bad == at),
            "{error:#}"
        );
        let in_use = damaged(OpenError::InUse { dir: "log".into() }.into());
        assert!(in_use.downcast_ref::<ReadError>().is_none() && in_use.is::<OpenError>(), "{in_use:#}");
    }
}
