//! P17: what is asked by mail is done by an operator, and the log says who did it and why.

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::up::ops;
use omnirun_test_support::world::World;

use crate::p15_deletion::{finished, nothing_is_left};

#[tokio::test]
async fn an_operator_erases_an_account_and_the_log_says_who_and_why_and_not_whose() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let data = world.data();
    let session = world.sign_in("p17@example.org").await?;
    let account = session.get("/account").await?.expect(200)?;
    let account = account["id"].as_str().context("an account has an id")?.to_owned();
    let erase = ["account", "erase", "p17@example.org", "--operator", "night shift", "--reason", "request 17"];
    let (exit, text) = ops(&data, &erase).await?;
    ensure!(exit == 0 && text.starts_with("receipt: "), "{exit}: {text}");
    ensure!(session.get("/account").await?.status == 401, "its sessions are refused at once");
    finished(&data, 1).await?;
    nothing_is_left(&data, &account).await?;
    let (_, events) = ops(&data, &["tail", "--json", "--filter", "sys.ops", "--from", "1"]).await?;
    ensure!(events.contains("night shift") && events.contains("request 17"), "{events}");
    ensure!(!events.contains(&account) && !events.contains("p17@"), "{events}");
    world.close().await
}
