//! The outbox's files: a sled database, and a lock of our own that says whether another worker has it.

use std::{
    fs::{self, File, TryLockError},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::OutboxError;

/// How long an earlier life of the outbox may hold a lock: a write that had begun when its worker was dropped is finished, sled's threads let go
/// of theirs late, and a process that was forked meanwhile holds both until it execs.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(3);
const UNLOCK_LOOK_EVERY: Duration = Duration::from_millis(5);

/// An open database, this process's alone.
pub(super) struct Database {
    tree: sled::Db,
    /// The database's own file, for fdatasync: sled's flush does not wait for the disk.
    file: File,
    _lock: Lock,
}

/// Holds `<directory>/lock` until it is dropped, or the process ends.
struct Lock(File);

impl Lock {
    fn take(directory: &Path) -> Result<Self, OutboxError> {
        let failed = |source| OutboxError::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let file = File::options().create(true).append(true).open(directory.join("lock")).map_err(failed)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if started.elapsed() < UNLOCK_PATIENCE => {
                    thread::sleep(UNLOCK_LOOK_EVERY);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(OutboxError::InUse { path: directory.to_owned() });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process that was forked a moment ago shares the lock until it execs.
        let _ = self.0.unlock();
    }
}

impl Database {
    /// The database in this directory, made if it is missing. Blocks for the disk, and a few seconds at most for an earlier life of it.
    pub(super) fn open(directory: &Path) -> Result<Self, OutboxError> {
        let lock = Lock::take(directory)?;
        let config = sled::Config::new().path(directory).flush_every_ms(None).mode(sled::Mode::LowSpace);
        let started = Instant::now();
        let tree = loop {
            // Damaged files make sled panic while it opens them.
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
                .map_err(|_| OutboxError::Damaged { path: directory.to_owned() })?;
            match opened {
                Err(error) if is_locked(&error) && started.elapsed() < UNLOCK_PATIENCE => {
                    thread::sleep(UNLOCK_LOOK_EVERY);
                }
                opened => break opened,
            }
        };
        let tree = tree.map_err(|source| OutboxError::Open { path: directory.to_owned(), source })?;
        let file = File::open(directory.join("db")).map_err(OutboxError::Sync)?;
        Ok(Self { tree, file, _lock: lock })
    }

    /// Every row, in the order of keys.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), OutboxError>> {
        self.tree.iter().map(|row| row.map_err(OutboxError::Write))
    }

    /// Makes all of these changes or none. When it returns they survive a power cut.
    pub(super) fn apply(&self, batch: sled::Batch) -> Result<(), OutboxError> {
        self.tree.apply_batch(batch).map_err(OutboxError::Write)?;
        self.tree.flush().map_err(OutboxError::Write)?;
        self.file.sync_data().map_err(OutboxError::Sync)
    }

    /// Removes a row. After a power cut it may be back.
    pub(super) fn remove(&self, key: &[u8]) -> Result<(), OutboxError> {
        self.tree.remove(key).map_err(OutboxError::Write)?;
        self.tree.flush().map(drop).map_err(OutboxError::Write)
    }
}

/// Whether another life of the database holds sled's lock: sled says so in words alone.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}
