//! A disk that runs full, for real: a small tmpfs. What was acknowledged stays, and the log goes on once there is space.

use std::path::{Path, PathBuf};

use omnirun_events::log::{Append, AppendError, Read, read_to_end};
use omnirun_events::{Filter, Log, Mebibytes, Sequence};
use omnirun_sled::{Options, SledLog};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::common::*;

/// A tmpfs that is unmounted when it goes out of scope.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; says why not where that is not allowed.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("the directory is ours");
        let data = std::ffi::CString::new(format!("size={size}")).expect("no zero byte in it");
        match mount("omnirun-sled-test", at, "tmpfs", MountFlags::empty(), data.as_c_str()) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(error) => {
                eprintln!("SKIPPED: cannot mount a tmpfs here ({error}); a full disk was not tested");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A log that is still open would keep it busy; detached, it goes with the last file.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

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
    let Some(disk) = SmallDisk::mount(&work.path().join("disk"), "12m") else { return };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).expect("it fits");
    let dir = disk.0.join("data");
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
    let Some(disk) = SmallDisk::mount(&work.path().join("disk"), "24m") else { return };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("it fits");
    let log = SledLog::open(&disk.0.join("data"), Options { reserve: Mebibytes(8), ..options() });
    let log = log.expect("there is space");
    let (last, error) = append_until_refused(&log, Sequence::NONE).await;
    let says_so = matches!(&error, AppendError::Full { remedy, .. } if remedy.contains("taken again"));
    assert!(says_so, "{error:?}");
    std::fs::remove_file(&ballast).expect("it is ours");
    let retry = log.append_all(one(subject(1), last, last.0 as usize, vec![last.0 as u8; 3000])).await;
    assert_eq!(retry.expect("there is space again"), [last.next()]);
    check(&log, last.next()).await;
}
