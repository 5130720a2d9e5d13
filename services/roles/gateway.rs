//! `omnirun gateway`: the HTTP facade over the bus.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use omnirun_commands_api::nats::NatsCommands;
use omnirun_events::subject::{Log, Slot};
use omnirun_events::unit::Seconds;
use omnirun_gateway::Gateway;
use omnirun_gateway::config::Times;
use omnirun_ops::{OpsServer, identity};
use tokio::sync::oneshot;

use super::DataOptions;
use crate::process;
use crate::wiring::bus::{self, BusOptions};
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::plans::PlanOptions;
use crate::wiring::run::{StopSignals, Tasks, outcome, say_ready};
use crate::wiring::state::State;
use crate::wiring::views;
use crate::wiring::web::WebOptions;

/// Options of `omnirun gateway`
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    bus: BusOptions,
    #[command(flatten)]
    plans: PlanOptions,
    #[command(flatten)]
    web: WebOptions,
    /// Name of this gateway in /status
    #[arg(long, env = "OMNIRUN_NODE", default_value = "gateway")]
    node: String,
    /// How long known credentials are answered after the log was last seen, in seconds; then all get 503 until it is seen again
    #[arg(long, env = "OMNIRUN_WITHOUT_LOG", value_name = "SECONDS", default_value_t = Times::default().without_log.0, value_parser = clap::value_parser!(u32).range(1..))]
    without_log: u32,
    #[command(flatten)]
    metrics: MetricsOptions,
}

/// Runs until it is asked to stop or a part of it ends.
pub async fn run(options: Options) -> Result<()> {
    let data = options.data.path()?;
    let keys = identity::load_gateway(&data)?;
    let plans = Arc::new(options.plans.load()?);
    let state = State::take(&data, "gateway")?;
    let listener = options.web.bind().await?;
    let address = listener.local_addr()?;
    let metrics = options.metrics.start()?;
    let logs = [Log::Events].into_iter().chain(Slot::all().map(Log::Usage)).collect();
    let log = Arc::new(bus::open(&options.bus.as_role("gateway", logs)?).await?);
    let client = log.client();
    let directory = views::directory(log.clone(), keys.root, state.path()).await?;
    let usage = views::usage(log.clone(), keys.root, state.path()).await?;
    let billing = views::billing(log.clone(), keys.root, state.path()).await?;
    views::require_enrolled(&*log, &directory.live(), &keys.signer).await?;

    let mut tasks = Tasks::new();
    let seen =
        vec![Arc::new(directory.live()) as _, Arc::new(usage.live()) as _, Arc::new(billing.live()) as _];
    let ops = OpsServer::bind(state.path(), log.clone(), seen)?;
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    let gateway = Gateway::new(omnirun_gateway::Parts {
        commands: Arc::new(NatsCommands::new(client.clone(), process::now)),
        reader: log,
        directory: directory.live(),
        usage: usage.live(),
        billing: billing.live(),
        plans,
        signer: keys.signer,
        secret: *keys.secret.expose(),
        clock: process::clock(),
        metrics: Some(metrics),
        mailbox: None,
        config: omnirun_gateway::Config {
            listen: address,
            node_id: options.node,
            origin: options.web.origin,
            proxies: options.web.proxies,
            times: Times { without_log: Seconds(options.without_log), ..Default::default() },
            ..Default::default()
        },
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving =
        tokio::spawn(async move { gateway.serve(listener, async { drop(stopped.await) }).await });
    let mut signals = StopSignals::listen()?;
    say_ready("gateway", &format!(": http://{address}"));
    let ended = tokio::select! {
        ended = signals.or_ended(&mut tasks) => ended,
        _ = &mut serving => Some("the gateway"),
    };
    // Requests under way end first, then what answers them.
    drop(stop);
    if !serving.is_finished() {
        drop(serving.await);
    }
    tasks.shutdown().await;
    directory.stop().await;
    usage.stop().await;
    billing.stop().await;
    bus::flush(&client).await;
    outcome(ended)
}
