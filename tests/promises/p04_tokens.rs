//! P4: tokens are stored as verifiers, shown in full once, and refused once deleted.

use anyhow::Result;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, files_holding};

#[tokio::test]
async fn a_token_is_shown_once_and_found_nowhere_on_disk() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (user, made) = world.user("p04@example.org").await?;
    let token = made["token"].as_str().expect("it is shown once").to_owned();
    assert_eq!(token.len(), 50);
    assert!(token.starts_with("omr_"));
    let listed = user.get("/tokens").await?;
    // A token may list only with the account scope; whichever way the answer goes, it does not hold the token.
    assert!(!listed.text().contains(&token));

    let (exit, events) = ops(&world.data(), &["tail", "--json", "--from", "1"]).await?;
    assert_eq!(exit, 0, "{events}");
    let hint = made["hint"].as_str().expect("a hint is shown");
    assert!(events.contains(hint), "the search finds what is stored in the clear");
    let secret = &token[4..44];
    assert!(!events.contains(secret));
    let directory = world.stop().await?;
    assert_eq!(files_holding(directory.path(), secret.as_bytes())?, Vec::<std::path::PathBuf>::new());
    let planted = directory.path().join("data/planted");
    std::fs::write(&planted, &token)?;
    assert_eq!(files_holding(directory.path(), secret.as_bytes())?, [planted]);
    Ok(())
}

#[tokio::test]
async fn a_deleted_token_is_refused_at_once() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let session = world.sign_in("p04@example.org").await?;
    let made = session.post("/tokens", serde_json::json!({ "name": "short-lived" })).await?.expect(201)?;
    let user = session.with_token(made["token"].as_str().expect("it is shown once"));
    assert_eq!(user.get("/sandboxes").await?.status, 200);
    let id = made["id"].as_str().expect("it has an id");
    assert_eq!(session.delete(&format!("/tokens/{id}")).await?.status, 204);
    assert_eq!(user.get("/sandboxes").await?.status, 401);
    world.close().await
}
