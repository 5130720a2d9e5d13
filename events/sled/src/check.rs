//! The check at open: records, index and head must tell one story, or the log is not served.
//!
//! One scan over the records (positions without gaps but for purge marks, each check sum, the chain) and one over the index. Whether
//! those two agree is decided by a sum of hashes that does not depend on the order; only when it differs are rows looked up one by one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use omnirun_events::{Log, Sequence};

use crate::error::StoreError;
use crate::head::Head;
use crate::layout::{self, Chain, First, INDEX_ROWS, Mark, RECORDS};

/// Where a log stops being what was acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub at: Sequence,
    pub what: &'static str,
}

/// What the records say about themselves.
pub(crate) struct Findings {
    /// Last position and chain there.
    pub head: Head,
    /// Whether there has ever been a record.
    pub is_new: bool,
    /// Index rows that a crash cut off from records which nobody was told about; to be written before the log is served.
    pub unindexed: Vec<Row>,
}

/// Key and value.
type Row = (Vec<u8>, Vec<u8>);

/// Checks a log against the head that was kept outside it, none if its file is missing.
///
/// The records may go on beyond the head: a group whose answer was never sent may still have reached the disk.
pub(crate) fn check(
    tree: &sled::Tree,
    log: Log,
    kept: Option<Head>,
) -> Result<Result<Findings, Damage>, StoreError> {
    let hasher = RandomState::new();
    let mut walk = Walk::new(log, kept, &hasher);
    for row in tree.scan_prefix(RECORDS) {
        let (key, value) = row?;
        if let Err(damage) = walk.row(&key, &value) {
            return Ok(Err(damage));
        }
    }
    let (head, sum, beyond) = match walk.end() {
        Ok(found) => found,
        Err(damage) => return Ok(Err(damage)),
    };
    let until = kept.map_or(Sequence(u64::MAX), |kept| kept.sequence);
    let (indexed, indexed_beyond) = index_sum(tree, &hasher, until)?;
    let mut unindexed = Vec::new();
    let beyond_count = beyond.len() as u64;
    for (key, commit) in beyond {
        match tree.get(&key)? {
            Some(indexed) if indexed == commit => {}
            _ => unindexed.push((key, commit)),
        }
    }
    if indexed != sum || indexed_beyond + unindexed.len() as u64 != beyond_count {
        let at = first_disagreement(tree, until)?.unwrap_or(Sequence(1));
        return Ok(Err(Damage { at, what: "the index of subjects does not agree with the records" }));
    }
    Ok(Ok(Findings { head, is_new: head == Head::start(log), unindexed }))
}

/// Count and order-independent sum of (subject, position, commit).
type IndexSum = (u64, u64);

struct Walk<'a> {
    hasher: &'a RandomState,
    kept: Option<Head>,
    next: Sequence,
    chain: Chain,
    sum: IndexSum,
    /// Index rows that the records beyond the kept head must have.
    beyond: Vec<Row>,
    /// The record whose rows are being read.
    open: Option<Open>,
}

struct Open {
    sequence: Sequence,
    crc: u32,
    hasher: crc32fast::Hasher,
    missing: usize,
    next_chunk: u16,
}

impl<'a> Walk<'a> {
    fn new(log: Log, kept: Option<Head>, hasher: &'a RandomState) -> Self {
        let Head { sequence, chain } = Head::start(log);
        Self { hasher, kept, next: sequence.next(), chain, sum: (0, 0), beyond: Vec::new(), open: None }
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let damaged = |at, what| Err(Damage { at, what });
        let Some((sequence, chunk)) = layout::parse_record_key(key) else {
            return damaged(self.next, "a row's key is unreadable");
        };
        if chunk > 0 {
            return self.chunk(sequence, chunk, value);
        }
        self.close()?;
        if sequence != self.next {
            return damaged(self.next, "the record is missing");
        }
        match layout::parse_first(sequence, value) {
            None => damaged(sequence, "the record is unreadable"),
            Some(First::Mark(mark)) => self.mark(mark),
            Some(First::Record(header)) => {
                if self.chain.after(header.crc) != header.chain {
                    return damaged(sequence, "the record does not follow the one before it");
                }
                self.chain = header.chain;
                self.next = sequence.next();
                self.expect_indexed(sequence, &header)?;
                self.compare_with_head(sequence)?;
                self.open = Some(Open::new(sequence, &header)?);
                Ok(())
            }
        }
    }

