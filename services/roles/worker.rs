//! `omnirun worker`: runs sandboxes on this machine, as one of the hosts that share the queue of requests.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use omnirun_events::subject::{Log, Slot};
use omnirun_ops::{OpsServer, identity};
use omnirun_worker::{Stop, Stores};

use super::DataOptions;
use crate::wiring::bus::{self, BusOptions};
use crate::wiring::counted::Counted;
use crate::wiring::host::{self, DataPath, HostOptions};
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::run::{StopSignals, Tasks, outcome, say_ready};
use crate::wiring::state::State;
use crate::wiring::views;

/// Options of `omnirun worker`
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    bus: BusOptions,
    #[command(flatten)]
    host: HostOptions,
    /// Where gateways connect for what happens inside of sandboxes, in TLS; port 0 takes any free one
    #[arg(long, env = "OMNIRUN_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// address:port under which gateways reach it, if that is another one
    #[arg(long, env = "OMNIRUN_ADVERTISE")]
    advertise: Option<String>,
    #[command(flatten)]
    metrics: MetricsOptions,
}

/// Runs until it is asked to stop or a part of it ends. Sandboxes live on for ten minutes; the next start takes them over.
pub async fn run(options: Options) -> Result<()> {
    let data = options.data.path()?;
    let keys = identity::load_worker(&data)?;
    let state = State::take(&data, "worker")?;
    options.metrics.start()?;
    let logs = [Log::Events].into_iter().chain(Slot::all().map(Log::Usage)).collect();
    let log = Arc::new(bus::open(&options.bus.as_role("worker", logs)?).await?);
    let client = log.client();
    let directory = views::directory(log.clone(), keys.root, state.path()).await?;
    views::require_enrolled(&*log, &directory.live(), &keys.signer).await?;

    let mut tasks = Tasks::new();
    let ops = OpsServer::bind(state.path(), log.clone(), vec![Arc::new(directory.live())])?;
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    let counted = Counted::new(log.clone());
    let stores = Stores { read: log, append: counted.clone(), queue: counted };
    let data_path = DataPath { listen: options.listen, advertised: options.advertise };
    let worker = host::start(
        &options.host,
        state.path(),
        stores,
        directory.live(),
        (keys.host, keys.signer),
        data_path,
    )
    .await?;
    let mut signals = StopSignals::listen()?;
    say_ready("worker", &format!(": {} as {}", worker.address(), keys.host));
    let ended = signals.or_ended(&mut tasks).await;
    tasks.shutdown().await;
    worker.stop(Stop::Leave).await;
    directory.stop().await;
    bus::flush(&client).await;
    outcome(ended)
}
