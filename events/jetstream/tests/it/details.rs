//! What only this store has to get right: batches of strangers, long reads, dropped futures, answers of a queue, overwriting.

use std::time::Duration;

use futures_util::future::join_all;
use omnirun_events::log::{AppendError, ConsumerName, Tail, read_to_end};
use omnirun_events::*;
use omnirun_jetstream::JetStreamLog;
use omnirun_test_support::NatsServer;
use tokio::time::{Instant, timeout};

use crate::common;

const LIMIT: Duration = Duration::from_secs(30);
const GROUP: ConsumerName = ConsumerName("details");

fn subject(n: u16) -> Subject {
    let mut id = [1; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes(id)).into()
}

fn entry(n: u16, expected: Sequence, label: &str) -> Entry {
    let commit = CommitId::derive(label.as_bytes(), "details");
    Entry { subject: subject(n), expected, commit, record: label.to_owned().into() }
}

async fn start() -> (NatsServer, JetStreamLog) {
    let server = common::server().await;
    let log = connect(&server).await;
    (server, log)
}

async fn connect(server: &NatsServer) -> JetStreamLog {
    JetStreamLog::connect(&common::options(&server.url()))
        .await
        .expect("the server is up and has the streams")
}

/// Appends to `count` subjects at once, one record each.
async fn fill(log: &JetStreamLog, subjects: std::ops::Range<u16>) -> Vec<Sequence> {
    let writers =
        subjects.map(|n| log.append_all(Batch::one(entry(n, Sequence::NONE, &format!("record {n}")))));
    join_all(writers).await.into_iter().map(|answer| answer.expect("nobody else writes")[0]).collect()
}

async fn everything(log: &JetStreamLog) -> Vec<Sequence> {
    let all = read_to_end(log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    all.into_iter().map(|stored| stored.sequence).collect()
}

/// The key of a month of an account that is being erased.
fn month_key(n: u32) -> Subject {
    SubjectKind::MonthKey(AccountId::from_bytes([1; 16]), n).into()
}

/// A rotation of the master key wraps a key anew while it is being destroyed: nothing of it may be left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_while_keys_are_overwritten_is_overwritten_as_well() {
    let (_server, log) = start().await;
    let keys =
        || async { read_to_end(&log, Log::Keys, Filter::all(), Sequence::NONE).await.expect("up").len() };
    let wrapped = |n: u32, expected, label: &str| {
        let commit = CommitId::derive(format!("{label} {n}").as_bytes(), "details");
        Batch::one(Entry { subject: month_key(n), expected, commit, record: label.to_owned().into() })
    };
    // Enough that overwriting them takes a while.
    let writers = (0..200).map(|n| log.append_all(wrapped(202_001 + n, Sequence::NONE, "a key")));
    let written = join_all(writers).await.into_iter().map(|answer| answer.expect("nobody else writes")[0]);
    let written: Vec<Sequence> = written.collect();
    let rotation = async {
        while keys().await == 200 {}
        log.append_all(wrapped(202_200, written[199], "the key anew")).await.expect("it is there yet")
    };
    let erasing = log.purge_all(Log::Keys, Filter::keys_of(AccountId::from_bytes([1; 16])));
    let (appended, overwritten) = tokio::join!(timeout(LIMIT, rotation), erasing);
    appended.expect("in time");
    assert_eq!(overwritten.expect("up"), 201);
    assert_eq!(keys().await, 0);
}

/// A commit that another process has overtaken spoils the batch that it travels in, and nobody's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_share_a_batch_with_a_stale_one_are_all_answered_rightly() {
    let (server, log) = start().await;
    let other = connect(&server).await;
    let taken = fill(&other, 0..5).await;
    let answers =
        join_all((0..60).map(|n| log.append_all(Batch::one(entry(n, Sequence::NONE, &format!("mine {n}"))))))
            .await;
    for (n, answer) in answers.iter().enumerate() {
        match taken.get(n) {
            Some(position) => {
                assert!(
                    matches!(answer, Err(AppendError::Conflict { actual, .. }) if actual == position),
                    "{answer:?}"
                );
            }
            None => assert!(answer.is_ok(), "{n}: {answer:?}"),
        }
    }
    assert_eq!(everything(&log).await.len(), 60);
}

