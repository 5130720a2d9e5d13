//! A whole archive: what is in it, and that nothing in it can be changed unseen.

mod changed;
mod world;

use std::time::Duration;

use omnirun_events::AccountId;
use omnirun_export::ExportError;
use omnirun_export::check::check;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::world::*;

#[tokio::test]
async fn an_archive_is_readable_and_good() {
    let (_directory, path) = archive().await;
    let files = files(&path);
    assert_eq!(json(&files, "account.json")["email"], "someone@example.org");
    assert_eq!(json(&files, "tokens.json")[0]["name"], "build server");
    let (_, events) = files.iter().find(|(name, _)| name == "events.jsonl").expect("it is there");
    let lines: Vec<Value> = String::from_utf8_lossy(events)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["events"][0]["body"]["email"], "someone@example.org");
    assert_eq!(lines[1]["events"][0]["body"]["name"], "build server");
    let checked = check(&path, &root().public()).expect("it is good");
    assert_eq!((checked.account, checked.believed, checked.ignored), (ACCOUNT.to_string(), 3, 0));
    assert_eq!(checked.files + 2, files.len());
}

#[tokio::test]
async fn an_account_that_does_not_exist_has_no_export() {
    let error = export(AccountId::from_bytes([8; 16])).await.expect_err("nobody");
    assert!(matches!(error, ExportError::NoAccount));
}

#[tokio::test]
async fn an_export_whose_pieces_nobody_takes_is_over_in_time_and_does_not_look_whole() {
    let log = log().await;
    name_many(&log).await;
    let (held, released) = oneshot::channel::<()>();
    let ended = async move {
        let _held = held;
        std::future::pending().await
    };
    let exporter = exporter(log, ACCOUNT, Duration::from_millis(20));
    let mut pieces = exporter.begin(ACCOUNT, ended);
    let released = tokio::time::timeout(Duration::from_secs(20), released).await;
    released.expect("it is over in time").expect_err("dropped, not sent");
    let mut last = None;
    while let Some(piece) = pieces.recv().await {
        last = Some(piece);
    }
    assert!(matches!(last, Some(Err(ExportError::Stalled))));
}
