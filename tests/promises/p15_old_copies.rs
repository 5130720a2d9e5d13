//! P15, for what an erasure cannot reach: a copy of every record from before it, such as a backup, opens with no key that is left. And the
//! sandboxes of a deleted account go with it, whenever the process is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_commands::MasterKey;
use omnirun_events::log::{Read as _, Stored};
use omnirun_events::subject::Log;
use omnirun_ops::SocketRead;
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::Client;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, sandbox};
use serde_json::json;

use crate::opened::Opened;
use crate::p15_deletion::{
    MASTER_KEY, delete_account, everything, finished, id_of, nothing_is_left, records_after,
};

/// Everything of somebody that is sealed: the address of their sign-up, the one that they changed it to, their token's name, and what they said
/// of their sandbox.
/// Answers their session, their address, and a copy of the records from before they corrected it.
async fn somebody(world: &mut World, who: &str) -> Result<(Client, String, Vec<Stored>)> {
    let (first, address) = (format!("{who}-first@example.org"), format!("{who}@example.org"));
    let session = world.sign_in(&first).await?;
    let copy = everything(&world.data()).await?;
    let asked = session.patch("/account", json!({ "email": address })).await?.expect(202)?;
    let code = world.smtp.code_to(&address).await?;
    let change = json!({ "email": address, "code": code, "challengeId": asked["challengeId"] });
    session.patch("/account", change).await?.expect(200)?;
    session.post("/tokens", json!({ "name": format!("{who} token") })).await?.expect(201)?;
    let metadata = json!({ "of": format!("{who} sandbox") });
    sandbox(&session, json!({ "template": "base", "timeout": 60, "metadata": metadata })).await?;
    Ok((session, address, copy))
}

/// The sealed fields that say something of somebody.
fn of(opened: &Opened, who: &str) -> Vec<String> {
    let theirs = opened.sealed.iter().filter(|(_, text)| text.contains(who));
    theirs.map(|(field, _)| field.clone()).collect()
}

const EVERY_FIELD: [&str; 3] = ["email", "metadata", "name"];

#[tokio::test]
async fn a_copy_from_before_the_erasure_opens_with_no_key_that_is_left() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let data = world.data();
    let (gone, email, first_copy) = somebody(&mut world, "gone").await?;
    let (stays, ..) = somebody(&mut world, "kept").await?;
    stays.get("/account").await?.expect(200)?;
    let copy = everything(&data).await?;
    let key = data.join(MASTER_KEY);
    let old_key = world.directory().join("old-master.key");
    std::fs::copy(&key, &old_key)?;
    let control = Opened::of(&copy, &MasterKey::load(&old_key)?);
    ensure!(of(&control, "gone") == EVERY_FIELD, "with its own key, a copy can be read: {control:?}");
    ensure!(of(&Opened::of(&first_copy, &MasterKey::load(&old_key)?), "gone-first") == ["email"]);
    let corrected = !control.all("email").iter().any(|email| email.contains("first"));
    ensure!(corrected, "the key of a corrected address is in no later copy: {control:?}");

    delete_account(&gone, &email).await?;
    finished(&data, 1).await?;
    // What the night after an erasure does by itself.
    let (exit, text) = ops(&data, &["keys", "rotate"]).await?;
    ensure!(exit == 0, "the rotation exits with {exit}: {text}");

    for copy in [&first_copy, &copy] {
        let opened = Opened::of(copy, &MasterKey::load(&key)?);
        ensure!(opened.sealed.is_empty(), "the key that is left opens the old copy: {opened:?}");
    }
    let now = everything(&data).await?;
    let opened = Opened::of(&now, &MasterKey::load(&old_key)?);
    ensure!(opened.sealed.is_empty(), "the old key opens what is left: {opened:?}");
    let opened = Opened::of(&now, &MasterKey::load(&key)?);
    ensure!(
        of(&opened, "kept") == EVERY_FIELD && of(&opened, "gone").is_empty(),
        "who stays can be read: {opened:?}"
    );
    world.close().await
}

#[tokio::test]
async fn the_sandboxes_of_a_deleted_account_go_with_it() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (data, email) = (world.data(), "p15-sandbox@example.org");
    let session = world.sign_in(email).await?;
    let account = id_of(&session).await?;
    let wish = json!({ "template": "base", "timeout": 300, "metadata": { "of": "theirs" } });
    let id = sandbox(&session, wish).await?;
    ensure!(guests(&data).any(|name| name.contains(&id)), "a running guest has a directory");
    let reader = SocketRead::connect(&data).await.context("the operator's socket does not answer")?;
    let before = reader.head(Log::Events).await?;
    delete_account(&session, email).await?;
    // The account and the command to stop are closed; the guest is on its way out.
    tokio::time::timeout(Duration::from_secs(30), records_after(&data, before, 2)).await??;
    let world = world.restart().await?;
    finished(&data, 1).await?;
    nothing_is_left(&data, &account).await?;
    wait_for(Duration::from_secs(30), async || {
        Ok((!guests(&data).any(|name| name.contains(&id))).then_some(()))
    })
    .await
    .context("the guest's directory is left")?;
    world.close().await
}

/// Names of what the worker keeps of its guests.
fn guests(data: &Path) -> impl Iterator<Item = String> {
    let run = std::fs::read_dir(data.join("run")).into_iter().flatten().flatten();
    let inner = run.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
    inner.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
