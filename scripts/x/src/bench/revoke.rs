//! How long a token that was deleted at one gateway is still good at another one, over JetStream: from the answer to the deletion until the first
//! refusal, and until a stream is broken off that it had opened. The goal is a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use omnirun_test_support::cluster::{Cluster, client_of};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::{Client, Streaming};
use omnirun_test_support::world::{destroy, sandbox};
use serde_json::json;

use super::numbers::{millis, percentile, print_table};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Life of the sandbox whose output is streamed: longer than a run of the default length.
const SANDBOX_SECONDS: u32 = 600;

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
    let others =
        (cluster.start("commands").await?, cluster.start("mailer").await?, cluster.start("worker").await?);
    let (here, there) = (cluster.start("gateway").await?, cluster.start_another("gateway").await?);
    let session = sign_in(&mut cluster, client_of(&here)).await?;
    let there = client_of(&there);
    let id = sandbox(&session, json!({ "template": "base", "timeout": SANDBOX_SECONDS })).await?;
    let stream = silent_stream(&session, &id).await?;
    let (mut requests, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let stolen = Stolen::make(&session, &there).await?;
        requests.push(stolen.refused_after(&session).await?);
        let stolen = Stolen::make(&session, &there).await?;
        streams.push(stolen.broken_off_after(&session, &stream).await?);
    }
    let row = |what: &str, delays: &mut [Duration]| {
        let cells = [50, 95, 99, 100].map(|percent| millis(percentile(delays, percent)));
        [vec![format!("{} {what}", options.runs)], cells.to_vec()].concat()
    };
    print_table(
        "A deleted token is still good at another gateway for so long after the answer, ms (goal: 1000)",
        &["", "p50", "p95", "p99", "max"],
        &[row("tokens, next request", &mut requests), row("tokens, open stream", &mut streams)],
    );
    destroy(&session, &id).await?;
    drop(others);
    Ok(())
}

/// The path of the output of a command that says nothing and does not end.
async fn silent_stream(session: &Client, sandbox: &str) -> Result<String> {
    let commands = format!("/sandboxes/{sandbox}/commands");
    let silent = json!({ "command": "sleep 100000", "background": true });
    let pid = session.post(&commands, silent).await?.expect(200)?["pid"].clone();
    Ok(format!("{commands}/{pid}/stream"))
}

async fn sign_in(cluster: &mut Cluster, client: Client) -> Result<Client> {
    let email = "bench@example.org";
    let asked = client.post("/auth/magic-link/request", json!({ "email": email })).await?.expect(200)?;
    let code = cluster.smtp.code_to(email).await?;
    let body = json!({ "email": email, "code": code, "challengeId": asked["challengeId"] });
    let token = client.post("/auth/otp/verify", body).await?.expect(200)?;
    Ok(client.with_token(token["token"].as_str().context("no token in the answer")?))
}

/// A token that the other gateway knows.
struct Stolen {
    /// Its path at the gateway that made it.
    path: String,
    there: Client,
}

impl Stolen {
    async fn make(session: &Client, there: &Client) -> Result<Self> {
        let made = session.post("/tokens", json!({ "name": "bench" })).await?.expect(201)?;
        let there = there.with_token(made["token"].as_str().context("it is shown once")?);
        wait_for(PATIENCE, async || Ok((there.get("/sandboxes").await?.status == 200).then_some(()))).await?;
        Ok(Self { path: format!("/tokens/{}", made["id"].as_str().context("it has an id")?), there })
    }

    /// Deletes it; answers when that was confirmed.
    async fn delete(&self, session: &Client) -> Result<Instant> {
        let deleted = session.delete(&self.path).await?;
        ensure!(deleted.status == 204, "it was not deleted: {}", deleted.text());
        Ok(Instant::now())
    }

    /// From its deletion until the other gateway refuses it.
    async fn refused_after(&self, session: &Client) -> Result<Duration> {
        let answered = self.delete(session).await?;
        while self.there.get("/sandboxes").await?.status != 401 {
            ensure!(answered.elapsed() < PATIENCE, "the token is still good");
        }
        Ok(answered.elapsed())
    }

    /// From its deletion until the other gateway breaks off a stream that it has opened; none if that was before the answer.
    async fn broken_off_after(&self, session: &Client, stream: &str) -> Result<Duration> {
        let stream = tokio::spawn(ended_at(self.there.open(stream).await?));
        let answered = self.delete(session).await?;
        let ended = tokio::time::timeout(PATIENCE, stream).await.context("the stream goes on")??;
        Ok(ended.saturating_duration_since(answered))
    }
}

async fn ended_at(stream: Streaming) -> Instant {
    stream.to_its_end().await;
    Instant::now()
}
