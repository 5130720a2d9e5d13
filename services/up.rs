//! `omnirun up`: every role in one process, on the embedded log. What is a message between machines elsewhere is a call here, through the
//! same traits; the data path is the same TLS connection, over loopback.
//!
//! ```text
//!   <data>/keys/     signing keys, gateway secret, master key        <data>/log/      the log
//!   <data>/root.pub  the pinned root key                             <data>/views/    checkpoints
//!   <data>/run/      one directory per living guest                  <data>/outbox/   what the worker has to say
//!   <data>/ops.sock  for `omnirun ops` while this runs
//! ```

mod hello;
mod mail;
mod options;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use omnirun_commands::{CommandService, MasterKey};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::unit::Millis;
use omnirun_gateway::Gateway;
use omnirun_ops::{Identity, OpsServer, identity};
use omnirun_projector::Bills;
use omnirun_sled::{EmbeddedLog, SledLog};
use omnirun_worker::{Stop, Stores};
use tokio::sync::oneshot;

pub use options::Options;

use crate::process;
use crate::wiring::counted::Counted;
use crate::wiring::host::{self, DataPath};
use crate::wiring::run::{StopSignals, Tasks, outcome};
use crate::wiring::views;

/// How long a sign-in challenge is remembered.
const AUTH_AGE: Millis = Millis(15 * 60 * 1000);

/// Opens the embedded log of a data directory; one process at a time.
pub fn open_store(data: &Path) -> Result<EmbeddedLog> {
    let kept = SledLog::open(&data.join("log"), omnirun_sled::Options::default())?;
    let clock = process::clock();
    Ok(EmbeddedLog::new(kept, MemoryLog::expiring(AUTH_AGE, move || clock())))
}

/// Runs until it is asked to stop or a part of it ends.
pub async fn run(options: Options) -> Result<()> {
    // A host that cannot do what it is asked for is refused before anything is made.
    host::settle(options.host.monitor).await?;
    let data = options.make_data()?;
    let plans = Arc::new(options.plans.load()?);
    let listener = options.web.bind().await?;
    let address = listener.local_addr()?;
    let metrics = options.metrics.start()?;
    let clock = process::clock();

    let (identity, master) = keys(&data)?;
    let store = Arc::new(open_store(&data)?);
    identity::enrol(&*store, &*store, &identity, clock()).await.context("cannot enrol the signing keys")?;
    let directory = views::directory(store.clone(), identity.root, &data).await?;
    let usage = views::usage(store.clone(), identity.root, &data).await?;
    let billing = views::billing(store.clone(), identity.root, &data).await?;
    let mail::Mail { send: mail, mailbox, seen: mail_seen } = mail::choose(&options, address)?;

    let mut tasks = Tasks::new();
    let seen =
        vec![Arc::new(directory.live()) as _, Arc::new(usage.live()) as _, Arc::new(billing.live()) as _];
    let ops = OpsServer::bind(&data, store.clone(), seen)?;
    let operators = ops.commands();
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    let counted = Counted::new(store.clone());
    let commands = CommandService::start(omnirun_commands::Parts {
        reader: store.clone(),
        append: counted.clone(),
        erase: store.clone(),
        directory: directory.live(),
        signer: identity.commands,
        master,
        mail,
        plans: plans.clone(),
        clock: clock.clone(),
        random: omnirun_commands::random::system(),
    })
    .await?;
    operators.fill(commands.clone());
    tasks.spawn({
        let commands = commands.clone();
        async move {
            commands.reconcile().await;
            "the reconciler of commands"
        }
    });
    tasks.spawn({
        let (commands, erase) = (commands.clone(), store.clone());
        async move {
            commands.retain(erase).await;
            "retention"
        }
    });
    let bills = Bills {
        reader: store.clone(),
        ledgers: billing.live(),
        commands: commands.clone(),
        plans: plans.clone(),
        clock: clock.clone(),
    };
    tasks.spawn(async move {
        bills.run().await;
        "the projector of bills"
    });
    let stores = Stores { read: store.clone(), append: counted.clone(), queue: counted };
    let here = DataPath { listen: ([127, 0, 0, 1], 0).into(), advertised: None };
    let worker = host::start(&options.host, &data, stores, directory.live(), identity.worker, here).await?;
    let gateway = Gateway::new(omnirun_gateway::Parts {
        commands,
        reader: store.clone(),
        directory: directory.live(),
        usage: usage.live(),
        billing: billing.live(),
        plans,
        signer: identity.gateway,
        secret: *identity.gateway_secret.expose(),
        clock,
        metrics: Some(metrics),
        mailbox: mailbox.map(|mailbox| mailbox as _),
        config: omnirun_gateway::Config {
            listen: address,
            node_id: "up".to_owned(),
            origin: options.web.origin,
            proxies: options.web.proxies,
            ..Default::default()
        },
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let mut gateway =
        tokio::spawn(async move { gateway.serve(listener, async { drop(stopped.await) }).await });
    let mut signals = StopSignals::listen()?;
    hello::say(address, &data, mail_seen);
    let ended = tokio::select! {
        ended = signals.or_ended(&mut tasks) => ended,
        _ = &mut gateway => Some("the gateway"),
    };
    // Requests under way end first, then what answers them.
    drop(stop);
    if !gateway.is_finished() {
        drop(gateway.await);
    }
    tasks.shutdown().await;
    worker.stop(Stop::Leave).await;
    directory.stop().await;
    usage.stop().await;
    billing.stop().await;
    store.kept().close().context("cannot close the log")?;
    outcome(ended)
}

/// The keys of this installation, made at the first start.
fn keys(data: &Path) -> Result<(Identity, MasterKey)> {
    if !identity::exists(data) {
        identity::create_with(data, process::make_master_key)?;
    }
    Ok((identity::load(data)?, MasterKey::load(&data.join("keys").join(process::MASTER_KEY))?))
}
