//! Opening, closing, purging on disk: what a second process, a missing head or a cut-off purge meets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append, AppendError, Erase, Queue, Read, ReadError, Tail, read_to_end};
use omnirun_events::{ChallengeId, Filter, Log, Mebibytes, Millis, Sequence, Subject, SubjectKind};
use omnirun_sled::{EmbeddedLog, OpenError, Options, RECORD_BYTES_MAX, SledLog};

#[path = "support/common.rs"]
mod common;
use common::*;

#[tokio::test]
async fn a_second_open_says_that_the_directory_is_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = open(dir.path());
    let second = SledLog::open(dir.path(), Options::default());
    let error = second.err().expect("the first one has it");
    assert!(matches!(&error, OpenError::InUse { dir: named } if named == dir.path()), "{error}");
    assert!(error.to_string().ends_with("is in use: is another omnirun running on it?"), "{error}");
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn records_without_their_head_file_are_not_served() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), 5).await;
    std::fs::remove_file(dir.path().join("head-EVENTS")).expect("it was there");
    let error = SledLog::open(dir.path(), Options::default()).err().expect("the head is missing");
    assert!(matches!(error, OpenError::Head { log: Log::Events, what: "missing", .. }), "{error}");
}

#[tokio::test]
async fn a_log_whose_directory_is_gone_is_damaged_from_position_1() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), 5).await;
    std::fs::remove_dir_all(dir.path().join("EVENTS")).expect("it was there");
    for _ in 0..2 {
        let error = SledLog::open(dir.path(), Options::default()).err().expect("five records are missing");
        assert!(matches!(&error, OpenError::Damaged { at, .. } if at.sequence == Sequence(1)), "{error}");
    }
}

#[tokio::test]
async fn an_older_copy_of_the_records_beside_a_newer_head_is_not_served() {
    let (dir, copy) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    fill(dir.path(), 5).await;
    copy_dir(&dir.path().join("EVENTS"), &copy.path().join("EVENTS"));
    fill(dir.path(), 3).await;
    std::fs::remove_dir_all(dir.path().join("EVENTS")).expect("it was there");
    copy_dir(&copy.path().join("EVENTS"), &dir.path().join("EVENTS"));
    let error = SledLog::open(dir.path(), Options::default()).err().expect("three records are missing");
    assert!(matches!(&error, OpenError::Damaged { at, .. } if at.sequence == Sequence(6)), "{error}");
    assert!(error.to_string().contains("damaged at position 6"), "{error}");
}

#[tokio::test]
async fn purging_everything_in_a_slot_removes_its_files_and_the_numbers_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path());
    let meter = usage_subject(1);
    let mut last = Sequence::NONE;
    for n in 0..400 {
        last = log.append_all(one(meter.clone(), last, n, vec![b'm'; 8000])).await.expect("up")[0];
    }
    let bytes = || std::fs::metadata(dir.path().join("USAGE_00/db")).expect("it is there").len();
    assert!(bytes() > 3_000_000, "{}", bytes());
    assert_eq!(log.purge_all(meter.log(), Filter::all()).await.expect("up"), 400);
    assert!(bytes() < 1_100_000, "{}", bytes());
    assert!(!dir.path().join("USAGE_00.next").exists());
    assert_eq!(log.head(meter.log()).await.expect("up"), last);
    let next = log.append_all(one(meter.clone(), Sequence::NONE, 500, vec![1])).await.expect("up")[0];
    assert_eq!(next, last.next());
    drop(log);
    let log = open(dir.path());
    let left = read_to_end(&log, meter.log(), Filter::all(), Sequence::NONE).await.expect("up");
    assert_eq!(left.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), [next]);
}

#[tokio::test]
async fn a_spare_directory_of_a_cut_off_purge_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), 5).await;
    copy_dir(&dir.path().join("EVENTS"), &dir.path().join("EVENTS.next"));
    let log = open(dir.path());
    assert!(!dir.path().join("EVENTS.next").exists());
    assert_eq!(log.head(Log::Events).await.expect("up"), Sequence(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_a_log_while_it_is_purged_whole_is_not_turned_away() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = Arc::new(open(dir.path()));
    let slot = usage_subject(1).log();
    let purged = Arc::new(AtomicBool::new(false));
    let reads = tokio::task::spawn_blocking({
        let (log, purged) = (log.clone(), purged.clone());
        move || {
            let runtime = tokio::runtime::Handle::current();
            let mut count = 0;
            while !purged.load(Ordering::SeqCst) {
                let read = read_to_end(&*log, slot, Filter::all(), Sequence::NONE);
                runtime.block_on(read).expect("the log is never closed");
                runtime.block_on(log.last(&usage_subject(1))).expect("the log is never closed");
                count += 1;
            }
            count
        }
    });
    let mut last = Sequence::NONE;
    for n in 0..20 {
        last =
            log.append_all(one(usage_subject(1), Sequence::NONE, n, vec![n as u8; 10])).await.expect("up")[0];
        assert_eq!(log.purge_all(slot, Filter::all()).await.expect("up"), 1);
    }
    purged.store(true, Ordering::SeqCst);
    assert!(reads.await.expect("no panic") > 20, "it hardly read");
    assert_eq!(last, Sequence(20));
}

#[tokio::test]
async fn scattered_purges_leave_a_log_that_opens_and_reads_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path());
    let mut lasts = [Sequence::NONE; 5];
    let mut kept = Vec::new();
    for n in 0..60 {
        let which = n % 5;
        let size = if n % 7 == 0 { 9000 } else { 10 };
        lasts[which] = log
            .append_all(one(subject(which as u8), lasts[which], n, vec![n as u8; size]))
            .await
            .expect("up")[0];
        kept.push((which, lasts[which]));
    }
    for (subject_number, through) in [(1, 30), (2, 60), (0, 20), (1, 55), (4, 60), (3, 44)] {
        log.purge_through(&subject(subject_number), Sequence(through)).await.expect("up");
        kept.retain(|(which, at)| *which != usize::from(subject_number) || at.0 > through);
    }
    let expected: Vec<_> = kept.into_iter().map(|(_, at)| at).collect();
    for _ in 0..2 {
        let log = open_again(&log, dir.path());
        let left = read_to_end(&*log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
        assert_eq!(left.into_iter().map(|stored| stored.sequence).collect::<Vec<_>>(), expected);
        assert_eq!(log.head(Log::Events).await.expect("up"), Sequence(60));
    }
}

