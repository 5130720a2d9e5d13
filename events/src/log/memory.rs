//! The store in memory: the AUTH log of `omnirun up`, and the quickest one to test against.
//!
//! It promises everything but surviving the process. With [`MemoryLog::expiring`], records older than an age are gone at the next call.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use event_listener::Event as Signal;

use super::*;
use crate::unit::Timestamp;

mod queue;

/// Logs in memory; clones share them.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    logs: Mutex<HashMap<Log, Records>>,
    changed: Signal,
    expiry: Option<Expiry>,
}

struct Expiry {
    age: Millis,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Default)]
struct Records {
    head: Sequence,
    records: BTreeMap<Sequence, Kept>,
    subjects: HashMap<Subject, Vec<Sequence>>,
    groups: HashMap<&'static str, queue::Group>,
}

struct Kept {
    subject: Subject,
    commit: CommitId,
    record: Bytes,
    at: Timestamp,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::with(None)
    }
}

impl MemoryLog {
    /// Logs whose records are gone once they are older than `age` by `clock`.
    pub fn expiring(age: Millis, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self::with(Some(Expiry { age, clock: Box::new(clock) }))
    }

    fn with(expiry: Option<Expiry>) -> Self {
        Self { shared: Arc::new(Shared { logs: Mutex::default(), changed: Signal::new(), expiry }) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Log, Records>> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expiry) = &self.expiry {
            let now = (expiry.clock)();
            logs.values_mut().for_each(|log| log.expire(now, expiry.age));
        }
        logs
    }

    fn now(&self) -> Timestamp {
        self.expiry.as_ref().map(|expiry| (expiry.clock)()).unwrap_or_default()
    }
}

impl Records {
    fn last(&self, subject: &Subject) -> Sequence {
        self.subjects.get(subject).and_then(|all| all.last()).copied().unwrap_or_default()
    }

    /// The position of an earlier append of this very entry, if there was one.
    fn earlier(&self, entry: &Entry) -> Option<Sequence> {
        let all = self.subjects.get(&entry.subject)?;
        let next = *all.iter().find(|sequence| **sequence > entry.expected)?;
        (self.records.get(&next)?.commit == entry.commit).then_some(next)
    }

    fn append(&mut self, entry: &Entry, at: Timestamp) -> Sequence {
        self.head = self.head.next();
        self.subjects.entry(entry.subject.clone()).or_default().push(self.head);
        let Entry { subject, commit, record, .. } = entry.clone();
        self.records.insert(self.head, Kept { subject, commit, record, at });
        self.head
    }

    fn remove(&mut self, wanted: impl Fn(Sequence, &Kept) -> bool) -> u64 {
        let gone: Vec<Sequence> = self
            .records
            .iter()
            .filter(|(sequence, kept)| wanted(**sequence, kept))
            .map(|(s, _)| *s)
            .collect();
        for sequence in &gone {
            let Some(kept) = self.records.remove(sequence) else { continue };
            if let Some(all) = self.subjects.get_mut(&kept.subject) {
                all.retain(|other| other != sequence);
                if all.is_empty() {
                    self.subjects.remove(&kept.subject);
                }
            }
        }
        gone.len() as u64
    }

    fn expire(&mut self, now: Timestamp, age: Millis) {
        let oldest_is_old = self.records.values().next().is_some_and(|kept| now.since(kept.at) > age);
        if oldest_is_old {
            self.remove(|_, kept| now.since(kept.at) > age);
        }
    }

    fn stored(&self, sequence: Sequence) -> Option<Stored> {
        let kept = self.records.get(&sequence)?;
        Some(Stored { sequence, subject: kept.subject.clone(), record: kept.record.clone() })
    }
}

#[async_trait]
impl Append for MemoryLog {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let at = self.shared.now();
        let mut logs = self.shared.lock();
        let log = logs.entry(batch.log()).or_default();
        let earlier: Vec<_> = batch.entries().iter().filter_map(|entry| log.earlier(entry)).collect();
        if earlier.len() == batch.entries().len() {
            return Ok(earlier);
        }
        for entry in batch.entries() {
            let actual = log.last(&entry.subject);
            if actual != entry.expected {
                return Err(AppendError::Conflict { subject: entry.subject.clone(), actual });
            }
        }
        let sequences = batch.entries().iter().map(|entry| log.append(entry, at)).collect();
        drop(logs);
        self.shared.changed.notify(usize::MAX);
        Ok(sequences)
    }
}

#[async_trait]
impl Read for MemoryLog {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        Ok(Box::new(MemoryCursor { shared: self.shared.clone(), log, filter, after }))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        Ok(self.shared.lock().get(&log).map(|log| log.head).unwrap_or_default())
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        let logs = self.shared.lock();
        Ok(logs.get(&subject.log()).and_then(|log| log.stored(log.last(subject))))
    }
}

struct MemoryCursor {
    shared: Arc<Shared>,
    log: Log,
    filter: Filter,
    after: Sequence,
}

impl MemoryCursor {
    fn page(&mut self, limit: usize) -> Page {
        let logs = self.shared.lock();
        let Some(log) = logs.get(&self.log) else { return Page { records: Vec::new(), through: self.after } };
        let after = (std::ops::Bound::Excluded(self.after), std::ops::Bound::Unbounded);
        let records: Vec<_> = log
            .records
            .range(after)
            .filter(|(_, kept)| self.filter.matches(&kept.subject))
            .take(limit.min(PAGE_RECORDS_MAX))
            .filter_map(|(sequence, _)| log.stored(*sequence))
            .collect();
        let full = records.len() == limit.min(PAGE_RECORDS_MAX);
        let last = records.last().map(|stored| stored.sequence);
        self.after = if full { last.unwrap_or(self.after) } else { log.head.max(self.after) };
        Page { records, through: self.after }
    }
}

#[async_trait]
impl Cursor for MemoryCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        loop {
            let changed = self.shared.changed.listen();
            let page = self.page(limit);
            if !page.records.is_empty() || tail == Tail::Return {
                return Ok(page);
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Erase for MemoryLog {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        let mut logs = self.shared.lock();
        let Some(log) = logs.get_mut(&subject.log()) else { return Ok(0) };
        Ok(log.remove(|sequence, kept| sequence <= through && kept.subject == *subject))
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        let mut logs = self.shared.lock();
        let Some(log) = logs.get_mut(&log) else { return Ok(0) };
        Ok(log.remove(|_, kept| filter.matches(&kept.subject)))
    }
}
