//! P15, for what an erasure cannot reach: a copy of every record from before it, such as a backup, opens with no key that is left. And the
//! sandboxes of a deleted account go with it, whenever the process is killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_commands::MasterKey;
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::log::{Read as _, Stored};
use omnirun_events::subject::Log;
use omnirun_events::{Event, codec};
use omnirun_ops::SocketRead;
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, sandbox};
use serde_json::json;

use crate::p15_deletion::{delete_account, everything, finished, id_of, nothing_is_left, records_after};

/// The addresses that whoever holds these records and this master key can read.
fn readable(records: &[Stored], master: &MasterKey) -> Vec<String> {
    let decoded: Vec<_> = records
        .iter()
        .filter_map(|stored| Some((&stored.subject, codec::decode(&stored.record).ok()?.events)))
        .collect();
    let keys: Vec<_> = decoded
        .iter()
        .flat_map(|(subject, events)| events.iter().map(move |event| (subject, event)))
        .filter_map(|(subject, event)| match event {
            Event::DataKeyWrapped(wrapped) => {
                master.wrapping(wrapped.epoch)?.unwrap_key(&wrapped.wrapped, subject).ok()
            }
            _ => None,
        })
        .collect();
    let sealed = decoded
        .iter()
        .flat_map(|(subject, events)| events.iter().map(move |event| (subject, event)))
        .filter_map(|(subject, event)| match event {
            Event::AccountOpened(opened) => Some((subject, &opened.email)),
            _ => None,
        });
    sealed
        .filter_map(|(subject, email)| keys.iter().find_map(|key| key.open(email, subject, EMAIL_FIELD).ok()))
        .filter_map(|plain| String::from_utf8(plain).ok())
        .collect()
}

#[tokio::test]
async fn a_copy_from_before_the_erasure_opens_with_no_key_that_is_left() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (data, email) = (world.data(), "p15-copied@example.org");
    let (gone, stays) = (world.sign_in(email).await?, world.sign_in("p15-kept@example.org").await?);
    stays.get("/account").await?.expect(200)?;
    let (copy, key) = (everything(&data).await?, data.join("keys/master.key"));
    let old_key = world.directory().join("old-master.key");
    std::fs::copy(&key, &old_key)?;
    let control = readable(&copy, &MasterKey::load(&old_key)?);
    ensure!(control.iter().any(|found| found == email), "with its own key, a copy can be read: {control:?}");

    delete_account(&gone, email).await?;
    finished(&data, 1).await?;
    // What the night after an erasure does by itself.
    let (exit, text) = ops(&data, &["keys", "rotate"]).await?;
    ensure!(exit == 0, "the rotation exits with {exit}: {text}");

    ensure!(readable(&copy, &MasterKey::load(&key)?).is_empty(), "the key that is left opens the old copy");
    let now = everything(&data).await?;
    ensure!(readable(&now, &MasterKey::load(&old_key)?).is_empty(), "the old key opens what is left");
    ensure!(readable(&now, &MasterKey::load(&key)?) == ["p15-kept@example.org"], "who stays can be read");
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
