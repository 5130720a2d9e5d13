//! `omnirun mailer`: hands mails from the bus to a mail server. It holds no keys and reads no log.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use omnirun_mailer::serve_nats_until;
use tokio::sync::oneshot;

use crate::wiring::bus::{self, BusOptions};
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::run::{StopSignals, Tasks, outcome, say_ready};
use crate::wiring::smtp;

/// Options of `omnirun mailer`
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    bus: BusOptions,
    /// Mail server: smtp://user:password@host:587 (STARTTLS) or smtps://…:465
    #[arg(long, env = "OMNIRUN_SMTP", hide_env_values = true)]
    smtp: String,
    /// Sender of mail
    #[arg(long, env = "OMNIRUN_MAIL_FROM", default_value = "OmniRun <no-reply@localhost>")]
    mail_from: String,
    #[command(flatten)]
    metrics: MetricsOptions,
}

/// Runs until it is asked to stop.
pub async fn run(options: Options) -> Result<()> {
    options.metrics.start()?;
    let mailer = Arc::new(smtp::mailer(&options.smtp, &options.mail_from)?);
    let client = bus::reach(&options.bus.as_role("mailer", Vec::new())?).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(serve_nats_until(client.clone(), mailer, async { drop(stopped.await) }));
    let mut signals = StopSignals::listen()?;
    say_ready("mailer", "");
    let mut tasks = Tasks::new();
    let ended = tokio::select! {
        ended = signals.or_ended(&mut tasks) => ended,
        served = &mut serving => {
            served.context("the mailer broke")??;
            Some("the mailer")
        }
    };
    drop(stop);
    if !serving.is_finished() {
        serving.await.context("the mailer broke")??;
    }
    bus::flush(&client).await;
    outcome(ended)
}
