//! How long a token that was deleted at one gateway is still good at another one, over JetStream: from the answer to the deletion until the first
//! refusal. The goal is a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use omnirun_test_support::cluster::{Cluster, client_of};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::Client;
use serde_json::json;

use super::numbers::{millis, percentile, print_table};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of revoke
#[derive(Args)]
pub struct Options {
    /// Tokens that are deleted, one after the other
    #[arg(long, default_value_t = 100)]
    runs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { runs: 100 }
    }
}

/// Measures and prints the table.
pub async fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "--runs has to be above 0");
    let mut cluster = Cluster::prepare().await?;
    let (commands, mailer) = (cluster.start("commands").await?, cluster.start("mailer").await?);
    let (here, there) = (cluster.start("gateway").await?, cluster.start_another("gateway").await?);
    let session = sign_in(&mut cluster, client_of(&here)).await?;
    let mut delays = Vec::with_capacity(options.runs);
    for _ in 0..options.runs {
        delays.push(delay(&session, &client_of(&there)).await?);
    }
    let cells = [50, 95, 99, 100].map(|percent| millis(percentile(&mut delays, percent)));
    let row = [vec![format!("{} tokens", options.runs)], cells.to_vec()].concat();
    print_table(
        "A deleted token is still good at another gateway for so long after the answer, ms (goal: 1000)",
        &["", "p50", "p95", "p99", "max"],
        &[row],
    );
    drop((commands, mailer));
    Ok(())
}

async fn sign_in(cluster: &mut Cluster, client: Client) -> Result<Client> {
    let email = "bench@example.org";
    let asked = client.post("/auth/magic-link/request", json!({ "email": email })).await?.expect(200)?;
    let code = cluster.smtp.code_to(email).await?;
    let body = json!({ "email": email, "code": code, "challengeId": asked["challengeId"] });
    let token = client.post("/auth/otp/verify", body).await?.expect(200)?;
    Ok(client.with_token(token["token"].as_str().context("no token in the answer")?))
}

/// Makes a token, waits until the other gateway knows it, deletes it, and counts until it is refused there.
async fn delay(session: &Client, there: &Client) -> Result<Duration> {
    let made = session.post("/tokens", json!({ "name": "bench" })).await?.expect(201)?;
    let user = there.with_token(made["token"].as_str().context("it is shown once")?);
    let status = async || Ok::<_, anyhow::Error>(user.get("/sandboxes").await?.status);
    wait_for(PATIENCE, async || Ok((status().await? == 200).then_some(()))).await?;
    let id = made["id"].as_str().context("it has an id")?;
    let deleted = session.delete(&format!("/tokens/{id}")).await?;
    ensure!(deleted.status == 204, "it was not deleted: {}", deleted.text());
    let answered = Instant::now();
    while status().await? != 401 {
        ensure!(answered.elapsed() < PATIENCE, "the token is still good");
    }
    Ok(answered.elapsed())
}
