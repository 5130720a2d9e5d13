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
mod pricing;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use omnirun_commands::{CommandService, MasterKey};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::unit::Millis;
use omnirun_gateway::Gateway;
use omnirun_ops::{Identity, OpsServer, identity};
use omnirun_projections::{Directory, Usage};
use omnirun_runner::{Checkpoints, Follower, Source, follow};
use omnirun_sled::{EmbeddedLog, SledLog};
use omnirun_worker::Stop;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use options::Options;

use crate::process;

/// How long a sign-in challenge is remembered.
const AUTH_AGE: Millis = Millis(15 * 60 * 1000);

/// File name of the master key.
const MASTER_KEY: &str = "master.key";

/// Where the read models of a data directory keep their checkpoints.
pub fn views_of(data: &Path) -> PathBuf {
    data.join("views")
}

/// Opens the embedded log of a data directory; one process at a time.
pub fn open_store(data: &Path) -> Result<EmbeddedLog> {
    let kept = SledLog::open(&data.join("log"), omnirun_sled::Options::default())?;
    let clock = process::clock();
    Ok(EmbeddedLog::new(kept, MemoryLog::expiring(AUTH_AGE, move || clock())))
}

/// Runs until it is asked to stop or a part of it ends.
pub async fn run(options: Options) -> Result<()> {
    let data = options.make_data()?;
    let plans = Arc::new(options.plans()?);
    let listener = TcpListener::bind(options.listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {}; choose another --listen", options.listen))?;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder();
    let metrics = metrics.context("cannot record metrics")?;
    let clock = process::clock();

    let (identity, master) = keys(&data)?;
    let store = Arc::new(open_store(&data)?);
    identity::enrol(&*store, &*store, &identity, clock()).await.context("cannot enrol the signing keys")?;
    let views = Views::follow(store.clone(), &identity, &data).await?;
    let (mail, mailbox) = mail::choose(&options)?;

    let mut tasks = JoinSet::new();
    let ops = OpsServer::bind(
        &data,
        store.clone(),
        vec![Arc::new(views.directory.live()), Arc::new(views.usage.live())],
    )?;
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    let commands = CommandService::start(omnirun_commands::Parts {
        reader: store.clone(),
        append: store.clone(),
        directory: views.directory.live(),
        signer: identity.commands,
        master,
        mail,
        plans: plans.clone(),
        clock: clock.clone(),
        random: omnirun_commands::random::system(),
    })
    .await?;
    tasks.spawn({
        let commands = commands.clone();
        async move {
            commands.reconcile().await;
            "the reconciler of commands"
        }
    });
    let worker =
        worker::start(&options, &data, store.clone(), views.directory.live(), identity.worker, &clock)
            .await?;
    let address = listener.local_addr()?;
    let gateway = Gateway::new(omnirun_gateway::Parts {
        commands,
        reader: store.clone(),
        directory: views.directory.live(),
        usage: views.usage.live(),
        pricing: Some(Arc::new(pricing::PlanPricing::new(plans))),
        signer: identity.gateway,
        secret: *identity.gateway_secret.expose(),
        clock,
        metrics: Some(metrics),
        mailbox: mailbox.clone().map(|mailbox| mailbox as _),
        config: omnirun_gateway::Config { listen: address, node_id: "up".to_owned(), ..Default::default() },
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let mut gateway =
        tokio::spawn(async move { gateway.serve(listener, async { drop(stopped.await) }).await });
    hello::say(address, &data, mailbox.is_some());
    let ended = tokio::select! {
        ended = wait(&mut tasks) => ended?,
        _ = &mut gateway => Some("the gateway"),
    };
    // Requests under way end first, then what answers them.
    drop(stop);
    if !gateway.is_finished() {
        drop(gateway.await);
    }
    tasks.shutdown().await;
    worker.stop(Stop::Leave).await;
    views.stop().await;
    store.kept().close().context("cannot close the log")?;
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has ended; the log says why"),
    }
}

/// The keys of this installation, made at the first start.
fn keys(data: &Path) -> Result<(Identity, MasterKey)> {
    if !identity::exists(data) {
        identity::create_with(data, make_master_key)?;
    }
    Ok((identity::load(data)?, MasterKey::load(&data.join("keys").join(MASTER_KEY))?))
}

/// Makes the master key beside the signing keys.
pub fn make_master_key(keys: &Path) -> std::io::Result<()> {
    MasterKey::create(&keys.join(MASTER_KEY)).map(drop).map_err(std::io::Error::other)
}

/// The read models of this process.
struct Views {
    directory: Follower<Directory>,
    usage: Follower<Usage>,
}

impl Views {
    async fn follow(store: Arc<EmbeddedLog>, identity: &Identity, data: &Path) -> Result<Self> {
        let checkpoints = Some(Checkpoints::in_directory(views_of(data)));
        let directory = follow(store.clone(), identity.root, Source::Events, checkpoints.clone()).await?;
        let usage = follow(store, identity.root, Source::EventsAndUsage, checkpoints).await?;
        Ok(Self { directory, usage })
    }

    async fn stop(self) {
        self.directory.stop().await;
        self.usage.stop().await;
    }
}

/// Waits for a signal (none) or for a part that ended by itself.
async fn wait(tasks: &mut JoinSet<&'static str>) -> Result<Option<&'static str>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        ended = tasks.join_next() => Ok(Some(ended.and_then(Result::ok).unwrap_or("a part"))),
    }
}
