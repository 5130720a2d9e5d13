//! The store: every log of a directory behind the four traits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use omnirun_events::log::{
    Append, AppendError, Batch, Consumer, ConsumerName, Cursor, Erase, EraseError, Queue, Read, ReadError,
};
use omnirun_events::{Filter, Log, Mebibytes, Sequence, Stored, Subject};

use crate::cell::{Cell, SyncCounts, log_path};
use crate::committer::{Committer, Purge};
use crate::error::{OpenError, StoreError, io_error};
use crate::head::head_path;
use crate::lock::DirLock;
use crate::queue::SledConsumer;
use crate::read::cursor::SledCursor;
use crate::read::{self, read_error};

/// How long an append may take before it counts as unknown: far beyond what a working disk needs, even with a full queue.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How a directory of logs is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory that sled may use for the pages of one log; there are up to sixteen logs.
    pub cache: Mebibytes,
    /// Free space on the disk below which appends are refused, so that the ones before it were never at risk. Zero: until the disk is full.
    pub reserve: Mebibytes,
}

impl Default for Options {
    /// 128 MiB of pages per log, 64 MiB kept free.
    fn default() -> Self {
        Self { cache: Mebibytes(128), reserve: Mebibytes(64) }
    }
}

/// The logs of one directory: all but AUTH, which is never on disk. One process at a time.
///
/// Dropping it closes it. Cursors and consumers that are still around then answer that the log is closed.
pub struct SledLog {
    dir: PathBuf,
    options: Options,
    logs: Mutex<HashMap<Log, Arc<Open>>>,
    _lock: DirLock,
}

struct Open {
    cell: Arc<Cell>,
    committer: Committer,
}

impl Open {
    fn new(dir: &Path, log: Log, options: &Options) -> Result<Self, OpenError> {
        let (cell, file, head) = Cell::open(dir, log, options)?;
        let cell = Arc::new(cell);
        let committer = Committer::start(cell.clone(), file, head)?;
        Ok(Self { cell, committer })
    }
}

impl SledLog {
    /// Opens the logs in `dir`, which is made if it is not there. Every log that has ever been used is checked whole before this
    /// returns: 3 to 10 s for a million records, by how much of them [`Options::cache`] holds. Blocks; call it before serving or from a blocking thread.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let lock = DirLock::take(dir)?;
        let mut logs = HashMap::new();
        for log in Log::kept() {
            if log_path(dir, log).exists() || head_path(dir, log).exists() {
                logs.insert(log, Arc::new(Open::new(dir, log, &options)?));
            }
        }
        Ok(Self { dir: dir.to_owned(), options, logs: Mutex::new(logs), _lock: lock })
    }

    /// Finishes what was appended, writes out progress and heads, and lets go of the files. What comes after is answered with an error.
    /// Closing twice does nothing. Blocks for a few disk writes.
    pub fn close(&self) -> Result<(), ReadError> {
        let mut result = Ok(());
        for open in self.lock().values() {
            if let Err(error) = open.committer.close() {
                result = Err(read_error(open.cell.log, error));
            }
        }
        result
    }

    /// How often the disk was asked to confirm something of `log` since it was opened.
    pub fn sync_counts(&self, log: Log) -> SyncCounts {
        self.used(log).map(|open| open.cell.sync_counts()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Log, Arc<Open>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if it was ever used.
    fn used(&self, log: Log) -> Option<Arc<Open>> {
        self.lock().get(&log).cloned()
    }

    /// The log, made at its first use; that once, this blocks for a few disk writes.
    fn get(&self, log: Log) -> Result<Arc<Open>, StoreError> {
        if log == Log::Auth {
            return Err(StoreError::NotKept);
        }
        let mut logs = self.lock();
        if let Some(open) = logs.get(&log) {
            return Ok(open.clone());
        }
        let open = Arc::new(Open::new(&self.dir, log, &self.options).map_err(StoreError::Create)?);
        logs.insert(log, open.clone());
        Ok(open)
    }

    async fn purge(&self, log: Log, purge: Purge) -> Result<u64, EraseError> {
        let Some(open) = self.used(log) else { return Ok(0) };
        open.committer.purge(purge).await.map_err(|error| EraseError { log, source: error.into() })
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(error = %error, "a log could not be closed properly");
        }
    }
}

#[async_trait]
impl Append for SledLog {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let log = batch.log();
        let unknown = |error: StoreError| AppendError::Unknown { log, source: error.into() };
        let open = self.get(log).map_err(unknown)?;
        match tokio::time::timeout(ANSWER_PATIENCE, open.committer.append(batch)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(unknown(StoreError::Closed)),
            Err(_) => Err(unknown(StoreError::TimedOut)),
        }
    }
}

#[async_trait]
impl Read for SledLog {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        let open = self.get(log).map_err(|error| read_error(log, error))?;
        Ok(Box::new(SledCursor::new(open.cell.clone(), filter, after).await?))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        let Some(open) = self.used(log) else { return Ok(Sequence::NONE) };
        open.cell.with(|_| Ok(open.cell.committed())).map_err(|error| read_error(log, error))
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        let log = subject.log();
        let Some(open) = self.used(log) else { return Ok(None) };
        read::last(&open.cell, subject).map_err(|error| read_error(log, error))
    }
}

#[async_trait]
impl Queue for SledLog {
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError> {
        let open = self.get(log).map_err(|error| read_error(log, error))?;
        Ok(Box::new(SledConsumer::join(open.cell.clone(), filter, name)?))
    }
}

#[async_trait]
impl Erase for SledLog {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        self.purge(subject.log(), Purge::Through(subject.clone(), through)).await
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        self.purge(log, Purge::All(filter)).await
    }
}
