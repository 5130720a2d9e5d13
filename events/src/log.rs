//! What every event log promises, whichever store keeps it.
//!
//! Four capabilities, four traits, so that a signature shows who may do what: [`Read`], [`Append`], [`Queue`], [`Erase`]. The rules
//! below are tested for every store by [`conformance`].
//!
//! ```text
//!   sequence   1   2   3   4   5   6   7        each log numbers its own records
//!   subject    a   b   a   c   a   b   ·        a's last position is 5, c's is 4, the log's head is 6
//! ```
//!
//! A sequence number is used once: after a purge there are holes, never other records under old numbers. A hole means
//! purged, never late.

pub mod conformance;
pub mod memory;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::CommitId;
use crate::subject::{Filter, Log, Subject};
use crate::unit::Millis;

/// Where a record is in its log, from 1; it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first record; as an expectation: "has no records".
    pub const NONE: Self = Self(0);

    /// The next number.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The log.
    pub log: Log,
    /// The number within it.
    pub sequence: Sequence,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.log, self.sequence)
    }
}

/// A record as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub sequence: Sequence,
    /// Where it is filed.
    pub subject: Subject,
    /// Its bytes, exactly as they were appended.
    pub record: Bytes,
}

/// Some records in order, and how far the reader has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records that match, in order; none at the end of the log.
    pub records: Vec<Stored>,
    /// Everything up to here that matches has been handed out.
    pub through: Sequence,
}

/// What a cursor does when it has reached the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It answers with an empty page.
    Return,
    /// It waits for the next record that matches. Dropping the future loses nothing.
    Wait,
}

/// Records that one page holds, at most.
pub const PAGE_RECORDS_MAX: usize = 4096;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store does not answer; the same call may work later.
    #[error("cannot reach the store of {log}")]
    Unavailable {
        /// The log.
        log: Log,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store holds something that cannot be what was acknowledged. It is not served as a shorter log.
    #[error("the store of {} is damaged at position {}: {what}; restore it from a copy", at.log, at.sequence)]
    Corrupt {
        /// The first bad position.
        at: Position,
        /// What is wrong there.
        what: String,
    },
}

/// Reading. Whoever holds this can change nothing.
#[async_trait]
pub trait Read: Send + Sync {
    /// A cursor over the records of `log` that `filter` takes, after `after`. Catching up and following are one loop over it.
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError>;

    /// Number of the last record ever acknowledged in `log`, purged or not; [`Sequence::NONE`] for a new log.
    async fn head(&self, log: Log) -> Result<Sequence, ReadError>;

    /// The last record of a subject, none if it has none. Not stale: it shows every append that was acknowledged before the call.
    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError>;
}

/// A place in a log. Records come in order, each once, none left out.
#[async_trait]
pub trait Cursor: Send {
    /// The next records, at most `limit` and [`PAGE_RECORDS_MAX`]. An empty page only with [`Tail::Return`], and only when
    /// everything acknowledged before the call has been handed out.
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError>;
}

/// Everything of `log` that `filter` takes and that was acknowledged before the call.
pub async fn read_to_end(
    reader: &dyn Read,
    log: Log,
    filter: Filter,
    after: Sequence,
) -> Result<Vec<Stored>, ReadError> {
    let mut cursor = reader.read(log, filter, after).await?;
    let mut records = Vec::new();
    loop {
        let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
        if page.records.is_empty() {
            return Ok(records);
        }
        records.extend(page.records);
    }
}

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub subject: Subject,
    /// The subject's last position as the writer knows it, [`Sequence::NONE`] if it has no records.
    pub expected: Sequence,
    /// Id of the commit, by which a retry is recognised.
    pub commit: CommitId,
    /// The signed bytes.
    pub record: Bytes,
}

/// Records that are appended all or not at all: one log, different subjects, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(Vec<Entry>);

/// Records of one batch, at most. A decision touches a handful of subjects.
pub const BATCH_ENTRIES_MAX: usize = 16;

/// Entries that make no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// None, or too many.
    #[error("a batch has 1 to {BATCH_ENTRIES_MAX} entries")]
    Count,
    /// Two entries of one subject.
    #[error("a batch names a subject once")]
    SameSubject,
    /// Entries of several logs.
    #[error("a batch belongs to one log")]
    SeveralLogs,
}

