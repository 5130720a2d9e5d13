//! P3: usage is tracked to enforce plan limits and to bill; a replay of the log gives the same bill.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use omnirun_events::Timestamp;
use omnirun_test_support::eventually;
use omnirun_test_support::up::{Up, ops};
use omnirun_test_support::world::{World, destroy, run, sandbox};
use serde_json::json;

use crate::long_ago::{DAY, LongAgo};

#[tokio::test]
async fn a_replay_of_the_log_gives_the_same_bill() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (user, _) = world.user("p03@example.org").await?;
    let id = sandbox(&user, json!({ "template": "base", "timeout": 60 })).await?;
    run(&user, &id, "true").await?;
    destroy(&user, &id).await?;
    let bill = user.get("/account/usage").await?.expect(200)?;
    assert_eq!(bill["sandboxes"][0]["sandboxID"], id.as_str());
    assert!(bill["sandboxes"][0]["wallMs"].as_u64().is_some_and(|wall| wall > 0), "{bill}");

    for view in ["usage", "billing"] {
        let (exit, text) = ops(&world.data(), &["replay", view]).await?;
        assert_eq!(exit, 0, "{text}");
    }
    // Without its checkpoints every read model starts from the log alone.
    let data = world.data();
    let directory = world.stop().await?;
    std::fs::remove_dir_all(data.join("views"))?;
    let again = Up::start(&data, &["--pool", "0"]).await?;
    let token = user.token().expect("the user has a token").to_owned();
    let replayed = again.client().with_token(token).get("/account/usage").await?.expect(200)?;
    for part in ["/sandboxes", "/totals", "/month/soFar", "/month/lines"] {
        assert!(bill.pointer(part).is_some_and(|part| !part.is_null()), "{part} of {bill}");
        assert_eq!(replayed.pointer(part), bill.pointer(part), "{part}");
    }
    again.stop().await?;
    drop(directory);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_is_over_is_closed_and_its_owner_computes_the_statement_again() -> Result<()> {
    const EMAIL: &str = "p03.owner@example.org";
    let directory = tempfile::tempdir()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let ago = |days| Timestamp(now - days * DAY);
    // Its first month ended 19 to 22 days ago.
    let mut past = LongAgo::open(&directory.path().join("data"), ago(50)).await?;
    let account = past.account(EMAIL).await?;
    past.set_time(ago(45));
    past.sandbox(account, "free text").await?;
    past.close().await?;

    let mut world = World::start_in(directory, &["--pool", "0"]).await?;
    let owner = world.sign_in(EMAIL).await?;
    let closed = eventually(Duration::from_secs(60), async || {
        let statements = owner.get("/account/statements").await?.expect(200)?;
        Ok(statements[0].is_object().then_some(statements))
    });
    let statements = closed.await.context("the month is not closed")?;
    assert_eq!((&statements[0]["standardSeconds"], &statements[1]), (&json!(60), &json!(null)));
    let (exit, text) = ops(&world.data(), &["replay", "billing"]).await?;
    assert_eq!(exit, 0, "{text}");

    let export = world.directory().join("export.zip");
    std::fs::write(&export, owner.post("/account/export", json!({})).await?.body)?;
    let root = std::fs::read_to_string(world.data().join("root.pub"))?.trim().to_owned();
    // Its owner has the archive and the fingerprint, and nothing else.
    let (elsewhere, export) = (tempfile::tempdir()?, export.to_string_lossy().into_owned());
    let (exit, text) = ops(elsewhere.path(), &["statement", "--root-key", &root, "--from", &export]).await?;
    assert!(exit == 0 && text.contains("the same bytes"), "{text}");

    // What is wrong with a closed month is corrected beside it; a plan changes with the next month.
    let (account, start) = (account.to_string(), statements[0]["start"].as_str().context("a start")?);
    let by = ["--operator", "night shift", "--reason", "request 17"];
    let charge = ["account", "correct", &account, &start[..10], "charge", "5000000"];
    let (exit, text) = ops(&world.data(), &[&charge[..], &by].concat()).await?;
    assert_eq!(exit, 0, "{text}");
    let (exit, text) =
        ops(&world.data(), &[&["account", "plan", &account, "launch"][..], &by].concat()).await?;
    assert!(exit == 0 && text.contains("from: "), "{text}");
    assert_eq!(owner.get("/account").await?.expect(200)?["plan"], "sandbox");
    let due = eventually(Duration::from_secs(10), async || {
        let statements = owner.get("/account/statements").await?.expect(200)?;
        Ok((statements[0]["due"]["cents"] == 5).then_some(()))
    });
    due.await.context("the month is not corrected")?;
    world.close().await
}

#[tokio::test]
async fn a_paused_sandbox_keeps_its_data_and_is_metered_for_its_memory_alone() -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(3);
    let mut world = World::start(&["--pool", "0"]).await?;
    let (user, _) = world.user("p03@example.org").await?;
    let id = sandbox(&user, json!({ "template": "base", "timeout": 300 })).await?;
    run(&user, &id, "echo kept > /tmp/data").await?;
    let paused = user.post(&format!("/sandboxes/{id}/pause"), json!({})).await?.expect(200)?;
    assert_eq!(paused["status"], "paused");
    let refused = user.post(&format!("/sandboxes/{id}/commands"), json!({ "command": "true" })).await?;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (409, &json!("sandbox_paused")));
    // The time itself is what is metered: a pause that is long beside what the guest ran.
    tokio::time::sleep(PAUSE).await;
    let resumed = user.post(&format!("/sandboxes/{id}/resume"), json!({})).await?.expect(200)?;
    assert_eq!(resumed["status"], "running");
    assert_eq!(run(&user, &id, "cat /tmp/data").await?, "kept");
    destroy(&user, &id).await?;
    let bill = user.get("/account/usage").await?.expect(200)?;
    let used = |field: &str| bill["sandboxes"][0][field].as_u64().unwrap_or_default();
    let held_ms = used("memoryMibSeconds") * 1000 / used("memoryMB");
    assert!(
        u128::from(held_ms) >= u128::from(used("wallMs")) + PAUSE.as_millis(),
        "its memory was metered while it was paused: {bill}"
    );
    world.close().await
}

#[tokio::test]
async fn of_sandboxes_asked_for_at_once_the_plan_admits_exactly_what_it_allows() -> Result<()> {
    const AT_ONCE: usize = 2;
    let plans = std::fs::read_to_string(omnirun_test_support::root().join("infra/plans.toml"))?;
    let plans = plans.replacen("concurrency = 20", &format!("concurrency = {AT_ONCE}"), 1);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), plans)?;
    let mut world = World::start(&["--pool", "0", "--plans", &file.path().to_string_lossy()]).await?;
    let (user, _) = world.user("p03@example.org").await?;
    let wishes = (0..AT_ONCE + 3).map(|_| {
        let user = user.clone();
        tokio::spawn(
            async move { user.post("/sandboxes", json!({ "template": "base", "timeout": 60 })).await },
        )
    });
    let mut admitted = Vec::new();
    let mut refused = 0;
    for wish in wishes.collect::<Vec<_>>() {
        let answer = wish.await??;
        match answer.status.as_u16() {
            201 => admitted.push(answer.json()["sandboxID"].as_str().unwrap_or_default().to_owned()),
            402 => {
                assert_eq!(answer.json()["code"], "plan_limit");
                refused += 1;
            }
            other => panic!("neither admitted nor refused: {other} {}", answer.text()),
        }
    }
    assert_eq!((admitted.len(), refused), (AT_ONCE, 3));
    for id in admitted {
        destroy(&user, &id).await?;
    }
    world.close().await
}
