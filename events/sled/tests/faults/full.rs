//! A disk that runs full, for real: a small tmpfs. What was acknowledged stays, and the log goes on once there is space.

use omnirun_events::log::{Append, AppendError, Read, read_to_end};
use omnirun_events::{Filter, Log, Mebibytes, Sequence};
use omnirun_sled::{Options, SledLog};
use omnirun_test_support::disk::SmallDisk;

use super::common::*;

/// Appends until the log refuses; answers the last position and the refusal.
async fn append_until_refused(log: &SledLog, mut last: Sequence) -> (Sequence, AppendError) {
    let first = last.0 as usize;
    for n in first..first + 100_000 {
        match log.append_all(one(subject(1), last, n, vec![n as u8; 3000])).await {
            Ok(positions) => last = positions[0],
            Err(error) => return (last, error),
        }
    }
    panic!("the disk is small");
}

async fn check(log: &SledLog, last: Sequence) -> usize {
    let all = read_to_end(log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    assert!(all.len() as u64 >= last.0, "{} of {last} acknowledged records", all.len());
    for (n, stored) in all.iter().enumerate() {
        assert_eq!((stored.sequence.0, &stored.record[..]), (n as u64 + 1, &[n as u8; 3000][..]));
    }
    all.len()
}

#[tokio::test]
async fn a_disk_that_runs_full_during_a_write_loses_nothing_and_goes_on_after_a_restart() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let disk = SmallDisk::mount(&work.path().join("disk"), "12m").expect("root may mount");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).expect("it fits");
    let dir = disk.path().join("data");
    let log = open(&dir);
    let (last, error) = append_until_refused(&log, Sequence::NONE).await;
    assert!(matches!(error, AppendError::Unknown { .. } | AppendError::Full { .. }), "{error:?}");
    assert!(last.0 > 100, "{last}");
    for n in 0..3 {
        let again = log.append_all(one(subject(2), Sequence::NONE, n, vec![2])).await;
        let says_so = matches!(&again, Err(AppendError::Full { remedy, .. }) if remedy.contains("free space there and restart"));
        assert!(says_so, "it takes nothing more: {again:?}");
    }
    assert_eq!(log.head(Log::Events).await.expect("it is known"), last);
    drop(log);
    std::fs::remove_file(&ballast).expect("it is ours");
    let log = open(&dir);
    let stored = Sequence(check(&log, last).await as u64);
    let retry = log.append_all(one(subject(1), last, last.0 as usize, vec![last.0 as u8; 3000])).await;
    let next = retry.expect("there is space again")[0];
    assert_eq!(next, last.next(), "stored the first time or now, it is the next one");
    assert!(stored <= next);
    drop(log);
    check(&open(&dir), next).await;
}

#[tokio::test]
async fn above_the_reserve_a_full_disk_needs_no_restart() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let disk = SmallDisk::mount(&work.path().join("disk"), "24m").expect("root may mount");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("it fits");
    let log = SledLog::open(&disk.path().join("data"), Options { reserve: Mebibytes(8), ..options() });
    let log = log.expect("there is space");
    let (last, error) = append_until_refused(&log, Sequence::NONE).await;
    let says_so = matches!(&error, AppendError::Full { remedy, .. } if remedy.contains("taken again"));
    assert!(says_so, "{error:?}");
    std::fs::remove_file(&ballast).expect("it is ours");
    let retry = log.append_all(one(subject(1), last, last.0 as usize, vec![last.0 as u8; 3000])).await;
    assert_eq!(retry.expect("there is space again"), [last.next()]);
    check(&log, last.next()).await;
}
