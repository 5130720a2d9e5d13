//! An account is erased over JetStream, with every role in a process of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::cluster::{Cluster, client_of, root_key};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::world::sandbox;
use serde_json::json;

use super::sign_in;

/// How long an erasure may take: its sandbox ends, its host says that it has nothing more to say.
const ERASED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_account_leaves_no_subject_on_jetstream_and_the_log_verifies() -> Result<()> {
    let mut cluster = Cluster::prepare().await?;
    let (mailer, commands) = (cluster.start("mailer").await?, cluster.start("commands").await?);
    let (worker, gateway) = (cluster.start("worker").await?, cluster.start("gateway").await?);
    let user = sign_in(&client_of(&gateway), &mut cluster.smtp).await?;
    let account = user.get("/account").await?.expect(200)?;
    let id = account["id"].as_str().context("it has an id")?.to_owned();
    sandbox(&user, json!({ "template": "base", "timeout": 300, "metadata": { "note": "theirs" } })).await?;
    let confirm = json!({ "confirm": account["email"] }).to_string();
    let json = [("content-type", "application/json")];
    user.call(hyper::Method::DELETE, "/account", confirm.into(), &json).await?.expect(202)?;
    ensure!(user.get("/account").await?.status == 401, "its sign-in is refused at once");

    wait_for(ERASED_WITHIN, async || {
        let (_, said) = cluster.ops(&["tail", "--from", "1", "--filter", "sys.erasure"]).await?;
        Ok(said.contains("erasure.finished").then_some(()))
    })
    .await?;
    for log in ["EVENTS", "KEYS"] {
        let (exit, text) = cluster.ops(&["tail", "--from", "1", "--log", log]).await?;
        ensure!(exit == 0 && !text.contains(&id), "{log} still names the account: {text}");
    }
    let root = root_key(&cluster.data("gateway"));
    for arguments in [&["verify", "--root-key", root.as_str()][..], &["replay", "directory"]] {
        let (exit, text) = cluster.ops_beside("gateway", arguments).await?;
        ensure!(exit == 0, "ops {arguments:?} exits with {exit}: {text}");
    }
    for role in [gateway, worker, commands, mailer] {
        role.stop().await?;
    }
    Ok(())
}
