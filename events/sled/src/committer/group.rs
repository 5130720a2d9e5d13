//! One group of appends: decided in order, committed at once, answered at the end.
//!
//! A batch of one record in one row is whole whatever a crash leaves of its group, because sled keeps or loses a row as one and loses the later
//! ones first. A group of only such batches is written in order: record, index, record, index. A crash may then leave a last record
//! without its index row, which the next open adds. Any other group is one batch of sled.

use std::collections::HashMap;
use std::sync::Arc;

use omnirun_events::log::{AppendError, Batch, Entry};
use omnirun_events::{CommitId, Sequence, Subject};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Appended;
use crate::cell::{Cell, Refusal};
use crate::database::Rows;
use crate::error::StoreError;
use crate::head::Head;
use crate::layout;
use crate::read;

/// Appends that are decided and not yet durable.
pub(super) struct Group<'a> {
    cell: &'a Arc<Cell>,
    head: Head,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether some batch takes more than one record row, so that the rows must not be torn apart.
    is_whole: bool,
    bytes: usize,
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
            rows: Vec::new(),
            is_whole: false,
            bytes: 0,
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
        if let Some(refusal) = self.cell.refusal() {
            return Ok(Err(self.after_failure(refusal)));
        }
        let mut earlier = Vec::new();
        let mut moved_on = false;
        for entry in batch.entries() {
            match self.next_after(entry)? {
                Some((sequence, commit)) if commit == entry.commit => earlier.push(sequence),
                None if self.is_there(entry)? => {}
                _ => moved_on = true,
            }
        }
        if earlier.len() == batch.entries().len() {
            return Ok(Ok(earlier));
        }
        if moved_on || !earlier.is_empty() {
            return self.conflict(batch);
        }
        if self.is_full()? {
            return Ok(Err(self.full()));
        }
        self.is_whole |= batch.entries().len() > 1;
        Ok(Ok(batch.entries().iter().map(|entry| self.add(entry)).collect()))
    }

    /// Whether adding would eat into the disk's reserve.
    fn is_full(&self) -> Result<bool, StoreError> {
        let free = self.cell.with(|database| Ok(database.free_bytes()))?;
        Ok(free < self.cell.reserve.saturating_add(self.bytes as u64))
    }

    /// The first subject of a batch that is not where the batch expects it.
    fn conflict(&self, batch: &Batch) -> Result<Appended, StoreError> {
        for entry in batch.entries() {
            let actual = self.last(&entry.subject)?;
            if actual != entry.expected {
                return Ok(Err(AppendError::Conflict { subject: entry.subject.clone(), actual }));
            }
        }
        Err(StoreError::Damaged(self.head.sequence, "the index of subjects contradicts itself".to_owned()))
    }

    /// The last position of a subject.
    fn last(&self, subject: &Subject) -> Result<Sequence, StoreError> {
        if let Some((sequence, _)) = self.added.get(subject).and_then(|added| added.last()) {
            return Ok(*sequence);
        }
        let last = |tree: &sled::Tree| read::last_indexed(tree, subject, Sequence(u64::MAX));
        Ok(self.cell.with(|db| db.reading(last))?.unwrap_or_default())
    }

    /// The first record of an entry's subject after what it expects. If it has the entry's commit, the entry was appended before.
    fn next_after(&self, entry: &Entry) -> Result<Option<(Sequence, CommitId)>, StoreError> {
        let next = entry.expected.next();
        let stored = |tree: &sled::Tree| read::first_indexed(tree, &entry.subject, next);
        let added = || self.added.get(&entry.subject)?.iter().find(|(at, _)| *at >= next).copied();
        Ok(self.cell.with(|db| db.reading(stored))?.or_else(added))
    }

    /// Whether what an entry expects is a record of its subject, or rightly none.
    fn is_there(&self, entry: &Entry) -> Result<bool, StoreError> {
        let Entry { subject, expected, .. } = entry;
        let is_added =
            || self.added.get(subject).is_some_and(|added| added.iter().any(|(at, _)| at == expected));
        if *expected == Sequence::NONE || is_added() {
            return Ok(true);
        }
        let key = layout::index_key(subject.as_str(), *expected);
        self.cell.with(|db| db.reading(|tree| Ok(tree.contains_key(key)?)))
    }

    fn add(&mut self, entry: &Entry) -> Sequence {
        let Entry { subject, commit, record, .. } = entry;
        let sequence = self.head.sequence.next();
        let crc = layout::record_crc(sequence, commit.as_bytes(), subject.as_str().as_bytes(), record);
        self.head = Head { sequence, chain: self.head.chain.after(crc) };
        let rows = layout::record_rows(crc, self.head.chain, commit, subject, record);
        self.is_whole |= rows.len() > 1;
        let rows = rows.into_iter().map(|(chunk, row)| (layout::record_key(sequence, chunk).to_vec(), row));
        self.rows.extend(rows);
        self.rows.push((layout::index_key(subject.as_str(), sequence), commit.as_bytes().to_vec()));
        self.added.entry(subject.clone()).or_default().push((sequence, *commit));
        self.bytes += record.len();
        sequence
    }

    /// Makes the group durable, or every one of its answers the error that says why not.
    pub fn commit(mut self) -> Settled {
        if self.rows.is_empty() {
            return Settled { head: None, answers: self.answers };
        }
        let rows = std::mem::take(&mut self.rows);
        match self.cell.commit(if self.is_whole { whole(rows) } else { Rows::InOrder(rows) }) {
            Ok(()) => Settled { head: Some(self.head), answers: self.answers },
            Err(error) => {
                let text = error.describe();
                let answers = std::mem::take(&mut self.answers).into_iter();
                let answers = answers
                    .map(|(_, to, place)| (Err(self.unknown(StoreError::Refusing(text.clone()))), to, place));
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

fn whole(rows: Vec<(Vec<u8>, Vec<u8>)>) -> Rows {
    let mut batch = sled::Batch::default();
    for (key, value) in rows {
        batch.insert(key, value);
    }
    Rows::Whole(batch)
}