    fn expect_indexed(
        &mut self,
        sequence: Sequence,
        header: &layout::RecordHeader<'_>,
    ) -> Result<(), Damage> {
        if self.kept.is_some_and(|kept| sequence > kept.sequence) {
            let unreadable = |_| Damage { at: sequence, what: "the record names no subject" };
            let subject = std::str::from_utf8(header.subject).map_err(unreadable)?;
            self.beyond.push((layout::index_key(subject, sequence), header.commit.to_vec()));
            return Ok(());
        }
        let hash = self.hasher.hash_one((header.subject, sequence, &header.commit[..]));
        self.sum = (self.sum.0 + 1, self.sum.1.wrapping_add(hash));
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Damage> {
        self.chain = mark.chain;
        self.next = mark.through.next();
        self.compare_with_head(mark.through)
    }

    fn chunk(&mut self, sequence: Sequence, chunk: u16, value: &[u8]) -> Result<(), Damage> {
        match &mut self.open {
            Some(open) if (open.sequence, open.next_chunk) == (sequence, chunk) => open.take(value),
            _ => {
                Err(Damage { at: self.next.min(sequence), what: "a part of a record is without the others" })
            }
        }
    }

    fn close(&mut self) -> Result<(), Damage> {
        self.open.take().map_or(Ok(()), Open::close)
    }

    fn compare_with_head(&self, at: Sequence) -> Result<(), Damage> {
        match self.kept {
            Some(kept) if kept.sequence == at && kept.chain != self.chain => {
                Err(Damage { at, what: "the log up to here is not the one that the head file knows" })
            }
            _ => Ok(()),
        }
    }

    fn end(mut self) -> Result<(Head, IndexSum, Vec<Row>), Damage> {
        self.close()?;
        match self.kept {
            Some(kept) if kept.sequence >= self.next => Err(Damage {
                at: self.next,
                what: "the log ends before it, and the head file knows that there was more",
            }),
            _ => {
                let head = Head { sequence: Sequence(self.next.0 - 1), chain: self.chain };
                Ok((head, self.sum, self.beyond))
            }
        }
    }
}

impl Open {
    fn new(sequence: Sequence, header: &layout::RecordHeader<'_>) -> Result<Self, Damage> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&sequence.0.to_le_bytes());
        hasher.update(header.commit);
        hasher.update(header.subject);
        let missing = header.length;
        let mut open = Self { sequence, crc: header.crc, hasher, missing, next_chunk: 0 };
        open.take(header.start)?;
        Ok(open)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        self.hasher.update(bytes);
        self.next_chunk += 1;
        let too_long = Damage { at: self.sequence, what: "the record is longer than it says" };
        self.missing = self.missing.checked_sub(bytes.len()).ok_or(too_long)?;
        Ok(())
    }

    fn close(self) -> Result<(), Damage> {
        let what = match (self.missing, self.hasher.finalize() == self.crc) {
            (0, true) => return Ok(()),
            (0, false) => "the record's check sum does not match",
            _ => "the record is shorter than it says",
        };
        Err(Damage { at: self.sequence, what })
    }
}

/// The sum of the index up to a position, and how many rows are beyond it.
fn index_sum(
    tree: &sled::Tree,
    hasher: &RandomState,
    until: Sequence,
) -> Result<(IndexSum, u64), StoreError> {
    let mut sum: IndexSum = (0, 0);
    let mut beyond = 0;
    for row in tree.scan_prefix(INDEX_ROWS) {
        let (key, commit) = row?;
        let parsed = layout::parse_index_key(&key);
        if parsed.is_some_and(|(_, sequence)| sequence > until) {
            beyond += 1;
            continue;
        }
        let hash = parsed
            .map_or(0, |(subject, sequence)| hasher.hash_one((subject.as_bytes(), sequence, &commit[..])));
        sum = (sum.0 + 1, sum.1.wrapping_add(hash));
    }
    Ok((sum, beyond))
}

/// The first position that one of the two scans has and the other has not or differently. Records beyond `until` may lack their index row.
fn first_disagreement(tree: &sled::Tree, until: Sequence) -> Result<Option<Sequence>, StoreError> {
    let mut indexed = HashMap::new();
    let mut first = None;
    let mut note = |at: Sequence| first = Some(first.map_or(at, |known: Sequence| known.min(at)));
    for row in tree.scan_prefix(INDEX_ROWS) {
        let (key, commit) = row?;
        let Some((subject, sequence)) = layout::parse_index_key(&key) else { continue };
        if indexed.insert(sequence, (subject.to_owned(), commit)).is_some() {
            note(sequence);
        }
    }
    for row in tree.scan_prefix(RECORDS) {
        let (key, value) = row?;
        let Some((sequence, 0)) = layout::parse_record_key(&key) else { continue };
        let Some(First::Record(header)) = layout::parse_first(sequence, &value) else { continue };
        let is_same = indexed.remove(&sequence).map(|(subject, commit)| {
            subject.as_bytes() == header.subject && commit == header.commit.as_slice()
        });
        if !is_same.unwrap_or(sequence > until) {
            note(sequence);
        }
    }
    indexed.into_keys().for_each(note);
    Ok(first)
}
