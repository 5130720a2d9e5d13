//! One group of appends: decided in order, committed at once, answered at the end.

use std::collections::HashMap;
use std::sync::Arc;

use omnirun_events::log::{AppendError, Batch, Entry};
use omnirun_events::{CommitId, Sequence, Subject};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Appended;
use crate::cell::{Cell, Refusal};
use crate::error::StoreError;
use crate::head::Head;
use crate::layout;
use crate::read;

/// Appends that are decided and not yet durable.
pub(super) struct Group<'a> {
    cell: &'a Arc<Cell>,
    head: Head,
    rows: sled::Batch,
    bytes: usize,
    accepted: usize,
    /// What this group adds to its subjects, in order.
    added: HashMap<Subject, Vec<(Sequence, CommitId)>>,
    answers: Vec<(Appended, oneshot::Sender<Appended>, OwnedSemaphorePermit)>,
}

/// A group whose fate is known.
pub(super) struct Settled {
    head: Option<Head>,
    answers: Vec<(Appended, oneshot::Sender<Appended>, OwnedSemaphorePermit)>,
}

impl Settled {
    /// The log's head after the group; none if it added nothing.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Tells everybody.
    pub fn answer(self) {
        for (answer, to, place) in self.answers {
            drop(place);
            // Whoever asked may be gone; a retry of the same commit will be told.
            let _ = to.send(answer);
        }
    }
}

impl<'a> Group<'a> {
    pub fn new(cell: &'a Arc<Cell>, head: Head) -> Self {
        Self {
            cell,
            head,
            rows: sled::Batch::default(),
            bytes: 0,
            accepted: 0,
            added: HashMap::new(),
            answers: Vec::new(),
        }
    }

    /// Bytes of records that the group adds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Decides one batch against the log and what the group already holds.
    pub fn decide(&mut self, batch: Batch, to: oneshot::Sender<Appended>, place: OwnedSemaphorePermit) {
        let answer = self.try_add(&batch).unwrap_or_else(|error| Err(self.unknown(error)));
        self.answers.push((answer, to, place));
    }

    fn try_add(&mut self, batch: &Batch) -> Result<Appended, StoreError> {
        if batch.entries().iter().any(|entry| entry.record.len() > layout::RECORD_BYTES_MAX) {
            return Err(StoreError::TooLong);
        }
        let mut earlier = Vec::with_capacity(batch.entries().len());
        for entry in batch.entries() {
            earlier.extend(self.earlier(entry)?);
        }
        if earlier.len() == batch.entries().len() {
            return Ok(Ok(earlier));
        }
        for entry in batch.entries() {
            let actual = self.last(&entry.subject)?;
            if actual != entry.expected {
                return Ok(Err(AppendError::Conflict { subject: entry.subject.clone(), actual }));
            }
        }
        Ok(self.refused().map_or_else(|| Ok(batch.entries().iter().map(|entry| self.add(entry)).collect()), Err))
    }

    /// Why nothing can be added now, if so.
    fn refused(&self) -> Option<AppendError> {
        if let Some(refusal) = self.cell.refusal() {
            return Some(self.after_failure(refusal));
        }
        let free = self.cell.with(|database| Ok(database.free_bytes())).ok()?;
        (free < self.cell.reserve.saturating_add(self.bytes as u64)).then(|| self.full())
    }

    /// The last position of a subject.
    fn last(&self, subject: &Subject) -> Result<Sequence, StoreError> {
        if let Some((sequence, _)) = self.added.get(subject).and_then(|added| added.last()) {
            return Ok(*sequence);
        }
        let found = self.cell.with(|db| db.reading(|tree| read::last_indexed(tree, subject, Sequence(u64::MAX))));
        Ok(found?.unwrap_or_default())
    }

    /// Where this very entry was appended before, if it was: it is the first one after `expected`.
    fn earlier(&self, entry: &Entry) -> Result<Option<Sequence>, StoreError> {
        let next = entry.expected.next();
        let stored =
            self.cell.with(|db| db.reading(|tree| read::first_indexed(tree, &entry.subject, next)))?;
        let added = || self.added.get(&entry.subject)?.iter().find(|(at, _)| *at >= next).copied();
        let first = stored.or_else(added);
        Ok(first.and_then(|(sequence, commit)| (commit == entry.commit).then_some(sequence)))
    }

    fn add(&mut self, entry: &Entry) -> Sequence {
        let Entry { subject, commit, record, .. } = entry;
        let sequence = self.head.sequence.next();
        let crc = layout::record_crc(sequence, commit.as_bytes(), subject.as_str().as_bytes(), record);
        self.head = Head { sequence, chain: self.head.chain.after(crc) };
        for (chunk, row) in layout::record_rows(crc, self.head.chain, commit, subject, record) {
            self.rows.insert(&layout::record_key(sequence, chunk), row);
        }
        self.rows.insert(layout::index_key(subject.as_str(), sequence), commit.as_bytes().as_slice());
        self.added.entry(subject.clone()).or_default().push((sequence, *commit));
        self.bytes += record.len();
        self.accepted += 1;
        sequence
    }

    /// Makes the group durable, or every one of its answers the error that says why not.
    pub fn commit(mut self) -> Settled {
        if self.accepted == 0 {
            return Settled { head: None, answers: self.answers };
        }
        match self.cell.commit(std::mem::take(&mut self.rows)) {
            Ok(()) => Settled { head: Some(self.head), answers: self.answers },
            Err(error) => {
                let text = error.describe();
                let answers = std::mem::take(&mut self.answers).into_iter();
                let answers = answers.map(|(_, to, place)| {
                    (Err(self.unknown(StoreError::Refusing(text.clone()))), to, place)
                });
                Settled { head: None, answers: answers.collect() }
            }
        }
    }

    fn unknown(&self, error: StoreError) -> AppendError {
        AppendError::Unknown { log: self.cell.log, source: error.into() }
    }

    fn full(&self) -> AppendError {
        let remedy = format!(
            "free space on the disk of {}; appends are taken again as soon as {} MiB are free",
            self.cell.dir.display(),
            (self.cell.reserve >> 20) + 1
        );
        AppendError::Full { log: self.cell.log, remedy }
    }

    fn after_failure(&self, refusal: Refusal) -> AppendError {
        if !refusal.is_full {
            return self.unknown(StoreError::Refusing(refusal.text));
        }
        let remedy = format!(
            "the disk of {} ran full during a write; free space there and restart",
            self.cell.dir.display()
        );
        AppendError::Full { log: self.cell.log, remedy }
    }
}
