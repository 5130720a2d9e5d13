//! One process per directory: a lock that the system lets go of when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{OpenError, io_error};

/// How often a lock that is held is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Holds `<dir>/lock` until it is dropped, or the process ends.
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock of a directory that is there, or says that it is in use.
    pub fn take(dir: &Path) -> Result<Self, OpenError> {
        Self::take_within(dir, Duration::ZERO)
    }

    /// As [`Self::take`], for a directory that an earlier life of its user may still be letting go of. Blocks.
    pub fn take_within(dir: &Path, patience: Duration) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        let started = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK) if started.elapsed() < patience => std::thread::sleep(LOOK_EVERY),
                Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse { dir: dir.to_owned() }),
                Err(error) => return Err(io_error("lock", &path)(error.into())),
            }
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process that was forked a moment ago holds the same lock until it execs. If this fails,
        // closing is still to come.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
