//! Tombstones, on `sys.erasure`: which records were removed from a log, and where the chains go on. They name positions and hashes only: no
//! subject, no account.
//!
//! A tombstone is appended before anything is removed. From then on the records at its positions count as gone, whether they are still there
//! or not, so that a removal that was cut off reads like one that was finished.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::envelope::RecordHash;
use crate::id::ReceiptId;
use crate::log::Sequence;
use crate::subject::Log;

/// Ranges in one tombstone, at most: with [`STARTS_MAX`] it stays below [`crate::codec::RECORD_BYTES_MAX`].
pub const SPANS_MAX: usize = 4096;

/// Starts of chains in one tombstone, at most.
pub const STARTS_MAX: usize = 2048;

/// Why records were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Their account was erased.
    Account {
        /// Names the erasure, as the person was told.
        receipt: ReceiptId,
    },
    /// They were as old as records of their kind may become.
    Retention,
}

/// Positions without a gap: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span(pub Sequence, pub u64);

impl Span {
    /// The last position; before the first when there are none.
    pub const fn last(self) -> Sequence {
        match self.1 {
            0 => Sequence(self.0.0.saturating_sub(1)),
            count => Sequence(self.0.0.saturating_add(count - 1)),
        }
    }
}

/// Where a chain goes on: number within its subject and hash of the last record that was removed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChainStart(pub u64, pub RecordHash);

/// Records were removed, or are about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsErased {
    /// Why.
    pub cause: Cause,
    /// From which log.
    pub log: Log,
    /// Which, in order.
    pub positions: Vec<Span>,
    /// The last removed record of each subject that is still there, or that somebody may still append to.
    pub starts: Vec<ChainStart>,
}

impl RecordsErased {
    /// The tombstones that are needed for these positions and starts: one, or several where there are more than one may hold. None for nothing.
    pub fn split(cause: Cause, log: Log, positions: &Positions, starts: &[ChainStart]) -> Vec<Self> {
        let spans: Vec<Span> = positions.spans().collect();
        let count = spans.len().div_ceil(SPANS_MAX).max(starts.len().div_ceil(STARTS_MAX));
        let (mut spans, mut starts) = (spans.chunks(SPANS_MAX), starts.chunks(STARTS_MAX));
        let next = |_| Self {
            cause,
            log,
            positions: spans.next().unwrap_or_default().to_vec(),
            starts: starts.next().unwrap_or_default().to_vec(),
        };
        (0..count).map(next).collect()
    }
}

/// A set of positions, kept as ranges that do not touch. First position to last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Positions(BTreeMap<Sequence, Sequence>);

impl Positions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.spans().fold(0, |sum, span| sum.saturating_add(span.1))
    }

    /// The ranges, in order.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.0.iter().map(|(first, last)| Span(*first, last.0.saturating_sub(first.0).saturating_add(1)))
    }

    /// Adds a range, which may overlap with those that are there. An empty one changes nothing.
    pub fn insert(&mut self, span: Span) {
        if span.1 == 0 {
            return;
        }
        let (mut first, mut last) = (span.0, span.last());
        // From the right, every range that touches the new one is taken in.
        while let Some((start, end)) = self.0.range(..=last.next()).next_back() {
            let (start, end) = (*start, *end);
            if end.next() < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// Whether a position is one of them.
    pub fn contains(&self, at: Sequence) -> bool {
        self.covers(at, at)
    }

    /// Whether every position from `first` to `last` is one of them.
    pub fn covers(&self, first: Sequence, last: Sequence) -> bool {
        self.end_of(first).is_some_and(|end| end >= last)
    }

    /// The end of the range that a position is in.
    fn end_of(&self, at: Sequence) -> Option<Sequence> {
        self.0.range(..=at).next_back().map(|(_, end)| *end).filter(|end| *end >= at)
    }

    /// Whether every position of `other` is one of them.
    pub fn covers_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(first, last)| self.covers(*first, *last))
    }
}

impl FromIterator<Sequence> for Positions {
    fn from_iter<T: IntoIterator<Item = Sequence>>(sequences: T) -> Self {
        let mut positions = Self::default();
        sequences.into_iter().for_each(|sequence| positions.insert(Span(sequence, 1)));
        positions
    }
}

/// Everything that tombstones have said so far: the positions that are gone in each log, and where chains go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    positions: BTreeMap<Log, Positions>,
    starts: BTreeSet<ChainStart>,
}

impl Erased {
    /// Takes a believed tombstone in. Twice is once.
    pub fn add(&mut self, tombstone: &RecordsErased) {
        let positions = self.positions.entry(tombstone.log).or_default();
        tombstone.positions.iter().for_each(|span| positions.insert(*span));
        self.starts.extend(&tombstone.starts);
    }

    /// Takes in everything that another one knows.
    pub fn merge(&mut self, other: &Self) {
        for (log, positions) in &other.positions {
            let own = self.positions.entry(*log).or_default();
            positions.spans().for_each(|span| own.insert(span));
        }
        self.starts.extend(&other.starts);
    }

    /// Whether everything that `other` knows is known here.
    pub fn includes(&self, other: &Self) -> bool {
        let knows = |(log, positions): (&Log, &Positions)| {
            positions.is_empty() || self.positions.get(log).is_some_and(|own| own.covers_all(positions))
        };
        other.positions.iter().all(knows) && other.starts.is_subset(&self.starts)
    }

    /// Whether every position of a log from `first` to `last` is gone.
    pub fn covers(&self, log: Log, first: Sequence, last: Sequence) -> bool {
        self.positions.get(&log).is_some_and(|positions| positions.covers(first, last))
    }

    /// The first position of a log from `first` to `last` that is not gone.
    pub fn first_missing(&self, log: Log, first: Sequence, last: Sequence) -> Option<Sequence> {
        let covered = self.positions.get(&log).and_then(|positions| positions.end_of(first));
        let missing = covered.map_or(first, Sequence::next);
        (missing <= last).then_some(missing)
    }

    /// Whether the chain of some subject goes on after this record.
    pub fn starts_after(&self, version: u64, hash: RecordHash) -> bool {
        self.starts.contains(&ChainStart(version, hash))
    }
}

/// Everything that the tombstones of an erasure name has been removed. Until this stands, whoever starts removes it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureFinished {
    /// Names the erasure.
    pub receipt: ReceiptId,
}
