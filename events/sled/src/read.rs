//! Reading: rows to records, the last record of a subject, one step of a scan. Cursors are in [`cursor`].
//!
//! Reads of sled block. They run on the caller's task in steps of at most [`STEP_ROWS`] rows (well under a millisecond when cached) with
//! a yield between steps, so that a long scan for few records does not hold up others; nothing is handed to other threads.
//! Nothing beyond the acknowledged position is ever read out, though sled would already show it.

use bytes::BytesMut;
use omnirun_events::log::{Position, ReadError};
use omnirun_events::{CommitId, Filter, Log, Sequence, Stored, Subject};

use crate::cell::Cell;
use crate::error::StoreError;
use crate::layout::{self, First, RecordHeader};

pub(crate) mod cursor;

/// Rows that are read without letting other tasks run.
pub(crate) const STEP_ROWS: usize = 1024;
/// Bytes of records after which a page ends early: 16 of the longest ones.
pub(crate) const PAGE_BYTES_MAX: usize = 16 * layout::RECORD_BYTES_MAX;

/// Memory that the records of a scan share. Whoever keeps one of them keeps its neighbours' bytes too, so this is little; what it saves is an
/// allocation for each record, which its reader would often free on another thread.
const SHARED_BYTES: usize = 32 << 10;

/// An error of the store as readers know it.
pub(crate) fn read_error(log: Log, error: StoreError) -> ReadError {
    let corrupt = |sequence, what| ReadError::Corrupt { at: Position { log, sequence }, what };
    match error {
        StoreError::Damaged(sequence, what) => corrupt(sequence, what),
        other => ReadError::Unavailable { log, source: other.into() },
    }
}

/// The last position of a subject that is at most `until`, by the index.
pub(crate) fn last_indexed(
    tree: &sled::Tree,
    subject: &Subject,
    until: Sequence,
) -> Result<Option<Sequence>, StoreError> {
    let range =
        layout::index_key(subject.as_str(), Sequence::NONE)..=layout::index_key(subject.as_str(), until);
    let Some(row) = tree.range(range).next_back() else { return Ok(None) };
    Ok(layout::parse_index_key(&row?.0).map(|(_, sequence)| sequence))
}

/// Position and commit of the first record of a subject that is at least `from`, by the index.
pub(crate) fn first_indexed(
    tree: &sled::Tree,
    subject: &Subject,
    from: Sequence,
) -> Result<Option<(Sequence, CommitId)>, StoreError> {
    let range =
        layout::index_key(subject.as_str(), from)..=layout::index_key(subject.as_str(), Sequence(u64::MAX));
    let Some(row) = tree.range(range).next() else { return Ok(None) };
    let (key, commit) = row?;
    let sequence = layout::parse_index_key(&key).map(|(_, sequence)| sequence);
    let commit = commit.as_ref().try_into().map(CommitId::from_bytes);
    Ok(sequence.zip(commit.ok()))
}

/// The record at a position, none if it was purged or never was.
pub(crate) fn fetch(tree: &sled::Tree, sequence: Sequence) -> Result<Option<Stored>, StoreError> {
    let Some(row) = tree.get(layout::record_key(sequence, 0))? else { return Ok(None) };
    match layout::parse_first(sequence, &row) {
        None => Err(StoreError::Damaged(sequence, "the record is unreadable".to_owned())),
        Some(First::Mark(_)) => Ok(None),
        Some(First::Record(header)) => {
            let mut own = BytesMut::with_capacity(header.length);
            assemble(tree, sequence, &row, &header, &mut own)
        }
    }
}

