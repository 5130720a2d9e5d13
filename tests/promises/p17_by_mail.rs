//! P17: what a person asks for by mail, an operator does, and the log says which operator and why.

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::export::Unpacked;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::World;
use serde_json::Value;

use crate::p15_deletion::{finished, nothing_is_left};

#[tokio::test]
async fn an_operator_exports_an_account_and_leaves_who_and_why() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let session = world.sign_in("p17@example.org").await?;
    let account = session.get("/account").await?.expect(200)?["id"].as_str().expect("an id").to_owned();
    let file = world.directory().join("export.zip").to_string_lossy().into_owned();
    let export_because = async |account: &str, to: &str, reason: &str| {
        let who = ["--operator", "somebodyAtTheDesk", "--reason", reason];
        let arguments = [&["account", "export", account, "--to", to], &who[..]].concat();
        ops(&world.data(), &arguments).await
    };
    let export = async |account: &str, to: &str| export_because(account, to, "request 4711").await;
    let (exit, said) = export(&account, &file).await?;
    assert_eq!(exit, 0, "{said}");
    let archive = Unpacked::of(&std::fs::read(&file)?)?;
    assert_eq!(archive.json("account.json")?["email"], "p17@example.org");
    let (exit, said) = export(&account, &file).await?;
    assert_eq!(exit, 2, "an archive that is there is not replaced: {said}");
    let nobody = "a".repeat(26);
    let (exit, said) = export(&nobody, &format!("{file}.2")).await?;
    assert!(exit == 2 && said.contains("there is no account"), "{said}");

    let (exit, said) = export("nobody@example.org", &format!("{file}.2")).await?;
    assert!(exit == 2 && said.contains("there is no account"), "{said}");
    for naming in ["p17@example.org asked", &format!("for {account}"), &account.to_uppercase()] {
        let (exit, said) = export_because(&account, &format!("{file}.2"), naming).await?;
        assert!(exit == 2 && said.contains("stay"), "what names the person may not stay on the log: {said}");
    }
    // What a request by mail brings is its sender's address.
    let by_address = format!("{file}.3");
    let (exit, said) = export("P17@example.org", &by_address).await?;
    assert_eq!(exit, 0, "{said}");
    let archive = Unpacked::of(&std::fs::read(&by_address)?)?;
    assert_eq!(archive.json("account.json")?["id"], account);
    assert!(!std::fs::exists(format!("{file}.2"))?, "what was refused leaves no file");

    let (exit, text) = ops(&world.data(), &["tail", "--json", "--from", "1", "--filter", "sys.ops"]).await?;
    assert_eq!(exit, 0, "{text}");
    assert_eq!(text.lines().count(), 2, "each export is written down, and what was refused is not");
    let acts: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let act = &acts[0]["events"][0]["body"];
    assert_eq!(
        (&act["operator"], &act["reason"]),
        (&Value::from("somebodyAtTheDesk"), &Value::from("request 4711"))
    );
    assert_eq!(act["action"], "export_account");
    assert!(!text.contains("p17@example.org") && !text.contains(&account), "it names nobody");
    world.close().await
}

#[tokio::test]
async fn an_operator_erases_an_account_and_the_log_says_who_and_why_and_not_whose() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let data = world.data();
    let session = world.sign_in("p17@example.org").await?;
    let account = session.get("/account").await?.expect(200)?;
    let account = account["id"].as_str().context("an account has an id")?.to_owned();
    let erase =
        ["account", "erase", "p17@example.org", "--operator", "night shift", "--reason", "request 17"];
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
