//! P16: access, correction and export of personal data.

use anyhow::Result;
use omnirun_test_support::export::Unpacked;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, destroy, files_holding, sandbox};
use serde_json::{Value, json};

#[tokio::test]
async fn an_export_holds_every_event_about_the_account_readable_and_signed() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let session = world.sign_in("p16@example.org").await?;
    session.post("/tokens", json!({ "name": "tokenNameOfP16" })).await?.expect(201)?;
    let wish = json!({ "template": "base", "timeout": 60, "metadata": { "note": "metadataOfP16" } });
    let id = sandbox(&session, wish).await?;
    destroy(&session, &id).await?;
    let account = session.get("/account").await?.expect(200)?;
    assert_eq!((&account["email"], &account["held"]["sandboxes"]), (&json!("p16@example.org"), &json!(1)));

    let bytes = session.post("/account/export", json!({})).await?.body;
    let archive = Unpacked::of(&bytes)?;
    assert_eq!(archive.json("account.json")?["email"], "p16@example.org");
    let text = String::from_utf8_lossy(&archive.0["events.jsonl"]).into_owned();
    for readable in ["p16@example.org", "tokenNameOfP16", "metadataOfP16"] {
        assert!(text.contains(readable), "{readable} cannot be read in it");
    }
    let exported: Vec<Value> =
        archive.lines("events.jsonl")?.into_iter().map(|line| line["position"].clone()).collect();
    let account = account["id"].as_str().expect("an id");
    assert_eq!(positions(&world, "EVENTS", &format!("evt.{account}.>")).await?, in_events(&archive)?);
    assert!(exported.len() >= 7, "opened, tokens, requested, claimed, started, stop, stopped: {exported:?}");
    assert!(!text.contains("\"ignored\""));

    let (good, changed) = (world.directory().join("export.zip"), world.directory().join("changed.zip"));
    std::fs::write(&good, &bytes)?;
    let root = std::fs::read_to_string(world.data().join("root.pub"))?.trim().to_owned();
    let elsewhere = tempfile::tempdir()?;
    let verify = async |file: &std::path::Path| {
        let file = file.to_string_lossy().into_owned();
        ops(elsewhere.path(), &["verify", "--root-key", &root, "--export", &file]).await
    };
    let (exit, said) = verify(&good).await?;
    assert_eq!(exit, 0, "{said}");
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&changed, &bytes)?;
    let (exit, said) = verify(&changed).await?;
    assert_eq!(exit, 1, "a changed archive must not pass: {said}");
    world.close().await
}

/// Where the exported records of EVENTS are.
fn in_events(archive: &Unpacked) -> Result<Vec<u64>> {
    let lines = archive.lines("events.jsonl")?;
    Ok(lines
        .iter()
        .filter(|line| line["log"] == "EVENTS")
        .filter_map(|line| line["position"].as_u64())
        .collect())
}

/// Where the stored records of a log are that a filter takes.
async fn positions(world: &World, log: &str, filter: &str) -> Result<Vec<u64>> {
    let arguments = ["tail", "--json", "--from", "1", "--log", log, "--filter", filter];
    let (exit, text) = ops(&world.data(), &arguments).await?;
    assert_eq!(exit, 0, "{text}");
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter_map(|line| line["position"].as_u64()).collect())
}

#[tokio::test]
async fn a_corrected_address_is_told_and_the_old_one_cannot_be_read_any_more() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let session = world.sign_in("before@example.org").await?;
    let change = json!({ "email": "after@example.org" });
    let asked = session.patch("/account", change.clone()).await?.expect(202)?;
    let code = world.smtp.code_to("after@example.org").await?;
    let confirm = json!({ "email": "after@example.org", "code": code, "challengeId": asked["challengeId"] });
    let changed = session.patch("/account", confirm).await?.expect(200)?;
    assert_eq!(changed["email"], "after@example.org");
    let notice = world.smtp.mail_to("before@example.org").await?;
    assert!(notice.contains("changed") && !notice.contains("after@example.org"));

    let archive = Unpacked::of(&session.post("/account/export", json!({})).await?.body)?;
    let text = String::from_utf8_lossy(&archive.0["events.jsonl"]).into_owned();
    assert!(text.contains("after@example.org") && !text.contains("before@example.org"));
    let opened = archive
        .lines("events.jsonl")?
        .into_iter()
        .find(|line| line["events"][0]["event"] == "account.opened");
    assert_eq!(opened.expect("the account began")["events"][0]["body"]["email"], Value::Null);
    world.sign_in("after@example.org").await?;
    let directory = world.stop().await?;
    for address in ["before@example.org", "after@example.org"] {
        assert_eq!(files_holding(directory.path(), address.as_bytes())?, Vec::<std::path::PathBuf>::new());
    }
    Ok(())
}
