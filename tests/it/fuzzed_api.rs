//! The HTTP API under schemathesis: whatever it is sent, the gateway answers as its own document says, and nobody reaches what is another's.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::http::Client;
use omnirun_test_support::world::{World, run, sandbox};
use omnirun_test_support::{report, root};
use serde_json::json;
use tokio::process::Command;

/// What is checked of every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth";

/// Seconds of each run.
const SECONDS: &str = "40";

#[tokio::test]
async fn two_people_fuzz_the_api_and_only_one_of_them_reaches_the_first_ones_sandbox() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let owner = full_token(&world.sign_in("owner@example.org").await?).await?;
    let stranger = full_token(&world.sign_in("stranger@example.org").await?).await?;
    let id = sandbox(&owner, json!({ "template": "base", "timeout": 600 })).await?;
    const LOOK: &str = "cat /tmp/kept; ls -a /tmp";
    let kept = run(&owner, &id, &format!("echo kept > /tmp/kept; {LOOK}")).await?;
    let listed = owner.get(&format!("/sandboxes/{id}")).await?.expect(200)?;

    fuzz(&world, &stranger, &id, "a stranger at somebody's sandbox").await?;
    assert_eq!(owner.get(&format!("/sandboxes/{id}")).await?.expect(200)?, listed, "a stranger reached it");
    assert_eq!(run(&owner, &id, LOOK).await?, kept);

    fuzz(&world, &owner, &id, "its owner").await?;
    owner.get("/sandboxes").await?.expect(200)?;
    world.close().await
}

/// An API token that may do everything. Sessions may end while they are fuzzed; this one's id nobody guesses.
async fn full_token(session: &Client) -> Result<Client> {
    let scopes =
        ["sandbox:create", "sandbox:exec", "sandbox:read", "usage:read", "vault:inject", "account:*"];
    let made = session.post("/tokens", json!({ "name": "fuzz", "scopes": scopes })).await?.expect(201)?;
    Ok(session.with_token(made["token"].as_str().context("it is shown once")?))
}

/// Runs the fuzzer as somebody, with the id of a sandbox wherever an id is asked for.
async fn fuzz(world: &World, client: &Client, id: &str, who: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let settings = directory.path().join("schemathesis.toml");
    std::fs::write(&settings, format!("[parameters]\n\"path.id\" = \"{id}\"\n"))?;
    let header = format!("X-API-Key: {}", client.token().context("it has a token")?);
    let document = format!("http://{}/openapi.json", world.up.address);
    let Output { status, stdout, stderr } = Command::new(root().join("scripts/schemathesis"))
        .arg("--config-file")
        .arg(&settings)
        .args(["run", &document, "-H", &header, "--checks", CHECKS, "--phases", "coverage,fuzzing"])
        .args(["--max-time", SECONDS, "--continue-on-failure", "--request-timeout", "20", "--seed", "1"])
        // What ends whatever is fuzzed; the rights of it are tested elsewhere.
        .args(["--exclude-path", "/auth/logout", "--exclude-path", "/auth/sessions"])
        .args(["--exclude-method", "DELETE"])
        // Streams have no end.
        .args(["--exclude-path", "/sandboxes/{id}/commands/{pid}/stream"])
        .current_dir(directory.path())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{who}: {said}{}", String::from_utf8_lossy(&stderr));
    let cases =
        said.lines().find(|line| line.contains(" generated, ")).context("it says how many cases it made")?;
    report(&format!("schemathesis, {who}: {}", cases.trim()));
    let ran: u64 =
        cases.split_whitespace().next().and_then(|count| count.replace(',', "").parse().ok()).unwrap_or(0);
    ensure!(ran > 500, "it hardly tried: {cases}");
    Ok(())
}