/// Two processes that write to the same subjects and retry on conflict: each subject is a chain without gaps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_race_on_the_same_subjects_build_one_chain_each() {
    let (server, one) = start().await;
    let two = connect(&server).await;
    let writers = [&one, &two].into_iter().enumerate().flat_map(|(w, log)| (0..10).map(move |n| (w, log, n)));
    let chains = join_all(writers.map(|(w, log, n)| async move {
        let (mut last, mut links) = (Sequence::NONE, Vec::new());
        while links.len() < 10 {
            let label = format!("{w} {n} {}", links.len());
            match log.append_all(Batch::one(entry(n, last, &label))).await {
                Ok(positions) => {
                    links.push((last, positions[0]));
                    last = positions[0];
                }
                Err(AppendError::Conflict { actual, .. }) => {
                    assert_ne!(actual, last);
                    last = actual;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        (n, links)
    }));
    let chains = timeout(LIMIT, chains).await.expect("somebody always wins");
    for subject in 0..10 {
        let mut links: Vec<_> =
            chains.iter().filter(|(n, _)| *n == subject).flat_map(|(_, links)| links).collect();
        links.sort();
        assert_eq!(links.len(), 20);
        assert!(links.windows(2).all(|pair| pair[0].1 == pair[1].0), "{links:?}");
    }
}

#[tokio::test]
async fn a_record_beyond_the_servers_limit_is_refused_with_what_to_do() {
    let (_server, log) = start().await;
    let mut large = entry(1, Sequence::NONE, "large");
    large.record = vec![0; 2 << 20].into();
    let answer = log.append_all(Batch::one(large)).await;
    assert!(
        matches!(&answer, Err(AppendError::Full { remedy, .. }) if remedy.contains("max_payload")),
        "{answer:?}"
    );
    fill(&log, 2..3).await;
}

/// Long enough for a feed, with holes, and with a filter that takes every fiftieth record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_reads_are_whole_whatever_the_filter_and_the_holes() {
    let (_server, log) = start().await;
    let positions = fill(&log, 0..1_000).await;
    for n in (0..1_000).step_by(3) {
        log.purge_all(Log::Events, Filter::exactly(&subject(n))).await.expect("up");
    }
    let mut kept: Vec<_> = (0..1_000).filter(|n| n % 3 != 0).map(|n| positions[n]).collect();
    kept.sort();
    assert_eq!(everything(&log).await, kept);
    let mut chain = vec![positions[500]];
    for i in 0..40 {
        let next = Batch::one(entry(500, chain[i], &format!("chain {i}")));
        chain.push(log.append_all(next).await.expect("nobody else writes")[0]);
        fill(&log, 1_000 + i as u16..1_001 + i as u16).await;
    }
    let filter = Filter::exactly(&subject(500));
    let found = read_to_end(&log, Log::Events, filter, Sequence::NONE).await.expect("up");
    assert_eq!(found.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), chain);
}

/// At the end of the log a filtered reader learns how far that is, also when the last records are purged or another's.
#[tokio::test]
async fn the_end_is_found_when_nothing_matches_or_the_last_records_are_gone() {
    let (_server, log) = start().await;
    let positions = fill(&log, 0..30).await;
    let head = *positions.iter().max().expect("thirty");
    for filter in
        [Filter::from_text("sys.>"), Filter::from_text("no such.subject"), Filter::from_text("key.>")]
    {
        let mut cursor = log.read(Log::Events, filter, Sequence::NONE).await.expect("lazily opened");
        let page =
            timeout(LIMIT, cursor.next(10, Tail::Return)).await.expect("it does not wait").expect("up");
        assert_eq!((page.records.len(), page.through), (0, head));
    }
    let mut cursor = log.read(Log::Events, Filter::all(), Sequence(20)).await.expect("lazily opened");
    log.purge_all(Log::Events, Filter::all()).await.expect("up");
    let page = timeout(LIMIT, cursor.next(10, Tail::Return)).await.expect("it does not wait").expect("up");
    assert_eq!((page.records.len(), page.through), (0, head));
}

/// A reader that gives up waiting again and again, in the middle of everything, misses nothing and sees nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_waiting_reader_again_and_again_loses_nothing() {
    const RECORDS: u16 = 400;
    let (_server, log) = start().await;
    let mut cursor = log.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("lazily opened");
    let writer = async {
        let mut written = Vec::new();
        for n in 0..RECORDS {
            written.extend(fill(&log, n..n + 1).await);
        }
        written
    };
    let reader = async {
        let mut seen = Vec::new();
        let mut tails = [Tail::Wait, Tail::Return].into_iter().cycle();
        while seen.len() < usize::from(RECORDS) {
            let patience = Duration::from_micros(150 * (1 + seen.len() as u64 % 20));
            let tail = tails.next().expect("a cycle has no end");
            if let Ok(page) = timeout(patience, cursor.next(7, tail)).await {
                seen.extend(page.expect("up").records.into_iter().map(|stored| stored.sequence));
            }
        }
        seen
    };
    let (written, seen) =
        timeout(LIMIT, async { tokio::join!(writer, reader) }).await.expect("the reader gets there");
    assert_eq!(seen, written);
}

