//! A gateway whose bus goes silent: what it knew counts for a while, then nothing does, and it heals by itself.

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::cluster::{Cluster, client_of};
use omnirun_test_support::demo::wait_for;

use super::{BACK_PATIENCE, sign_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_a_known_token_is_good_until_the_limit_and_again_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let mailer = cluster.start("mailer").await?;
    let commands = cluster.start("commands").await?;
    let gateway = cluster.start_with("gateway", &["--without-log", "6"]).await?;
    let user = sign_in(&client_of(&gateway), &mut cluster.smtp).await?;

    // Frozen rather than killed: connections stay open, so that nothing but silence tells.
    cluster.nats.pause();
    let known = user.get("/sandboxes").await?;
    ensure!(known.status == 200, "expected 200, got {}: {}", known.status, known.text());
    let refused = wait_for(BACK_PATIENCE, async || {
        let answer = user.get("/sandboxes").await?;
        Ok((answer.status != 200).then_some(answer))
    })
    .await
    .context("the token is good for ever")?;
    ensure!(refused.status == 503, "expected 503, got {}: {}", refused.status, refused.text());
    ensure!(refused.json()["code"] == "log_unreachable", "{}", refused.text());
    ensure!(refused.headers.contains_key("retry-after"), "it does not say when to try again");

    tokio::task::block_in_place(|| cluster.nats.restart_after_kill());
    wait_for(BACK_PATIENCE, async || Ok((user.get("/sandboxes").await?.status == 200).then_some(())))
        .await
        .context("the gateway does not heal")?;
    for role in [gateway, commands, mailer] {
        role.stop().await?;
    }
    Ok(())
}
