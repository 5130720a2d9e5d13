//! P14: what is recorded of use is kept at most 90 days; a signed tombstone stands where it was.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use omnirun_events::log::{Sequence, Stored, read_to_end};
use omnirun_events::{Filter, Log, SandboxId, Slot, Subject, SubjectKind, Timestamp};
use omnirun_test_support::eventually;
use omnirun_test_support::up::{Up, ops};

use crate::long_ago::{DAY, LongAgo};

/// Ended so many days ago, from the oldest on.
const AGES: [u64; 3] = [125, 91, 89];

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    Timestamp(since.as_millis() as u64)
}

fn ago(days: u64) -> Timestamp {
    Timestamp(now().0 - days * DAY)
}

/// Whether some file below `directory` holds these bytes.
fn on_disk(directory: &Path, bytes: &[u8]) -> Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let holds = match path.is_dir() {
            true => on_disk(&path, bytes)?,
            false => std::fs::read(&path)?.windows(bytes.len()).any(|window| window == bytes),
        };
        if holds {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many records the running program shows of a sandbox: its life and its meters.
async fn shown(data: &Path, sandbox: SandboxId) -> Result<usize> {
    let mut count = 0;
    for log in [Log::Events].into_iter().chain(Slot::all().map(Log::Usage)) {
        let (exit, text) = ops(
            data,
            &["tail", "--from", "1", "--log", &log.to_string(), "--filter", &format!("*.*.*.{sandbox}")],
        )
        .await?;
        assert_eq!(exit, 0, "{text}");
        count += text.lines().filter(|line| line.contains(&sandbox.to_string())).count();
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_91_days_old_is_gone_with_its_files_and_its_free_text_and_at_89_days_it_is_there()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let mut past = LongAgo::open(&data, ago(130)).await?;
    let account = past.account("p14@example.org").await?;
    let mut sandboxes = Vec::new();
    for age in AGES {
        past.set_time(ago(age));
        sandboxes.push(past.sandbox(account, &format!("free text of {age} days ago")).await?);
    }
    // The oldest has a usage log to itself.
    let usage = |age, sandbox| Subject::from(SubjectKind::Usage(Slot::of(ago(age)), account, sandbox));
    let (oldest, youngest) = (usage(AGES[0], sandboxes[0]), usage(AGES[2], sandboxes[2]));
    let admission = Subject::from(SubjectKind::Admission(account));
    let backup: Vec<Stored> =
        read_to_end(&*past.store, Log::Events, Filter::exactly(&admission), Sequence::NONE).await?;
    let texts = past.open_texts(account, &backup).await?;
    assert!(texts.len() == 3 && texts.iter().all(Option::is_some), "{texts:?}");
    past.close().await?;
    assert!(on_disk(&data.join("log"), oldest.as_str().as_bytes())?, "the search finds what is there");

    let up = Up::start(&data, &["--pool", "0"]).await?;
    let gone = eventually(Duration::from_secs(60), async || {
        let left = shown(&data, sandboxes[0]).await? + shown(&data, sandboxes[1]).await?;
        Ok((left == 0).then_some(()))
    });
    gone.await.context("it is still there")?;
    assert_eq!(shown(&data, sandboxes[2]).await?, 4, "claim, start, end, and a reading");
    let (_, tombstones) = ops(&data, &["tail", "--from", "1", "--filter", "sys.erasure"]).await?;
    assert!(tombstones.contains("records.erased/1"), "{tombstones}");
    for view in ["directory", "usage", "billing"] {
        let (exit, text) = ops(&data, &["replay", view]).await?;
        assert_eq!(exit, 0, "{text}");
    }
    // An operator sees that nothing is left to go, and has nothing removed that no plan showed.
    let (exit, plan) = ops(&data, &["retention", "plan"]).await?;
    assert!(exit == 0 && plan.contains("sandboxes of which nothing is left: 0"), "{plan}");
    let hash = plan.lines().find_map(|line| line.strip_prefix("plan: ")).context("a hash")?.to_owned();
    for (hash, expected) in [(hash, 0), ("0".repeat(64), 2)] {
        let who = ["--operator", "night shift", "--reason", "a look at it"];
        let (exit, text) = ops(&data, &[&["retention", "apply", &hash], &who[..]].concat()).await?;
        assert_eq!(exit, expected, "{text}");
    }
    let (_, acted) = ops(&data, &["tail", "--from", "1", "--filter", "sys.ops"]).await?;
    assert_eq!(acted.matches("ops.acted").count(), 2, "{acted}");
    up.stop().await?;
    let root = std::fs::read_to_string(data.join("root.pub"))?;
    let (exit, text) = ops(&data, &["verify", "--root-key", root.trim()]).await?;
    assert_eq!(exit, 0, "{text}");

    assert!(!on_disk(&data.join("log"), oldest.as_str().as_bytes())?, "its files are gone");
    assert!(on_disk(&data.join("log"), youngest.as_str().as_bytes())?, "this one's are there");
    // Whoever kept a copy of the log has the sealed texts, and the keys that there still are.
    let mut present = LongAgo::open(&data, now()).await?;
    let texts = present.open_texts(account, &backup).await?;
    assert_eq!(texts[2].as_deref(), Some("free text of 89 days ago"));
    assert_eq!(texts[0], None, "nobody reads what is sealed in a copy");
    assert_eq!(texts[1], None, "on whichever day of a month it was written");
    present.close().await
}
