//! `omnirun commands`: decides commands from the bus and writes the log.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use omnirun_commands::{CommandService, MasterKey, serve_nats_until};
use omnirun_commands_api::mail_nats::NatsMail;
use omnirun_events::subject::Log;
use omnirun_ops::{OpsServer, identity};
use tokio::sync::oneshot;

use super::DataOptions;
use crate::process;
use crate::wiring::bus::{self, BusOptions};
use crate::wiring::counted::Counted;
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::plans::PlanOptions;
use crate::wiring::run::{StopSignals, Tasks, outcome, say_ready};
use crate::wiring::state::State;
use crate::wiring::views;

/// Options of `omnirun commands`
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
    let keys = identity::load_commands(&data)?;
    let master = MasterKey::load(&data.join("keys").join(process::MASTER_KEY))?;
    let plans = Arc::new(options.plans.load()?);
    options.metrics.start()?;
    let state = State::take(&data, "commands")?;
    let bus = options.bus.as_role("commands", Log::kept().chain([Log::Auth]).collect())?;
    let log = Arc::new(bus::open(&bus).await?);
    let client = log.client();
    let directory = views::directory(log.clone(), keys.root, state.path()).await?;
    views::require_enrolled(&*log, &directory.live(), &keys.signer).await?;
    let service = CommandService::start(omnirun_commands::Parts {
        reader: log.clone(),
        append: Counted::new(log.clone()),
        erase: log.clone(),
        directory: directory.live(),
        signer: keys.signer,
        master,
        mail: Arc::new(NatsMail::new(client.clone())),
        plans,
        clock: process::clock(),
        random: omnirun_commands::random::system(),
    })
    .await?;

    let mut tasks = Tasks::new();
    let ops = OpsServer::bind(state.path(), log, vec![Arc::new(directory.live())])?;
    ops.commands().fill(service.clone());
    tasks.spawn(async move {
        ops.serve().await;
        "the operator's socket"
    });
    tasks.spawn({
        let service = service.clone();
        async move {
            service.reconcile().await;
            "the reconciler of commands"
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(serve_nats_until(client.clone(), service, async { drop(stopped.await) }));
    let mut signals = StopSignals::listen()?;
    say_ready("commands", "");
    let ended = tokio::select! {
        ended = signals.or_ended(&mut tasks) => ended,
        served = &mut serving => {
            served.context("the command service broke")??;
            Some("the command service")
        }
    };
    // Commands under way are answered first, while everything they need still runs.
    drop(stop);
    if !serving.is_finished() {
        serving.await.context("the command service broke")??;
    }
    tasks.shutdown().await;
    directory.stop().await;
    bus::flush(&client).await;
    outcome(ended)
}
