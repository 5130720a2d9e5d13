//! `omnirun projector`: closes months and has accounts told of their use. It holds no signing key; what it asks for, commands writes.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use omnirun_commands_api::nats::NatsCommands;
use omnirun_events::subject::{Log, Slot};
use omnirun_ops::{OpsServer, identity};
use omnirun_projector::Bills;

use super::DataOptions;
use crate::process;
use crate::wiring::bus::{self, BusOptions};
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::plans::PlanOptions;
use crate::wiring::run::{StopSignals, Tasks, outcome, say_ready};
use crate::wiring::state::State;
use crate::wiring::views;

/// Options of `omnirun projector`
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    bus: BusOptions,
    #[command(flatten)]
    plans: PlanOptions,
    #[command(flatten)]
    metrics: MetricsOptions,
}

/// Runs until it is asked to stop or a part of it ends.
pub async fn run(options: Options) -> Result<()> {
    let data = options.data.path()?;
    let root = identity::pinned_root(&data)?;
    let plans = Arc::new(options.plans.load()?);
    options.metrics.start()?;
    let state = State::take(&data, "projector")?;
    let logs = [Log::Events].into_iter().chain(Slot::all().map(Log::Usage)).collect();
    let log = Arc::new(bus::open(&options.bus.as_role("projector", logs)?).await?);
    let client = log.client();
    let billing = views::billing(log.clone(), root, state.path()).await?;

    let mut tasks = Tasks::new();
    let ops = OpsServer::bind(state.path(), log.clone(), vec![Arc::new(billing.live())])?;
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    let bills = Bills {
        reader: log,
        ledgers: billing.live(),
        commands: Arc::new(NatsCommands::new(client.clone(), process::now)),
        plans,
        clock: process::clock(),
    };
    tasks.spawn(async move {
        bills.run().await;
        "the projector of bills"
    });
    let mut signals = StopSignals::listen()?;
    say_ready("projector", "");
    let ended = signals.or_ended(&mut tasks).await;
    // What is under way is asked for again at the next start.
    tasks.shutdown().await;
    billing.stop().await;
    bus::flush(&client).await;
    outcome(ended)
}
