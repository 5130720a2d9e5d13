//! The main job with every role in a process of its own, over JetStream with the repository's nats.conf: it survives a killed server, and
//! an absent commands service is said so.

mod erasure;
mod metrics;
mod revoked;
mod without_log;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::cluster::{Cluster, client_of, root_key};
use omnirun_test_support::demo::{Demo, wait_for};
use omnirun_test_support::http::Client;
use omnirun_test_support::smtp::SmtpSink;
use serde_json::json;

/// How long one run of the job may take, a cold boot on a busy machine included.
const JOB_PATIENCE: Duration = Duration::from_secs(180);

/// How long the roles may take to find a restarted server again.
const BACK_PATIENCE: Duration = Duration::from_secs(60);

/// Pause before a refused request is made again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The step after which the server is killed: the account and its token are there, the sandbox is not.
const KILL_AFTER: &str = "API token";

/// A client with the credential of somebody who has just signed in.
async fn sign_in(client: &Client, smtp: &mut SmtpSink) -> Result<Client> {
    let email = "somebody@example.org";
    client.post("/auth/magic-link/request", json!({ "email": email })).await?.expect(200)?;
    let code = smtp.code_to(email).await?;
    let signed_in = client.post("/auth/otp/verify", json!({ "email": email, "code": code })).await?;
    let token = signed_in.expect(200)?["token"].as_str().context("there is no token")?.to_owned();
    Ok(client.with_token(token))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_ends_well_over_jetstream_although_its_server_is_killed_in_the_middle() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let mailer = cluster.start("mailer").await?;
    let commands = cluster.start("commands").await?;
    let worker = cluster.start("worker").await?;
    let projector = cluster.start("projector").await?;
    let gateway = cluster.start("gateway").await?;
    let client = client_of(&gateway);
    let mut demo = Demo::default();
    {
        let Cluster { nats, smtp, .. } = &mut cluster;
        let mut has_killed = false;
        let mut tell = |line: &str| {
            println!("{line}");
            if !has_killed && line.starts_with(KILL_AFTER) {
                tokio::task::block_in_place(|| nats.restart_after_kill());
                has_killed = true;
            }
        };
        let started = Instant::now();
        // A gateway that is back before the commands service refuses, and says that nothing was done: its user asks again.
        while let Err(error) = tokio::time::timeout(JOB_PATIENCE, demo.run(&client, smtp, &mut tell)).await? {
            ensure!(started.elapsed() < BACK_PATIENCE, "the job does not end well: {error:#}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
        ensure!(has_killed, "the server was not killed");
    }
    let root = root_key(&cluster.data("gateway"));
    for arguments in
        [&["verify", "--root-key", root.as_str()][..], &["replay", "directory"], &["replay", "usage"]]
    {
        let (exit, text) = cluster.ops_beside("gateway", arguments).await?;
        ensure!(exit == 0, "ops {arguments:?} exits with {exit}: {text}");
        let is_live = arguments[0] != "replay" || text.contains("memory of the running process");
        ensure!(is_live, "it was not compared with the gateway's memory: {text}");
    }
    // Its ledgers are those of whoever reads the log, and it was refused nothing that it has to read.
    let (exit, text) = cluster.ops_beside("projector", &["replay", "billing"]).await?;
    ensure!(exit == 0 && text.contains("memory of the running process"), "{exit}: {text}");
    // In the order of a request, so that nobody asks somebody who has gone.
    for role in [gateway, projector, worker, commands, mailer] {
        role.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_commands_service_the_gateway_says_so_and_goes_on_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let mailer = cluster.start("mailer").await?;
    let gateway = cluster.start("gateway").await?;
    let client = client_of(&gateway);
    let wish = || json!({ "email": "a@example.org" });
    let refused = client.post("/auth/magic-link/request", wish()).await?;
    ensure!(refused.status == 503, "expected 503, got {}: {}", refused.status, refused.text());
    ensure!(refused.json()["code"] == "commands_unavailable", "{}", refused.text());
    let commands = cluster.start("commands").await?;
    wait_for(BACK_PATIENCE, async || {
        let asked = client.post("/auth/magic-link/request", wish()).await?;
        Ok((asked.status == 200).then_some(()))
    })
    .await?;
    cluster.smtp.code_to("a@example.org").await?;
    for role in [gateway, commands, mailer] {
        role.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_streams_says_what_to_run() -> Result<()> {
    let nats = tokio::task::block_in_place(omnirun_test_support::NatsServer::start);
    let directory = tempfile::tempdir()?;
    let url = nats.url();
    let (exit, text) =
        omnirun_test_support::up::ops(directory.path(), &["--nats", url.as_str(), "tail"]).await?;
    ensure!(exit == 2 && text.contains("run omnirun ops streams apply"), "{exit}: {text}");
    Ok(())
}
