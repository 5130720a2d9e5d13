//! What each role shows of itself to Prometheus.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::cluster::{Cluster, RoleProcess, client_of};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::Client;

use super::{BACK_PATIENCE, sign_in};

/// A role that shows its metrics.
struct Shown {
    process: RoleProcess,
    metrics: Client,
}

impl Shown {
    async fn start(cluster: &Cluster, role: &str) -> Result<Self> {
        // The exporter does not say which port it took, so it is given one that was free a moment ago.
        let address: SocketAddr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let address = address.to_string();
        let process = cluster.start_with(role, &["--metrics", &address]).await?;
        let metrics = Client::anonymous(address);
        let health = metrics.get("/health").await?;
        ensure!(health.status == 200, "{role} is ready and does not say that it lives");
        Ok(Self { process, metrics })
    }

    /// Waits until the series, a name with its labels, has a value that `fits`.
    async fn wait(&self, series: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
        let look = async || {
            let text = self.metrics.get("/metrics").await?.text();
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            Ok(value.and_then(|value| value.parse().ok()).filter(|value| fits(*value)).map(drop))
        };
        let waited = wait_for(BACK_PATIENCE, look).await;
        let text = self.metrics.get("/metrics").await?.text();
        waited.with_context(|| format!("{series} is not as expected in: {text}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_shows_how_far_it_is_and_what_it_has_done() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let mailer = Shown::start(&cluster, "mailer").await?;
    let commands = Shown::start(&cluster, "commands").await?;
    let worker = Shown::start(&cluster, "worker").await?;
    let gateway = Shown::start(&cluster, "gateway").await?;
    sign_in(&client_of(&gateway.process), &mut cluster.smtp).await?;

    for role in [&commands, &worker, &gateway] {
        role.wait(r#"omnirun_view_lag_records{view="directory",log="EVENTS"}"#, |lag| lag == 0.0).await?;
        role.wait(r#"omnirun_view_following{view="directory"}"#, |is| is == 1.0).await?;
        role.wait(r#"omnirun_view_position{view="directory",log="EVENTS"}"#, |at| at > 1.0).await?;
    }
    commands.wait(r#"omnirun_appends_total{log="EVENTS",outcome="stored"}"#, |count| count >= 1.0).await?;
    commands.wait(r#"omnirun_appends_total{log="EVENTS",outcome="conflict"}"#, |count| count >= 0.0).await?;
    // It has joined as a host; nothing else is waiting to be said.
    worker.wait(r#"omnirun_appends_total{log="EVENTS",outcome="stored"}"#, |count| count >= 1.0).await?;
    worker.wait("omnirun_worker_outbox_drafts", |drafts| drafts == 0.0).await?;
    worker
        .wait(r#"omnirun_queue_deliveries_total{group="workers",time="again"}"#, |count| count == 0.0)
        .await?;
    mailer.wait(r#"omnirun_mailer_mails_total{outcome="sent"}"#, |count| count == 1.0).await?;
    mailer.wait(r#"omnirun_mailer_mails_total{outcome="refused"}"#, |count| count == 0.0).await?;
    gateway.wait("omnirun_gateway_log_lost", |lost| lost == 0.0).await?;

    for role in [gateway, worker, commands, mailer] {
        role.process.stop().await?;
    }
    Ok(())
}
