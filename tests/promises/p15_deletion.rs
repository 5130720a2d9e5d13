//! P15: an account can be deleted with all its data: nothing of it can be decrypted, no log holds its subjects, and the audit still verifies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use omnirun_commands::MasterKey;
use omnirun_events::log::{Read as _, Stored, Tail, read_to_end};
use omnirun_events::subject::{Log, SubjectKind};
use omnirun_events::{AccountId, Event, Filter, Sequence, codec};
use omnirun_ops::SocketRead;
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::Client;
use omnirun_test_support::report;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::World;
use serde_json::json;

use crate::opened::Opened;

/// The master key of a data directory.
pub(crate) const MASTER_KEY: &str = "keys/master.key";

/// How long an erasure may take, a restart included.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks for the erasure of the account that this session is of; answers the receipt's id.
pub(crate) async fn delete_account(session: &Client, email: &str) -> Result<String> {
    let body = Bytes::from(json!({ "confirm": email }).to_string());
    let headers = [("content-type", "application/json")];
    let answer = session.call(Method::DELETE, "/account", body, &headers).await?.expect(202)?;
    Ok(answer["receipt"].as_str().context("no receipt in the answer")?.to_owned())
}

pub(crate) async fn everything(data: &Path) -> Result<Vec<Stored>> {
    let reader = SocketRead::connect(data).await.context("the operator's socket does not answer")?;
    let mut all = Vec::new();
    for log in Log::kept() {
        all.extend(read_to_end(&reader, log, Filter::all(), Sequence::NONE).await?);
    }
    Ok(all)
}

/// Waits until as many erasures are finished.
pub(crate) async fn finished(data: &Path, count: usize) -> Result<()> {
    let erasure = Filter::exactly(&SubjectKind::Erasure.into());
    wait_for(PATIENCE, async || {
        let Some(reader) = SocketRead::connect(data).await else { return Ok(None) };
        let all = read_to_end(&reader, Log::Events, erasure.clone(), Sequence::NONE).await?;
        let events =
            all.iter().filter_map(|stored| codec::decode(&stored.record).ok()).flat_map(|r| r.events);
        Ok((events.filter(|event| matches!(event, Event::ErasureFinished(_))).count() >= count).then_some(()))
    })
    .await
    .context("the erasure does not finish")
}

/// No log holds a subject of the account or a record that names it; the audit verifies and the read models are what the log says.
pub(crate) async fn nothing_is_left(data: &Path, account: &str) -> Result<()> {
    for stored in everything(data).await? {
        ensure!(!stored.subject.as_str().contains(account), "{} is left", stored.subject);
        ensure!(!names(&stored, account)?, "a record on {} names the account", stored.subject);
    }
    let root = data.join("root.pub");
    let (exit, text) = ops(data, &["verify", "--root-key", &root.to_string_lossy()]).await?;
    ensure!(exit == 0, "verify exits with {exit}: {text}");
    for view in ["directory", "usage"] {
        let (exit, text) = ops(data, &["replay", view]).await?;
        ensure!(exit == 0 && text.contains("same"), "replay {view} exits with {exit}: {text}");
    }
    Ok(())
}

/// Whether a record names the account: as text, as in subjects, or by the bytes of its id, as in headers and payloads.
fn names(stored: &Stored, account: &str) -> Result<bool> {
    let id: AccountId = account.parse()?;
    let forms = [account.as_bytes(), id.as_bytes().as_slice()];
    let holds = |form: &[u8]| stored.record.windows(form.len()).any(|window| window == form);
    Ok(forms.into_iter().any(holds))
}

/// Waits until this many records of EVENTS have come after a position.
pub(crate) async fn records_after(data: &Path, after: Sequence, count: usize) -> Result<()> {
    let reader = SocketRead::connect(data).await.context("the operator's socket does not answer")?;
    let mut cursor = reader.read(Log::Events, Filter::all(), after).await?;
    let mut seen = 0;
    while seen < count {
        seen += cursor.next(1, Tail::Wait).await?.records.len();
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_account_leaves_nothing_whenever_the_process_is_killed() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let data = world.data();
    let other = world.sign_in("stays@example.org").await?;
    let other_id = id_of(&other).await?;
    let mut copies = Vec::new();
    // Closing twice (two subjects), quiet, caught up, receipt, closed, tombstone, finished; and once undisturbed.
    for killed_after in (1..=8).map(Some).chain([None]) {
        let round = killed_after.unwrap_or(9);
        let email = format!("p15-{round}@example.org");
        let session = world.sign_in(&email).await?;
        let account = id_of(&session).await?;
        let made = session.post("/tokens", json!({ "name": "a name of theirs" })).await?.expect(201)?;
        let token = session.with_token(made["token"].as_str().context("shown once")?);
        let reader = SocketRead::connect(&data).await.context("the operator's socket does not answer")?;
        let before = reader.head(Log::Events).await?;
        let copy = everything(&data).await?;
        ensure!(
            copy.iter().any(|stored| stored.subject.as_str() == format!("key.{account}.account")),
            "the account has a key to destroy"
        );
        let mut named = copy.iter().map(|stored| names(stored, &account));
        ensure!(named.any(|named| named.is_ok_and(|named| named)), "the search finds what is there");
        let opened = Opened::of(&copy, &MasterKey::load(&data.join(MASTER_KEY))?);
        ensure!(opened.all("email").contains(email.as_str()), "a copy can be read before the erasure");
        copies.push((email.clone(), copy));
        delete_account(&session, &email).await?;
        ensure!(token.get("/sandboxes").await?.status == 401, "its tokens are refused at once");
        ensure!(session.get("/account").await?.status == 401, "its sessions are refused at once");
        if let Some(count) = killed_after {
            tokio::time::timeout(PATIENCE, records_after(&data, before, count)).await??;
            world = world.restart().await?;
        }
        finished(&data, round).await?;
        nothing_is_left(&data, &account).await?;
        if killed_after.is_none() {
            let mail = world.smtp.mail_to(&email).await?;
            ensure!(mail.contains("outside_the_proof"), "{mail}");
            let (saved, root) = (world.directory().join("receipt.eml"), data.join("root.pub"));
            std::fs::write(&saved, &mail)?;
            let arguments = ["--root-key", &root.to_string_lossy(), "--receipt", &saved.to_string_lossy()];
            let (exit, text) = ops(&data, &[&["verify"][..], &arguments].concat()).await?;
            ensure!(exit == 0 && text.contains("good: finished at"), "the receipt: {exit}: {text}");
        }
        report(&format!("p15: killed after {killed_after:?}"));
    }
    // What the night after an erasure does by itself.
    let (exit, text) = ops(&data, &["keys", "rotate"]).await?;
    ensure!(exit == 0, "the rotation exits with {exit}: {text}");
    let left = MasterKey::load(&data.join(MASTER_KEY))?;
    for (email, copy) in copies {
        let opened = Opened::of(&copy, &left);
        ensure!(opened.sealed.is_empty(), "the key that is left opens a copy from before {email} went");
    }
    let other = other.at(world.up.address.clone());
    ensure!(id_of(&other).await? == other_id, "another account stays");
    let anew = world.sign_in("p15-9@example.org").await?;
    ensure!(anew.get("/account").await?.status == 200, "the address can be used anew");
    world.close().await
}

pub(crate) async fn id_of(session: &Client) -> Result<String> {
    let account = session.get("/account").await?.expect(200)?;
    Ok(account["id"].as_str().context("an account has an id")?.to_owned())
}
