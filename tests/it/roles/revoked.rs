//! A token that is deleted at one gateway is dead at another one, streams that it has opened there included.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::cluster::{Cluster, client_of};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::report;
use omnirun_test_support::world::{destroy, sandbox};
use serde_json::json;

use super::{BACK_PATIENCE, sign_in};

/// Well below the time after which a gateway looks again by the clock alone, so that the event itself has to do it.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_deleted_at_one_gateway_and_its_streams_end_at_another_one() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let mailer = cluster.start("mailer").await?;
    let commands = cluster.start("commands").await?;
    let worker = cluster.start("worker").await?;
    let (here, there) = (cluster.start("gateway").await?, cluster.start_another("gateway").await?);
    let session = sign_in(&client_of(&here), &mut cluster.smtp).await?;
    let made = session.post("/tokens", json!({ "name": "stolen" })).await?.expect(201)?;
    let (token, id) = (made["token"].as_str().context("shown once")?, made["id"].as_str().context("an id")?);
    let thief = client_of(&there).with_token(token);
    wait_for(BACK_PATIENCE, async || Ok((thief.get("/sandboxes").await?.status == 200).then_some(())))
        .await?;
    let sandbox = sandbox(&thief, json!({ "template": "base", "timeout": 300 })).await?;
    let commands_of = format!("/sandboxes/{sandbox}/commands");
    let endless = json!({ "command": "while true; do echo x; sleep 0.1; done", "background": true });
    let pid = thief.post(&commands_of, endless).await?.expect(200)?["pid"].clone();
    let stream = thief.open(&format!("{commands_of}/{pid}/stream")).await?;

    let deleted = session.delete(&format!("/tokens/{id}")).await?;
    ensure!(deleted.status == 204, "it was not deleted: {}", deleted.text());
    let since = Instant::now();
    tokio::time::timeout(REVOKED_WITHIN, stream.to_its_end()).await.context("the stream goes on")?;
    report(&format!("an open stream ended {} ms after its token was deleted", since.elapsed().as_millis()));
    ensure!(thief.get("/sandboxes").await?.status == 401, "the token is good at the other gateway");
    destroy(&session, &sandbox).await?;
    for role in [here, there, worker, commands, mailer] {
        role.stop().await?;
    }
    Ok(())
}
