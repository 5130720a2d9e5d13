//! What can be asked at the operator's terminal, and how the answer reaches the shell.
//!
//! Which store there is, is not known here: `services/main.rs` hands in how to open it.

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use omnirun_commands_api::Commands;
use omnirun_commands_api::command::Whose;
use omnirun_events::billing::{Correction, StatementCorrected};
use omnirun_events::id::{AccountId, HostId, KeyId};
use omnirun_events::log::{Append, Position, Read, ReadError};
use omnirun_events::ops::{Action, OpsActed};
use omnirun_events::subject::Log;
use omnirun_events::unit::{Clock, MicroCents, Timestamp};
use omnirun_events::verify::Fault;
use omnirun_runner::NotReached;

use crate::bills::By;
use crate::retention::RetentionCommand;
use crate::socket::SocketRead;
use crate::{
    account, bills, erase, exported, host, identity, keys, receipt, replay, retention, show, statement, tail,
    text, verify,
};

/// Arguments of `omnirun ops`.
#[derive(Debug, Args)]
pub struct OpsArgs {
    /// Directory with the keys, and with the embedded log if that is used
    #[arg(long, global = true, env = "OMNIRUN_DATA", default_value = ".data")]
    pub data: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: OpsCommand,
}

/// What an operator can ask.
#[derive(Debug, Subcommand)]
pub enum OpsCommand {
    /// Make the keys of an installation, pin the root key, and enrol the others on the log
    Init,
    /// Print stored records, oldest first, one line each
    Tail {
        /// Go on with records as they are appended
        #[arg(long)]
        follow: bool,
        /// Subjects to print, in NATS's words: `*` is one token, a last `>` the rest
        #[arg(long, default_value = ">")]
        filter: String,
        /// First position to print; without it, the last twenty positions
        #[arg(long)]
        from: Option<u64>,
        /// Log to print
        #[arg(long, default_value = "EVENTS", value_parser = text::parse_log)]
        log: Log,
        /// Print one JSON object for each record
        #[arg(long)]
        json: bool,
    },
    /// Print one stored record as JSON; sealed fields stay sealed
    Show {
        /// Its position, such as `12` or `USAGE_03:12`
        #[arg(value_parser = text::parse_position)]
        position: Position,
    },
    /// Rebuild a read model from the log alone and compare it with the live one at the same positions
    Replay {
        /// The read model: `directory`, `usage` or `billing`
        view: String,
        /// The root key's fingerprint, or a file with it; without it, the one pinned in --data
        #[arg(long)]
        root_key: Option<String>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// The master key that wraps every data key, and the keys that sign
    Keys {
        /// What to do with it
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// The machines that run sandboxes
    Host {
        /// What became of one
        #[command(subcommand)]
        command: HostCommand,
    },
    /// What goes because it is as old as it may become; it goes every hour by itself
    Retention {
        /// What to do with it
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// What a person asked for by mail, and what they pay
    Account {
        /// What they asked for
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Compute the closed months of an account's export again, from the records in it; no store is needed
    Statement {
        /// The export
        #[arg(long)]
        from: PathBuf,
        /// One month alone, such as 2026-11: the month in which it begins
        #[arg(long)]
        month: Option<String>,
        /// The root key's fingerprint, or a file with it; without it, the one pinned in --data
        #[arg(long)]
        root_key: Option<String>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every kept record: encoding, chains, gaps, signatures back to the root key, roles
    Verify {
        /// The root key's fingerprint, or a file with it. Not taken from --data: who changed the log could have changed it too
        #[arg(long)]
        root_key: String,
        /// Check this export of an account instead, without any store
        #[arg(long)]
        export: Option<PathBuf>,
        /// Check this receipt of an erasure instead, as it was mailed, and what the log says of that erasure
        #[arg(long, conflicts_with = "export")]
        receipt: Option<PathBuf>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Wrap every data key under a new epoch and overwrite the old one; asks the running commands service
    Rotate,
    /// Believe a signing key no more, such as a stolen one; needs keys/root.key, and the embedded log not in use. What it signed before stays valid
    Retire {
        /// The key, as `tail` names it
        key: KeyId,
    },
}

/// What can become of a host.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Give up a host that will not come back: its sandboxes end, and their accounts have their places and their time again
    Lost {
        /// The host's id, as `tail --filter 'sys.host.>'` names it
        host: HostId,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the incident
        #[arg(long)]
        reason: String,
    },
}

/// What can be done for a person.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Erase an account and everything of it, as DELETE /account does. It cannot be undone
    Erase {
        /// The account's id, or its address
        #[arg(value_name = "ACCOUNT", value_parser = text::parse_whose)]
        whose: Whose,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the request; never who asked
        #[arg(long)]
        reason: String,
    },
    /// Put an account on another plan from its next month on; asks the running commands service
    Plan {
        /// The account's id
        account: AccountId,
        /// The plan's name in the plans file
        plan: String,
        /// Who, and why
        #[command(flatten)]
        by: By,
    },
    /// Say that a closed month costs less or more than its statement says; the statement stands
    Correct {
        /// The account's id
        account: AccountId,
        /// First day of the statement's month, such as 2026-11-23
        #[arg(value_parser = text::parse_day)]
        start: Timestamp,
        /// Less (credit) or more (charge)
        #[arg(value_parser = text::parse_correction)]
        kind: Correction,
        /// By how many micro-cents; a cent is 1000000
        micro_cents: u64,
        /// Who, and why
        #[command(flatten)]
        by: By,
    },
    /// Write everything that is held about an account to a signed archive; asks the running commands service
    Export {
        /// The account's id, or its address
        #[arg(value_name = "ACCOUNT", value_parser = text::parse_whose)]
        whose: Whose,
        /// The file to write; it must not exist
        #[arg(long)]
        to: PathBuf,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the request; never who asked
        #[arg(long)]
        reason: String,
    },
}

/// A store that was opened directly.
pub struct Opened {
    /// Reads it.
    pub read: Arc<dyn Read>,
    /// Appends to it; only `init` does.
    pub append: Arc<dyn Append>,
}

/// Opens the store of a data directory, or the one that the configuration names.
pub type Open = Box<dyn FnOnce(&Path) -> Pin<Box<dyn Future<Output = anyhow::Result<Opened>> + Send>> + Send>;

/// Connects to the commands service; called at most once.
pub type Connect =
    Box<dyn FnOnce(&Path) -> Pin<Box<dyn Future<Output = anyhow::Result<Arc<dyn Commands>>> + Send>> + Send>;

/// Makes more secrets in an unfinished directory of keys.
pub type MakeMore = Box<dyn FnOnce(&Path) -> std::io::Result<()> + Send>;

/// Which running processes are asked before the store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// The one that holds the store of the data directory, through `<data>/ops.sock`: for records and for read models.
    Holder,
    /// The roles whose state is in these directories, for their read models alone; records come from the store. The first that answers counts.
    Roles(Vec<PathBuf>),
}

/// What the commands need of the world.
pub struct Context {
    /// Who is asked what is in its memory.
    pub running: Running,
    /// Opens the store; called at most once, and not when [`Running::Holder`] answers.
    pub open: Open,
    /// Connects to the commands service that runs.
    pub connect: Connect,
    /// What `init` makes beside the signing keys, in the directory of keys before it counts: the master key of sealed fields.
    pub make_more: MakeMore,
    /// Where the read models' checkpoints are, for `replay` when nothing runs.
    pub checkpoints: Option<PathBuf>,
    /// The time, for records that `init` appends and for rates.
    pub clock: Clock,
    /// Where answers go.
    pub out: Box<dyn Write + Send>,
    /// Where the reason goes when there is no answer.
    pub errors: Box<dyn Write + Send>,
}

/// What the shell is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and nothing is wrong: 0.
    Good,
    /// Something is wrong with the log or a read model: 1.
    Bad,
    /// It could not be done, or was asked wrongly: 2.
    Failed,
    /// The store cannot be reached, so nothing is known: 3.
    Unreadable,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Failed => 2,
            Self::Unreadable => 3,
        }
    }
}