/// Closes a log and opens its directory again.
fn open_again(log: &SledLog, dir: &Path) -> Box<SledLog> {
    log.close().expect("the disk works");
    let copy = tempfile::tempdir().expect("a temporary directory").keep();
    copy_dir(dir, &copy);
    Box::new(open(&copy))
}

#[tokio::test]
async fn the_longest_record_comes_back_whole_and_a_longer_one_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path());
    let bytes: Vec<u8> = (0..RECORD_BYTES_MAX).map(|n| (n % 251) as u8).collect();
    let mut last = Sequence::NONE;
    for n in 0..40 {
        last = log.append_all(one(subject(1), last, n, bytes.clone())).await.expect("up")[0];
    }
    let longer = log.append_all(one(subject(1), last, 99, vec![0; RECORD_BYTES_MAX + 1])).await;
    assert!(matches!(longer, Err(AppendError::Unknown { .. })), "{longer:?}");
    drop(log);
    let blobs = std::fs::read_dir(dir.path().join("EVENTS/blobs")).expect("sled makes it").count();
    assert_eq!(blobs, 0, "no value is so large that sled keeps it in a file of its own");
    let log = open(dir.path());
    let all = read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    assert_eq!(all.len(), 40);
    assert!(all.iter().all(|stored| stored.record == bytes));
}

#[tokio::test]
async fn acknowledgements_out_of_order_survive_a_restart_and_a_delay_is_kept() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), 6).await;
    let log = open(dir.path());
    let mut member = log.consume(Log::Events, Filter::all(), GROUP).await.expect("up");
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(member.next().await.expect("up"));
    }
    for index in [5, 3, 1] {
        held.remove(index).receipt.acknowledge().await.expect("up");
    }
    held.remove(0).receipt.acknowledge().await.expect("up");
    let started = tokio::time::Instant::now();
    held.remove(0).receipt.retry_after(Millis(60)).await.expect("up");
    held.remove(0).receipt.retry_after(Millis(30)).await.expect("up");
    let first = member.next().await.expect("up");
    let second = member.next().await.expect("up");
    assert_eq!((first.stored.sequence, first.attempt), (Sequence(5), 2));
    assert_eq!((second.stored.sequence, second.attempt), (Sequence(3), 2));
    assert!(started.elapsed() >= Millis(60).as_duration());
    drop((first, second, member, log));
    let log = open(dir.path());
    let mut member = log.consume(Log::Events, Filter::all(), GROUP).await.expect("up");
    let mut again = Vec::new();
    for _ in 0..2 {
        let delivery = member.next().await.expect("up");
        again.push(delivery.stored.sequence);
        delivery.receipt.acknowledge().await.expect("up");
    }
    assert_eq!(again, [Sequence(3), Sequence(5)]);
}

#[tokio::test]
async fn a_closed_log_answers_with_errors_also_to_those_who_wait() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path());
    let mut cursor = log.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    let waiting = tokio::spawn(async move { cursor.next(1, Tail::Wait).await });
    tokio::task::yield_now().await;
    log.close().expect("the disk works");
    log.close().expect("closing twice does nothing");
    let answer = waiting.await.expect("it does not panic");
    assert!(matches!(answer, Err(ReadError::Unavailable { .. })), "{answer:?}");
    let append = log.append_all(one(subject(1), Sequence::NONE, 0, vec![1])).await;
    assert!(matches!(append, Err(AppendError::Unknown { .. })), "{append:?}");
}

#[tokio::test]
async fn below_the_reserve_appends_are_refused_and_reads_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path(), 2).await;
    let more_than_there_is = Options { reserve: Mebibytes(u32::MAX), ..Options::default() };
    let log = SledLog::open(dir.path(), more_than_there_is).expect("the directory is ours");
    let refused = log.append_all(one(subject(9), Sequence::NONE, 0, vec![1])).await;
    assert!(
        matches!(&refused, Err(AppendError::Full { remedy, .. }) if remedy.contains("free space")),
        "{refused:?}"
    );
    assert_eq!(log.head(Log::Events).await.expect("up"), Sequence(2));
    assert_eq!(read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up").len(), 2);
}

#[tokio::test]
async fn sign_in_challenges_never_touch_the_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let issued = Subject::from(SubjectKind::ChallengeIssued(ChallengeId::from_bytes([3; 16])));
    let kept = open(dir.path());
    let refused = kept.append_all(one(issued.clone(), Sequence::NONE, 0, vec![1])).await;
    assert!(matches!(refused, Err(AppendError::Unknown { log: Log::Auth, .. })), "{refused:?}");
    let log = EmbeddedLog::new(kept, MemoryLog::default());
    log.append_all(one(issued.clone(), Sequence::NONE, 0, vec![1])).await.expect("memory takes it");
    assert!(log.last(&issued).await.expect("up").is_some());
    let names = std::fs::read_dir(dir.path()).expect("it is there").flatten().map(|entry| entry.file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["lock"]);
}