/// Puts a record together from its rows, at the end of `memory`. None if a purge removed it meanwhile.
fn assemble(
    tree: &sled::Tree,
    sequence: Sequence,
    row: &sled::IVec,
    header: &RecordHeader<'_>,
    memory: &mut BytesMut,
) -> Result<Option<Stored>, StoreError> {
    memory.reserve(header.length);
    memory.extend_from_slice(header.start);
    let mut record = memory.split();
    let mut chunk = 1;
    while record.len() < header.length {
        let Some(next) = tree.get(layout::record_key(sequence, chunk))? else { break };
        record.extend_from_slice(&next);
        chunk += 1;
    }
    let crc = layout::record_crc(sequence, header.commit, header.subject, &record);
    let subject = std::str::from_utf8(header.subject).ok().and_then(|text| text.parse().ok());
    match subject {
        Some(subject) if crc == header.crc && record.len() == header.length => {
            Ok(Some(Stored { sequence, subject, record: record.freeze() }))
        }
        _ if tree.get(layout::record_key(sequence, 0))?.as_ref() != Some(row) => Ok(None),
        _ => Err(StoreError::Damaged(sequence, "the record's check sum does not match".to_owned())),
    }
}

/// The last record of a subject that is acknowledged.
pub(crate) fn last(cell: &Cell, subject: &Subject) -> Result<Option<Stored>, StoreError> {
    let committed = cell.committed();
    cell.with(|db| {
        db.reading(|tree| match last_indexed(tree, subject, committed)? {
            Some(sequence) => fetch(tree, sequence),
            None => Ok(None),
        })
    })
}

/// Records that one step of a scan found.
pub(crate) struct Step {
    pub records: Vec<Stored>,
    /// Everything up to here was looked at.
    pub through: Sequence,
    /// There was nothing acknowledged left to look at.
    pub is_end: bool,
}

/// Looks at some records after `after`, in order, and keeps at most `room` that the filter takes.
pub(crate) fn step(cell: &Cell, filter: &Filter, after: Sequence, room: usize) -> Result<Step, StoreError> {
    let committed = cell.committed();
    let mut step = Step { records: Vec::new(), through: after, is_end: false };
    if after >= committed {
        step.is_end = true;
        return Ok(step);
    }
    cell.with(|db| {
        db.reading(|tree| {
            scan(tree, filter, committed, room, &mut step)?;
            Ok(())
        })
    })?;
    Ok(step)
}

fn scan(
    tree: &sled::Tree,
    filter: &Filter,
    committed: Sequence,
    room: usize,
    step: &mut Step,
) -> Result<(), StoreError> {
    let range = layout::record_key(step.through.next(), 0)..=layout::record_key(committed, u16::MAX);
    let mut memory = BytesMut::with_capacity(SHARED_BYTES);
    step.records.reserve(room.min(STEP_ROWS));
    let mut bytes = 0;
    let mut rows = 0;
    for row in tree.range(range).take(STEP_ROWS) {
        let (key, value) = row?;
        rows += 1;
        let unreadable = || StoreError::Damaged(step.through.next(), "a row's key is unreadable".to_owned());
        let (sequence, chunk) = layout::parse_record_key(&key).ok_or_else(unreadable)?;
        if chunk > 0 {
            continue;
        }
        match layout::parse_first(sequence, &value) {
            None => return Err(StoreError::Damaged(sequence, "the record is unreadable".to_owned())),
            Some(First::Mark(mark)) => step.through = mark.through.min(committed),
            Some(First::Record(header)) => {
                let wanted = std::str::from_utf8(header.subject).is_ok_and(|subject| filter.takes(subject));
                if wanted && let Some(stored) = assemble(tree, sequence, &value, &header, &mut memory)? {
                    bytes += stored.record.len();
                    step.records.push(stored);
                }
                step.through = sequence;
            }
        }
        if step.records.len() == room || bytes >= PAGE_BYTES_MAX {
            return Ok(());
        }
    }
    if rows < STEP_ROWS {
        // No rows are left: what is between the last one and the acknowledged position was purged a moment ago.
        step.through = step.through.max(committed);
    }
    step.is_end = step.through >= committed;
    Ok(())
}