/// The server goes on sending while the follower's connection is down: what was sent then is fetched, not skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_connection_breaks_again_and_again_misses_nothing() {
    const RECORDS: usize = 600;
    let (server, log) = start().await;
    let follower = connect(&server).await;
    let mut cursor = follower.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("lazily opened");
    let writer = async {
        let mut written = Vec::new();
        for n in 0..RECORDS as u16 {
            written.extend(fill(&log, n..n + 1).await);
        }
        written
    };
    let reader = async {
        let (mut seen, mut cuts) = (Vec::new(), 0);
        while seen.len() < RECORDS {
            let page = cursor.next(5, Tail::Wait).await.expect("a lost connection is no error");
            seen.extend(page.records.into_iter().map(|stored| stored.sequence));
            if seen.len() > cuts * 100 {
                cuts += 1;
                follower.client().force_reconnect().await.expect("the client runs");
            }
        }
        seen
    };
    let (written, seen) =
        timeout(LIMIT, async { tokio::join!(writer, reader) }).await.expect("the reader gets there");
    assert_eq!(seen, written);
}

/// Later, to any member; and not while somebody says that it is still at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_delivers_again_when_it_was_asked_to_and_not_while_work_goes_on() {
    let (_server, log) = start().await;
    fill(&log, 0..1).await;
    let mut member = log.consume(Log::Events, Filter::all(), GROUP).await.expect("up");
    let first = member.next().await.expect("up");
    let asked = Instant::now();
    first.receipt.retry_after(Millis(300)).await.expect("up");
    let second = timeout(LIMIT, member.next()).await.expect("it comes again").expect("up");
    assert!(asked.elapsed() >= Duration::from_millis(300), "not before it was asked to");
    assert_eq!((second.stored.sequence, second.attempt), (first.stored.sequence, 2));
    // Three times the acknowledgement time of these tests, a third of it at a time.
    let mut other = log.consume(Log::Events, Filter::all(), GROUP).await.expect("up");
    let meanwhile = Instant::now();
    while meanwhile.elapsed() < Duration::from_secs(3) {
        second.receipt.in_progress().await.expect("up");
        assert!(timeout(Duration::from_millis(330), other.next()).await.is_err(), "somebody is at it");
    }
    drop(second);
    let third = timeout(LIMIT, other.next()).await.expect("nobody is at it any more").expect("up");
    assert_eq!(third.attempt, 3);
    third.receipt.acknowledge().await.expect("up");
}

/// A crash of the server brings back what nobody acknowledged; a member that waits comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_member_of_a_queue_goes_on_after_a_crash_of_the_server() {
    let (mut server, log) = start().await;
    fill(&log, 0..1).await;
    let mut member = log.consume(Log::Events, Filter::all(), GROUP).await.expect("up");
    let held = member.next().await.expect("up");
    assert!(timeout(Duration::from_millis(100), member.next()).await.is_err(), "there is one record only");
    tokio::task::block_in_place(|| server.restart_after_kill());
    let again = timeout(LIMIT, member.next()).await.expect("the server is back").expect("up");
    assert_eq!(again.stored.sequence, held.stored.sequence);
    again.receipt.acknowledge().await.expect("up");
}

/// A wrapped key that was erased is nowhere in the server's files, and the others still are.
#[tokio::test]
async fn an_erased_key_is_overwritten_in_the_servers_files() {
    let (server, log) = start().await;
    let key = |n: u8| Subject::from(SubjectKind::AccountKey(AccountId::from_bytes([n; 16])));
    let mut expected = Sequence::NONE;
    for (n, label) in [(1, "CANARY-ERASED-A"), (1, "CANARY-ERASED-B"), (2, "CANARY-KEPT")] {
        let commit = CommitId::derive(label.as_bytes(), "key");
        let expected_here = if n == 1 { expected } else { Sequence::NONE };
        let entry = Entry { subject: key(n), expected: expected_here, commit, record: label.into() };
        expected = log.append_all(Batch::one(entry)).await.expect("nobody else writes")[0];
    }
    assert!(holds(&server.store(), b"CANARY-ERASED-A") && holds(&server.store(), b"CANARY-ERASED-B"));
    assert_eq!(log.purge_through(&key(1), Sequence(1)).await.expect("up"), 1);
    assert!(!holds(&server.store(), b"CANARY-ERASED-A") && holds(&server.store(), b"CANARY-ERASED-B"));
    assert_eq!(log.purge_all(Log::Keys, Filter::exactly(&key(1))).await.expect("up"), 1);
    assert!(!holds(&server.store(), b"CANARY-ERASED-B"));
    assert!(holds(&server.store(), b"CANARY-KEPT"));
    assert_eq!(log.last(&key(1)).await.expect("up"), None);
    assert_eq!(log.purge_all(Log::Keys, Filter::exactly(&key(1))).await.expect("up"), 0);
}

/// Whether any file below `directory` has these bytes.
fn holds(directory: &std::path::Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).expect("the store is a directory");
    entries.map(|entry| entry.expect("readable").path()).any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        // A file that the server removes meanwhile has nothing.
        std::fs::read(&path).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes)
    })
}