impl Batch {
    /// A batch of these entries.
    pub fn new(entries: Vec<Entry>) -> Result<Self, BatchError> {
        let (first, rest) = entries.split_first().ok_or(BatchError::Count)?;
        if entries.len() > BATCH_ENTRIES_MAX {
            return Err(BatchError::Count);
        }
        if rest.iter().any(|entry| entry.subject.log() != first.subject.log()) {
            return Err(BatchError::SeveralLogs);
        }
        let subjects: std::collections::HashSet<_> = entries.iter().map(|entry| &entry.subject).collect();
        if subjects.len() != entries.len() {
            return Err(BatchError::SameSubject);
        }
        Ok(Self(entries))
    }

    /// A batch of one.
    pub fn one(entry: Entry) -> Self {
        Self(vec![entry])
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The log that they belong to.
    pub fn log(&self) -> Log {
        self.0[0].subject.log()
    }
}

/// Why a batch was not, or may not have been, appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended to a subject first; nothing was stored. Read, decide again.
    #[error("{subject} has moved on")]
    Conflict {
        /// A subject that was not where the writer thought.
        subject: Subject,
        /// Its last position.
        actual: Sequence,
    },
    /// The store did not answer in time. The batch may or may not be stored; appending the same one again is safe and tells.
    #[error("the store of {log} did not confirm the append")]
    Unknown {
        /// The log.
        log: Log,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses to take more; nothing was stored. The text says what to do.
    #[error("the store of {log} takes no more records: {remedy}")]
    Full {
        /// The log.
        log: Log,
        /// What an operator can do.
        remedy: String,
    },
}

/// Appending.
#[async_trait]
pub trait Append: Send + Sync {
    /// Appends all entries or none, and answers with their positions in the batch's order.
    ///
    /// When it returns, the records survive a power cut on this store as it is configured. Every entry's `expected` held at that moment.
    /// A batch whose commit is already stored, as the first record after `expected` of its subjects, is answered with the
    /// positions of the first time and stores nothing: a retry after any error is safe.
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError>;
}

/// Name of a group of competing consumers; its progress is kept under it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConsumerName(pub &'static str);

/// Competing consumers: each record goes to one of them, again and again until one acknowledges it.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Joins the group `name` over the records of `log` that `filter` takes. The first to join fixes the filter; the group starts
    /// at the first record there is.
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError>;
}

/// One member of a group. Dropping it gives back what it holds: at once in the embedded stores, after the acknowledgement time on a server.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next record that no other member holds. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Delivery, ReadError>;
}

/// A record that is this member's to handle. Dropped without an answer, it is delivered again.
pub struct Delivery {
    /// The record.
    pub stored: Stored,
    /// How often it was delivered, this time included; counts again from 1 after a restart of an embedded store.
    pub attempt: u32,
    /// How to answer.
    pub receipt: Box<dyn Receipt>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("stored", &self.stored.sequence)
            .field("attempt", &self.attempt)
            .finish()
    }
}

/// The answer to a delivery.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// Done: it is not delivered again, also after a restart.
    async fn acknowledge(self: Box<Self>) -> Result<(), ReadError>;

    /// Not now: deliver it again after `delay`, to any member.
    async fn retry_after(self: Box<Self>, delay: Millis) -> Result<(), ReadError>;

    /// Still at it: the time to answer starts anew.
    async fn in_progress(&self) -> Result<(), ReadError>;
}

/// Why something could not be erased.
#[derive(Debug, thiserror::Error)]
#[error("cannot erase from {log}; calling again is safe")]
pub struct EraseError {
    /// The log.
    pub log: Log,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Removing whole records. What makes personal data unreadable is the destruction of its key; this tidies up. In [`Log::Keys`], stores
/// that can overwrite do.
#[async_trait]
pub trait Erase: Send + Sync {
    /// Removes the records of a subject up to and including `through`; answers how many there were. Nothing to remove is no error.
    /// Callers never remove the last record of a subject that may still be appended to.
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError>;

    /// Removes every record of `log` that `filter` takes; answers how many there were. A later append to such a subject expects 0.
    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError>;
}

/// A store that does everything: what tests and the embedded mode hold. Services take the traits that they need.
pub trait Store: Read + Append + Queue + Erase {}

impl<T: Read + Append + Queue + Erase> Store for T {}
