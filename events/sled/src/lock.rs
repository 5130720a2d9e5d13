//! One process per directory: a lock that the system lets go of when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{OpenError, io_error};

/// Holds `<dir>/lock` until it is dropped.
pub(crate) struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock, or says that the directory is in use.
    pub fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(error) => Err(io_error("lock", &path)(error.into())),
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
