//! Why logs on disk cannot be opened, and what sled or the system said.

use std::io;
use std::path::{Path, PathBuf};

use omnirun_events::{Log, Position};

/// Why the logs in a directory cannot be opened. Nothing is served then: a shorter log would look like a whole one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has the directory open.
    #[error("{} is in use: is another omnirun running on it?", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The store does not hold what was acknowledged.
    #[error(
        "the log {} in {} is damaged at position {}: {what}; restore the whole directory from a copy, and keep this one: what comes before \
         that position may still be of use", at.log, dir.display(), at.sequence
    )]
    Damaged {
        /// The directory of all logs.
        dir: PathBuf,
        /// The first position that is not as it was acknowledged; 1 when nothing can be read at all.
        at: Position,
        /// What is wrong there.
        what: String,
    },
    /// There are records, and the file that says how many there must be is gone or unreadable.
    #[error(
        "{} is {what}, so nobody can tell whether the log {log} is whole; restore the file from the copy that the records come from", file.display()
    )]
    Head {
        /// The log.
        log: Log,
        /// The head's file.
        file: PathBuf,
        /// `missing` or `unreadable`.
        what: &'static str,
    },
    /// The system refused an operation.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Puts the operation and the path to a system error.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// Why sled did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled's own answer.
    #[error("the database refused")]
    Sled(#[source] sled::Error),
    /// fdatasync failed: what the disk holds is unknown.
    #[error("the disk did not confirm what was written")]
    Sync(#[source] io::Error),
    /// sled panicked, which it does on damaged data.
    #[error("the database failed on its data: {0}")]
    Panicked(String),
    /// The log was closed while somebody still held a cursor or a consumer.
    #[error("the log is closed")]
    Closed,
    /// A log that this store does not keep.
    #[error("this store does not keep that log")]
    NotKept,
    /// The log takes nothing more until it is opened again.
    #[error("an earlier write failed ({0}); restart to open the log again")]
    Refusing(String),
    /// The writer did not answer in time.
    #[error("no answer within the time that a disk may take")]
    TimedOut,
    /// A record that is longer than a store takes.
    #[error("a record has at most {} bytes", crate::RECORD_BYTES_MAX)]
    TooLong,
    /// The log could not be created.
    #[error("cannot create the log")]
    Create(#[source] OpenError),
    /// A file operation of a purge failed.
    #[error("cannot replace the log's directory")]
    Replace(#[source] OpenError),
    /// What is stored is not what was acknowledged.
    #[error("position {0} is damaged: {1}")]
    Damaged(omnirun_events::Sequence, String),
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Sync(error) => {
                matches!(error.kind(), StorageFull | QuotaExceeded)
            }
            _ => false,
        }
    }

    /// The text with its causes, for a sentence that is shown later.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}
