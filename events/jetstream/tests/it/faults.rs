//! What the log keeps when its server freezes, is killed, or is not the one that was wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use omnirun_events::log::{AppendError, Tail, read_to_end};
use omnirun_events::*;
use omnirun_jetstream::JetStreamLog;
use tokio::time::timeout;

/// No wait of these tests is longer.
const LIMIT: Duration = Duration::from_secs(30);

fn subject(n: u8) -> Subject {
    SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
}

fn entry(n: u8, expected: Sequence, label: &str) -> Entry {
    let commit = CommitId::derive(label.as_bytes(), "faults");
    Entry { subject: subject(n), expected, commit, record: label.to_owned().into() }
}

async fn connect(url: &str) -> JetStreamLog {
    let mut options = crate::common::options(url);
    options.answer_within = Millis(500);
    JetStreamLog::connect(&options).await.expect("the server is up and has the streams")
}

async fn everything(log: &JetStreamLog) -> Vec<Stored> {
    read_to_end(log, Log::Events, Filter::all(), Sequence::NONE).await.expect("the server is up")
}

fn texts(records: &[Stored]) -> Vec<String> {
    records.iter().map(|stored| String::from_utf8_lossy(&stored.record).into_owned()).collect()
}

/// Single appends and batches that were sent to a frozen server, time out there, and are settled once it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_timed_out_is_settled_and_stored_once() {
    let server = crate::common::server().await;
    let log = connect(&server.url()).await;
    server.pause();
    let singles =
        join_all((0..8).map(|n| log.append_all(Batch::one(entry(n, Sequence::NONE, &format!("one {n}"))))));
    let pair = Batch::new(vec![entry(20, Sequence::NONE, "pair a"), entry(21, Sequence::NONE, "pair b")]);
    let pair = log.append_all(pair.expect("two subjects of one log"));
    let both = async { tokio::join!(singles, pair) };
    tokio::pin!(both);
    // Longer than the patience for one answer: every first try is given up while the server is frozen.
    assert!(
        timeout(Duration::from_millis(1_200), &mut both).await.is_err(),
        "a frozen server answers nobody"
    );
    server.resume();
    let (singles, pair) = timeout(LIMIT, both).await.expect("the outcome is known soon after");
    let mut answered: Vec<_> =
        singles.into_iter().flat_map(|answer| answer.expect("nobody else wrote")).collect();
    answered.extend(pair.expect("nobody else wrote"));
    answered.sort();
    let stored: Vec<_> = everything(&log).await.into_iter().map(|stored| stored.sequence).collect();
    assert_eq!(stored, answered);
}

/// Patience ends before the server comes back: the writer is told that it is unknown, and the same batch later tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_stays_unknown_is_said_so_and_a_later_retry_tells() {
    let server = crate::common::server().await;
    let mut options = crate::common::options(&server.url());
    (options.answer_within, options.settle_within) = (Millis(200), Millis(500));
    let log = JetStreamLog::connect(&options).await.expect("up");
    server.pause();
    let batch = Batch::one(entry(1, Sequence::NONE, "once"));
    let answer = timeout(LIMIT, log.append_all(batch.clone())).await.expect("patience ends");
    assert!(matches!(answer, Err(AppendError::Unknown { log: Log::Events, .. })), "{answer:?}");
    server.resume();
    let first = log.append_all(batch.clone()).await.expect("the retry settles it");
    assert_eq!(log.append_all(batch).await.expect("and again"), first);
    assert_eq!(texts(&everything(&log).await), ["once"]);
}

/// Another writer may have been first while the outcome was unknown: that is a conflict, not a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_found_even_if_it_came_with_a_time_out() {
    let server = crate::common::server().await;
    let (log, other) = (connect(&server.url()).await, connect(&server.url()).await);
    let first = other.append_all(Batch::one(entry(1, Sequence::NONE, "other"))).await.expect("first");
    server.pause();
    let mine = log.append_all(Batch::one(entry(1, Sequence::NONE, "mine")));
    tokio::pin!(mine);
    assert!(timeout(Duration::from_millis(700), &mut mine).await.is_err(), "a frozen server answers nobody");
    server.resume();
    let answer = timeout(LIMIT, mine).await.expect("the outcome is known soon after");
    assert!(
        matches!(&answer, Err(AppendError::Conflict { actual, .. }) if *actual == first[0]),
        "{answer:?}"
    );
    assert_eq!(texts(&everything(&other).await), ["other"]);
}

