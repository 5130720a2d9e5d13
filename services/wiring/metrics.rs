//! What a role measures of itself, and where Prometheus fetches it: the exporter's own listener, which answers nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// How often what was observed is folded into what is shown; without it histograms grow until somebody looks.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Where metrics are shown.
#[derive(Debug, Args)]
pub struct MetricsOptions {
    /// Where Prometheus fetches this process's metrics, such as 127.0.0.1:9464, and GET /health says that it lives; nowhere if not given.
    /// It asks for no credential: keep it on loopback or a network of operators
    #[arg(long, env = "OMNIRUN_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

impl MetricsOptions {
    /// Begins to record, and to listen if that was asked for. Once in a process, before anything is counted.
    pub fn start(&self) -> Result<PrometheusHandle> {
        let builder = PrometheusBuilder::new();
        let Some(address) = self.metrics else {
            let handle = builder.install_recorder().context("cannot record metrics")?;
            let upkeep = handle.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(UPKEEP_EVERY).await;
                    upkeep.run_upkeep();
                }
            });
            describe();
            return Ok(handle);
        };
        // This one keeps itself up.
        let (recorder, exporter) = builder
            .with_http_listener(address)
            .build()
            .with_context(|| format!("cannot show metrics on {address}; choose another --metrics"))?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).context("cannot record metrics")?;
        tokio::spawn(async move {
            if exporter.await.is_err() {
                tracing::error!("metrics are not shown any more; everything else goes on");
            }
        });
        describe();
        Ok(handle)
    }
}

/// Says beside the most important numbers what they are. `docs/runbooks/metrics.md` says when to worry.
fn describe() {
    for (name, help) in [
        ("omnirun_view_lag_records", "Records that the read model is behind its log, when it last read."),
        ("omnirun_view_position", "Last position of the log that the read model has folded."),
        ("omnirun_view_following", "1 once the read model has caught up, 0 before and after it has stopped."),
        ("omnirun_worker_outbox_drafts", "What this host has to say and the log has not yet taken."),
        ("omnirun_worker_sandboxes", "Sandboxes that run on this host."),
        ("omnirun_retention_last_run_seconds", "When what had expired was last removed, as a Unix time."),
        ("omnirun_billing_behind_seconds", "How long the oldest month that is to be closed has been over."),
        ("omnirun_gateway_log_lost", "1 while credentials are refused because the log is out of reach."),
    ] {
        metrics::describe_gauge!(name, help);
    }
    for (name, help) in [
        ("omnirun_appends_total", "Batches handed to the log, by what became of them."),
        ("omnirun_commands_conflicts_total", "Decisions made anew because another writer was first."),
        ("omnirun_queue_deliveries_total", "Records taken from a queue, for the first time or again."),
        ("omnirun_view_read_errors_total", "Times that the log could not be read."),
        ("omnirun_view_ignored_total", "Records whose writer may not say that; verify names them."),
        ("omnirun_retention_failures_total", "Runs of retention that were not finished."),
        ("omnirun_retention_records_total", "Records that retention has removed."),
        ("omnirun_billing_refused_total", "What accounts' bills needed and the commands service refused."),
        ("omnirun_mails_total", "Mails that the commands service handed on, by outcome."),
        ("omnirun_mailer_mails_total", "Mails handed to the mail server, by outcome."),
    ] {
        metrics::describe_counter!(name, help);
    }
}
