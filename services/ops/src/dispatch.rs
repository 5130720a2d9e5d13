//! From what was asked to the command that does it, and from its answer to the shell.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use omnirun_events::billing::StatementCorrected;
use omnirun_events::ops::{Action, OpsActed};
use omnirun_events::unit::MicroCents;

use crate::command::{AccountCommand, KeysCommand, OpsArgs, OpsCommand};
use crate::context::{Context, Source, connect, open};
use crate::exit::{Exit, exit_of, has_cause, is_broken_pipe};
use crate::{
    account, bills, erase, exported, host, identity, keys, receipt, replay, retention, show, statement, tail,
    text, verify,
};

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