/// Many writers, a server that is killed twice under them, and a follower that sees every record once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_loses_nothing_acknowledged_and_doubles_nothing() {
    const WRITERS: u8 = 24;
    let mut server = crate::common::server().await;
    let log = connect(&server.url()).await;
    let stop = AtomicBool::new(false);
    let mut cursor = log.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    let writers = join_all((0..WRITERS).map(|n| write_until(&log, n, &stop)));
    let follower = async {
        let mut seen: Vec<Stored> = Vec::new();
        for kills in 0..3 {
            while seen.len() < (kills + 1) * 2_000 {
                let page = timeout(LIMIT, cursor.next(500, Tail::Wait)).await.expect("appends go on");
                seen.extend(page.expect("a lost connection is no error").records);
            }
            if kills < 2 {
                tokio::task::block_in_place(|| server.restart_after_kill());
            }
        }
        stop.store(true, Ordering::SeqCst);
        seen
    };
    let (acknowledged, mut seen) = tokio::join!(writers, follower);
    while let page = cursor.next(500, Tail::Return).await.expect("up")
        && !page.records.is_empty()
    {
        seen.extend(page.records);
    }
    let stored = everything(&log).await;
    assert_eq!(seen, stored, "the follower saw the log, gapless and in order");
    assert!(seen.is_sorted_by(|a, b| a.sequence < b.sequence));
    let mut labels: HashMap<String, Vec<Sequence>> = HashMap::new();
    for (record, text) in stored.iter().zip(texts(&stored)) {
        labels.entry(text).or_default().push(record.sequence);
    }
    for (label, position) in acknowledged.into_iter().flatten() {
        assert_eq!(labels.get(&label).map(Vec::as_slice), Some([position].as_slice()), "{label}");
    }
    assert!(labels.values().all(|positions| positions.len() == 1), "nothing is stored twice");
}

/// One writer on its own subject, who gives up on nothing; what it was told.
async fn write_until(log: &JetStreamLog, n: u8, stop: &AtomicBool) -> Vec<(String, Sequence)> {
    let (mut told, mut last) = (Vec::new(), Sequence::NONE);
    while !stop.load(Ordering::SeqCst) {
        let label = format!("{n}/{}", told.len());
        let batch = Batch::one(entry(n, last, &label));
        last = loop {
            match log.append_all(batch.clone()).await {
                Ok(positions) => break positions[0],
                Err(AppendError::Unknown { .. }) => {}
                Err(other) => panic!("nobody else writes to this subject: {other:?}"),
            }
        };
        told.push((label, last));
    }
    told
}

/// A follower that has seen nothing yet, at a position far into the log, is not sent the log's beginning after a reconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_at_the_end_is_handed_only_what_is_new_after_a_restart() {
    let mut server = crate::common::server().await;
    let log = connect(&server.url()).await;
    let mut last = Sequence::NONE;
    for i in 0..30 {
        last = log.append_all(Batch::one(entry(1, last, &format!("{i}")))).await.expect("up")[0];
    }
    let mut cursor = log.read(Log::Events, Filter::all(), last).await.expect("up");
    let waiting = timeout(Duration::from_millis(300), cursor.next(10, Tail::Wait)).await;
    assert!(waiting.is_err(), "there is nothing after the end");
    tokio::task::block_in_place(|| server.restart_after_kill());
    let batch = Batch::one(entry(1, last, "new"));
    let (page, appended) = tokio::join!(timeout(LIMIT, cursor.next(10, Tail::Wait)), log.append_all(batch));
    let page = page.expect("the follower comes back").expect("a lost connection is no error");
    assert_eq!(page.records.iter().map(|r| r.sequence).collect::<Vec<_>>(), appended.expect("up"));
}

/// The log in memory is gone with its server, and there again for the same connection and for a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_in_challenges_can_be_written_after_a_restart() {
    let mut server = crate::common::server().await;
    let log = connect(&server.url()).await;
    let subject = |n| Subject::from(SubjectKind::ChallengeUsed(ChallengeId::from_bytes([n; 16])));
    let used = |n| {
        let commit = CommitId::from_bytes([n; 16]);
        Batch::one(Entry { subject: subject(n), expected: Sequence::NONE, commit, record: "used".into() })
    };
    log.append_all(used(1)).await.expect("up");
    tokio::task::block_in_place(|| server.restart_after_kill());
    log.append_all(used(2)).await.expect("it is made anew");
    assert_eq!(log.last(&subject(1)).await.expect("up"), None);
    assert!(log.last(&subject(2)).await.expect("up").is_some());
    tokio::task::block_in_place(|| server.restart_after_kill());
    assert_eq!(log.head(Log::Auth).await.expect("up"), Sequence::NONE);
    tokio::task::block_in_place(|| server.restart_after_kill());
    assert_eq!(connect(&server.url()).await.last(&subject(2)).await.expect("up"), None);
}