/// Does what was asked and prints the answer. A reader that closes the output early, such as `head`, is no error.
pub async fn run(args: OpsArgs, mut context: Context) -> Exit {
    let answer =
        dispatch(args, &mut context).await.and_then(|exit| Ok(context.out.flush().map(|()| exit)?));
    match answer {
        Ok(exit) => exit,
        Err(error) if has_cause(&error, is_broken_pipe) => Exit::Good,
        Err(error) => {
            // Nothing is left to say it with when the terminal has gone as well.
            drop(writeln!(context.errors, "error: {error:#}"));
            exit_of(&error)
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<Fault>() || matches!(cause.downcast_ref(), Some(NotReached::Stopped(_))) {
            return Exit::Bad;
        }
        match cause.downcast_ref() {
            Some(ReadError::Unavailable { .. }) => return Exit::Unreadable,
            Some(ReadError::Corrupt { .. }) => return Exit::Bad,
            None => {}
        }
    }
    Exit::Failed
}

fn has_cause(error: &anyhow::Error, is_it: fn(&std::io::Error) -> bool) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is_it))
}

fn is_broken_pipe(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}

async fn dispatch(args: OpsArgs, context: &mut Context) -> anyhow::Result<Exit> {
    let OpsArgs { data, command } = args;
    match command {
        OpsCommand::Init => init(&data, context).await,
        OpsCommand::Tail { follow, filter, from, log, json } => {
            let source = Source::find(&data, context).await?;
            let form = if json { tail::Form::Json } else { tail::Form::Line };
            let end = if follow { tail::End::Follow } else { tail::End::Stop };
            let wish = tail::Wish { log, filter, from, form, end };
            tail::run(&source, wish, &mut context.out).await
        }
        OpsCommand::Show { position } => {
            let source = Source::find(&data, context).await?;
            show::run(&source, position, &mut context.out).await
        }
        OpsCommand::Replay { view, root_key, json } => {
            let root = text::root_key_or_pinned(root_key, &data)?;
            let source = Source::find(&data, context).await?;
            let found = replay::run(&source, &view, root, context.checkpoints.take()).await?;
            found.print(form_of(json), &mut context.out)
        }
        OpsCommand::Statement { from, month, root_key, json } => {
            let root = text::root_key_or_pinned(root_key, &data)?;
            let wish = statement::Wish { from: &from, root, month, form: form_of(json) };
            statement::run(&wish, &mut context.out)
        }
        OpsCommand::Keys { command: KeysCommand::Rotate } => {
            let commands = connect(&data, context).await?;
            keys::rotate(&*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Keys { command: KeysCommand::Retire { key } } => {
            let (identity, store) = (identity::load(&data)?, open(&data, context).await?);
            let now = (context.clock)();
            let retired =
                identity::retire(store.append.as_ref(), store.read.as_ref(), &identity, key, now).await?;
            let what = if retired.added == 0 { "retired before" } else { "retired" };
            writeln!(context.out, "{what}: {key} at {}", retired.position)?;
            Ok(Exit::Good)
        }
        OpsCommand::Host { command } => {
            let commands = connect(&data, context).await?;
            host::run(command, &*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Retention { command } => {
            let commands = connect(&data, context).await?;
            retention::run(command, &*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Account { command: AccountCommand::Plan { account, plan, by } } => {
            let commands = connect(&data, context).await?;
            bills::change_plan(account, plan, by, &*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Account {
            command: AccountCommand::Correct { account, start, kind, micro_cents, by },
        } => {
            let commands = connect(&data, context).await?;
            let corrected = StatementCorrected { start, correction: kind, amount: MicroCents(micro_cents) };
            bills::correct(account, corrected, by, &*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Account { command: AccountCommand::Erase { whose, operator, reason } } => {
            let commands = connect(&data, context).await?;
            let wish = erase::Erase { whose, operator, reason };
            erase::run(wish, &*commands, &context.clock, &mut context.out).await
        }
        OpsCommand::Account { command: AccountCommand::Export { whose, to, operator, reason } } => {
            let commands = connect(&data, context).await?;
            let reader = Source::find(&data, context).await?.read;
            let (root, clock) = (identity::pinned_root(&data)?, context.clock.clone());
            let export = account::Export { whose, to, root, reader, commands, clock };
            let acted = OpsActed { operator, action: Action::ExportAccount, reason };
            account::export(export, acted, &mut context.out).await
        }
        OpsCommand::Verify { root_key, export: Some(export), json, .. } => {
            exported::run(&export, &text::root_key(&root_key)?, form_of(json), &mut context.out)
        }
        OpsCommand::Verify { root_key, receipt: Some(receipt), json, .. } => {
            let root = text::root_key(&root_key)?;
            let mailed = receipt::Mailed::read(&receipt)?;
            let source = Source::find(&data, context).await?;
            let report = receipt::check(source.read.as_ref(), &root, &mailed).await?;
            report.print(form_of(json), &mut context.out)
        }
        OpsCommand::Verify { root_key, json, .. } => {
            let root = text::root_key(&root_key)?;
            let source = Source::find(&data, context).await?;
            let report = verify::run(source.read.as_ref(), &root, &context.clock).await?;
            report.print(form_of(json), &mut context.out)
        }
    }
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One fact in each line.
    Text,
    /// One object.
    Json,
}

fn form_of(json: bool) -> Form {
    if json { Form::Json } else { Form::Text }
}

async fn init(data: &Path, context: &mut Context) -> anyhow::Result<Exit> {
    let is_new = !identity::exists(data);
    if is_new {
        let make_more = std::mem::replace(&mut context.make_more, Box::new(|_| Ok(())));
        identity::create_with(data, make_more)?;
    }
    let identity = identity::load(data)?;
    let store = open(data, context)
        .await
        .context("the keys are made, but not enrolled; run it again once this is mended")?;
    let now = (context.clock)();
    let enrolled = identity::enrol(store.append.as_ref(), store.read.as_ref(), &identity, now).await?;
    if !is_new && enrolled.added == 0 {
        return Err(identity::IdentityError::Exists { path: data.join("keys") }.into());
    }
    writeln!(context.out, "root key fingerprint: {}", identity.root)?;
    writeln!(context.out, "pinned in: {}", data.join("root.pub").display())?;
    writeln!(context.out, "keys enrolled: {} at {}", enrolled.added, enrolled.position)?;
    writeln!(context.out, "worker host: {}", identity.worker.0)?;
    writeln!(context.out, "Write the fingerprint down elsewhere: `omnirun ops verify --root-key` needs it.")?;
    Ok(Exit::Good)
}

async fn open(data: &Path, context: &mut Context) -> anyhow::Result<Opened> {
    let used: Open = Box::new(|_| Box::pin(async { anyhow::bail!("the store was opened before") }));
    std::mem::replace(&mut context.open, used)(data).await
}

async fn connect(data: &Path, context: &mut Context) -> anyhow::Result<Arc<dyn Commands>> {
    let used: Connect =
        Box::new(|_| Box::pin(async { anyhow::bail!("the service was connected to before") }));
    std::mem::replace(&mut context.connect, used)(data).await
}

/// Where records are read from.
pub(crate) struct Source {
    pub read: Arc<dyn Read>,
    /// A running process, when one answers on its socket.
    pub live: Option<SocketRead>,
}

impl Source {
    async fn find(data: &Path, context: &mut Context) -> anyhow::Result<Self> {
        let roles = match std::mem::replace(&mut context.running, Running::Roles(Vec::new())) {
            Running::Roles(roles) => roles,
            Running::Holder => match SocketRead::connect(data).await {
                Some(live) => return Ok(Self { read: Arc::new(live.clone()), live: Some(live) }),
                None => Vec::new(),
            },
        };
        let mut live = None;
        for role in roles {
            live = SocketRead::connect(&role).await;
            if live.is_some() {
                break;
            }
        }
        Ok(Self { read: open(data, context).await?.read, live })
    }
}
