//! The store of a single machine: what is kept is in sled, sign-in challenges are in memory. One `Arc<dyn Store>` for all of it.

use async_trait::async_trait;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{
    Append, AppendError, Batch, Consumer, ConsumerName, Cursor, Erase, EraseError, Queue, Read, ReadError,
    Store,
};
use omnirun_events::{Filter, Log, Sequence, Stored, Subject};

use crate::store::SledLog;

/// [`Log::Auth`] in memory, every other log in sled. A restart ends all sign-ins under way: their codes have to be asked for again.
pub struct EmbeddedLog {
    kept: SledLog,
    auth: MemoryLog,
}

impl EmbeddedLog {
    /// Puts the two together. `auth` expires its records; see [`MemoryLog::expiring`].
    pub fn new(kept: SledLog, auth: MemoryLog) -> Self {
        Self { kept, auth }
    }

    /// The part that is on disk.
    pub fn kept(&self) -> &SledLog {
        &self.kept
    }

    fn store(&self, log: Log) -> &dyn Store {
        match log {
            Log::Auth => &self.auth,
            _ => &self.kept,
        }
    }
}

#[async_trait]
impl Append for EmbeddedLog {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        self.store(batch.log()).append_all(batch).await
    }
}

#[async_trait]
impl Read for EmbeddedLog {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        self.store(log).read(log, filter, after).await
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.store(log).head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.store(subject.log()).last(subject).await
    }
}

#[async_trait]
impl Queue for EmbeddedLog {
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError> {
        self.store(log).consume(log, filter, name).await
    }
}

#[async_trait]
impl Erase for EmbeddedLog {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        self.store(subject.log()).purge_through(subject, through).await
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        self.store(log).purge_all(log, filter).await
    }
}
