//! One log: its database, how far it is acknowledged, and who is told when that changes. Opening and closing; reading and writing are elsewhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use omnirun_events::{Log, Mebibytes, Sequence};
use tokio::sync::watch;

use crate::check;
use crate::database::{Database, DatabaseError, Rows};
use crate::error::{OpenError, StoreError};
use crate::head::{Head, HeadFile, head_path};
use crate::queue::Group;
use crate::store::Options;

/// How often this process has asked the disk to confirm something, by fdatasync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncCounts {
    /// For data: once per group of appends or step of a purge.
    pub data: u64,
    /// For the head files: at most once a second each, and on close.
    pub heads: u64,
}

/// What readers wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    /// Last acknowledged position.
    pub committed: Sequence,
    /// Grows when something else happened that a consumer should look at.
    ticks: u64,
}

/// One log, shared by its writer and its readers.
pub(crate) struct Cell {
    pub log: Log,
    pub dir: PathBuf,
    pub cache: Mebibytes,
    /// Free bytes below which nothing more is taken.
    pub reserve: u64,
    /// None once the log is closed.
    database: RwLock<Option<Database>>,
    change: watch::Sender<Change>,
    groups: Mutex<HashMap<&'static str, Group>>,
    /// Why nothing is written any more.
    refusal: Mutex<Option<Refusal>>,
    data_syncs: AtomicU64,
    head_syncs: AtomicU64,
}

/// Why a log takes nothing until it is opened again.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub is_full: bool,
    pub text: String,
}

/// The directory of one log.
pub(crate) fn log_path(dir: &Path, log: Log) -> PathBuf {
    dir.join(log.to_string())
}

/// What a purge builds a log's new directory under.
pub(crate) fn next_path(dir: &Path, log: Log) -> PathBuf {
    dir.join(format!("{log}.next"))
}

impl Cell {
    /// Opens a log, or makes it if there was never one. Checked as a whole before this returns.
    pub fn open(dir: &Path, log: Log, options: &Options) -> Result<(Self, HeadFile, Head), OpenError> {
        let path = log_path(dir, log);
        let next = next_path(dir, log);
        if next.exists() {
            // A purge was interrupted, before or after it exchanged the directories: the one in place is whole, this one is not needed.
            std::fs::remove_dir_all(&next).map_err(crate::error::io_error("remove", &next))?;
        }
        let kept = HeadFile::open(dir, log)?;
        let damaged = |at, what| OpenError::Damaged {
            dir: dir.to_owned(),
            at: omnirun_events::Position { log, sequence: at },
            what,
        };
        let unreadable = |text| damaged(Sequence(1), format!("the database does not open ({text})"));
        let database = Database::open(&path, options.cache).map_err(|error| match error {
            DatabaseError::Io(error) => error,
            DatabaseError::Damaged(text) => unreadable(text),
        })?;
        let known = kept.as_ref().map(|(_, head)| *head);
        let findings = database.reading(|tree| check::check(tree, log, known));
        let findings = findings.map_err(|error| unreadable(error.describe()))?;
        let findings = findings.map_err(|damage| damaged(damage.at, damage.what.to_owned()))?;
        let mut file = match kept {
            Some((file, _)) => file,
            None if findings.is_new => HeadFile::create(dir, log)?,
            None => return Err(OpenError::Head { log, file: head_path(dir, log), what: "missing" }),
        };
        if !findings.unindexed.is_empty() {
            let rows = Rows::InOrder(findings.unindexed);
            database.commit(rows).map_err(|error| unreadable(error.describe()))?;
        }
        if known.is_some_and(|known| known != findings.head) {
            file.write(findings.head).map_err(crate::error::io_error("write", &head_path(dir, log)))?;
        }
        let change = Change { committed: findings.head.sequence, ticks: 0 };
        let cell = Self {
            log,
            dir: dir.to_owned(),
            cache: options.cache,
            reserve: u64::from(options.reserve.0) << 20,
            database: RwLock::new(Some(database)),
            change: watch::Sender::new(change),
            groups: Mutex::default(),
            refusal: Mutex::default(),
            data_syncs: AtomicU64::new(0),
            head_syncs: AtomicU64::new(0),
        };
        Ok((cell, file, findings.head))
    }

    /// Runs `call` with the open database. Short: closing and replacing wait for it.
    pub fn with<T>(&self, call: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        call(database.as_ref().ok_or(StoreError::Closed)?)
    }

    /// Puts another database in the place of this one and answers the old one.
    pub fn replace(&self, database: Option<Database>) -> Option<Database> {
        std::mem::replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database)
    }

    /// Writes rows, durable when it returns. After an error nothing more is taken, since nobody
    /// knows what the disk holds, and sled may refuse to read pages that it does not have in memory.
    pub fn commit(&self, rows: Rows) -> Result<(), StoreError> {
        self.check_taking()?;
        let result = self.with(|database| database.commit(rows));
        self.data_syncs.fetch_add(1, Ordering::Relaxed);
        result.inspect_err(|error| self.refuse(error))
    }

    /// Applies a batch that need not be durable yet.
    pub fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.check_taking()?;
        self.with(|database| database.apply(batch)).inspect_err(|error| self.refuse(error))
    }

    /// Refuses everything from now on.
    pub fn refuse(&self, error: &StoreError) {
        if matches!(error, StoreError::Closed) {
            return;
        }
        tracing::error!(log = %self.log, reason = %error.describe(), "a log cannot be written any more");
        let refusal = Refusal { is_full: error.is_full(), text: error.describe() };
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
    }

    /// Why nothing is taken, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_taking(&self) -> Result<(), StoreError> {
        self.refusal().map_or(Ok(()), |refusal| Err(StoreError::Refusing(refusal.text)))
    }

    /// The last acknowledged position: readers see nothing beyond it.
    pub fn committed(&self) -> Sequence {
        self.change.borrow().committed
    }

    /// A receiver that wakes for everything that happens from now on.
    pub fn changes(&self) -> watch::Receiver<Change> {
        self.change.subscribe()
    }

    /// Everything up to `sequence` is durable.
    pub fn advance(&self, sequence: Sequence) {
        self.change.send_modify(|change| change.committed = sequence);
    }

    /// Something came back, or the log closed.
    pub fn tick(&self) {
        self.change.send_modify(|change| change.ticks += 1);
    }

    /// The consumer groups that were joined since the log was opened.
    pub fn groups(&self) -> MutexGuard<'_, HashMap<&'static str, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an fdatasync of the head.
    pub fn count_head_sync(&self) {
        self.head_syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn sync_counts(&self) -> SyncCounts {
        SyncCounts {
            data: self.data_syncs.load(Ordering::Relaxed),
            heads: self.head_syncs.load(Ordering::Relaxed),
        }
    }
}
