//! What the rows of a log's tree are: keys, values, check sums. No sled here, no files.
//!
//! ```text
//! R <position> 0000          record: crc, chain, commit, length, subject, first bytes
//! R <position> 0001 …        the record's other bytes, CHUNK each
//! R <position> 0000          or a purge mark: everything from here through its end is gone, and the chain there
//! S <subject> 00 <position>  index: the commit of that record
//! Q <group> 00 F             consumer group: all up to a floor is acknowledged; its filter
//! Q <group> 00 A <position>  acknowledged above the floor
//! ```
//!
//! Positions are 8 bytes big-endian, so that key order is log order. `crc` is CRC-32 (IEEE) over position, commit, subject and bytes;
//! `chain` is CRC-32 over the previous record's chain and this `crc`, from a start that depends on the log's name. That finds what
//! disks and a broken store do: rows missing, old, swapped or flipped (a random change passes with 2^-32). It is no proof against a
//! forger and need not be: records are signed and linked by SHA-256 per subject, which readers verify.

use bytes::Bytes;
use omnirun_events::{CommitId, Log, Sequence, Subject};

/// Bytes of the longest record that a store takes: the same limit as on a server.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a record that one row holds. sled moves a value to a file of its own above a quarter of its segment (128 KiB of 512), and
/// its leaves hold up to about twenty rows, which are rewritten as one value: 20 × 4 KiB stays below that, so such files never occur.
pub(crate) const CHUNK: usize = 4096;

const RECORD: u8 = b'R';
const INDEX: u8 = b'S';
const PROGRESS: u8 = b'Q';

/// First byte of a value under a position.
const KIND_RECORD: u8 = 1;
const KIND_MARK: u8 = 2;

/// Bytes before the subject in a record's first row: kind, crc, chain, commit, length, length of the subject.
const FIXED: usize = 1 + 4 + 4 + 16 + 4 + 1;

/// A running check sum over a log's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain(pub u32);

impl Chain {
    /// The chain before the first record of `log`.
    pub fn start(log: Log) -> Self {
        Self(crc32fast::hash(format!("omnirun/sled/v1 {log}").as_bytes()))
    }

    /// The chain after a record with this check sum.
    pub fn after(self, crc: u32) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.0.to_le_bytes());
        hasher.update(&crc.to_le_bytes());
        Self(hasher.finalize())
    }
}

/// The check sum of one record.
pub(crate) fn record_crc(sequence: Sequence, commit: &[u8], subject: &[u8], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.0.to_le_bytes());
    hasher.update(commit);
    hasher.update(subject);
    hasher.update(record);
    hasher.finalize()
}

/// The key of a record's row.
pub(crate) fn record_key(sequence: Sequence, chunk: u16) -> [u8; 11] {
    let mut key = [RECORD; 11];
    key[1..9].copy_from_slice(&sequence.0.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Position and chunk of a record's key.
pub(crate) fn parse_record_key(key: &[u8]) -> Option<(Sequence, u16)> {
    let (sequence, chunk) = key.strip_prefix(&[RECORD])?.split_first_chunk::<8>()?;
    Some((Sequence(u64::from_be_bytes(*sequence)), u16::from_be_bytes(chunk.try_into().ok()?)))
}

/// Every record's and mark's rows.
pub(crate) const RECORDS: &[u8] = &[RECORD];
/// Every index row.
pub(crate) const INDEX_ROWS: &[u8] = &[INDEX];
/// Every row of consumer progress.
pub(crate) const PROGRESS_ROWS: &[u8] = &[PROGRESS];

/// The index key of a record.
pub(crate) fn index_key(subject: &str, sequence: Sequence) -> Vec<u8> {
    let mut key = index_prefix(subject);
    key.push(0);
    key.extend(sequence.0.to_be_bytes());
    key
}

/// What the index keys of subjects that begin with `text` begin with.
pub(crate) fn index_prefix(text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(text.len() + 10);
    key.push(INDEX);
    key.extend(text.as_bytes());
    key
}

/// Subject and position of an index key.
pub(crate) fn parse_index_key(key: &[u8]) -> Option<(&str, Sequence)> {
    let (rest, sequence) = key.strip_prefix(&[INDEX])?.split_last_chunk::<8>()?;
    let subject = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    Some((subject, Sequence(u64::from_be_bytes(*sequence))))
}

/// The key of a consumer group's floor.
pub(crate) fn floor_key(group: &str) -> Vec<u8> {
    [&[PROGRESS], group.as_bytes(), &[0, b'F']].concat()
}

/// What the keys of a group's acknowledgements above its floor begin with.
pub(crate) fn acknowledged_prefix(group: &str) -> Vec<u8> {
    [&[PROGRESS], group.as_bytes(), &[0, b'A']].concat()
}

/// The key of one acknowledgement above the floor.
pub(crate) fn acknowledged_key(group: &str, sequence: Sequence) -> Vec<u8> {
    [acknowledged_prefix(group).as_slice(), &sequence.0.to_be_bytes()].concat()
}

/// The floor and filter of a group, as a value.
pub(crate) fn floor_value(floor: Sequence, filter: &str) -> Vec<u8> {
    [&floor.0.to_be_bytes(), filter.as_bytes()].concat()
}

/// Reads [`floor_value`].
pub(crate) fn parse_floor(value: &[u8]) -> Option<(Sequence, &str)> {
    let (floor, filter) = value.split_first_chunk::<8>()?;
    Some((Sequence(u64::from_be_bytes(*floor)), std::str::from_utf8(filter).ok()?))
}

/// The first row of a record.
pub(crate) struct RecordHeader<'a> {
    pub crc: u32,
    pub chain: Chain,
    pub commit: &'a [u8; 16],
    pub length: usize,
    pub subject: &'a [u8],
    /// The record's first bytes, up to [`CHUNK`].
    pub start: &'a [u8],
}

/// A purge mark: what its position and the ones through `through` were is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub through: Sequence,
    /// The chain after `through`.
    pub chain: Chain,
}

/// What a row with chunk 0 says.
pub(crate) enum First<'a> {
    Record(RecordHeader<'a>),
    Mark(Mark),
}

/// The rows of a record: the first one and the others, with their chunk numbers.
pub(crate) fn record_rows(
    crc: u32,
    chain: Chain,
    commit: &CommitId,
    subject: &Subject,
    record: &Bytes,
) -> Vec<(u16, Vec<u8>)> {
    let subject = subject.as_str().as_bytes();
    let (start, rest) = record.split_at(record.len().min(CHUNK));
    let mut first = Vec::with_capacity(FIXED + subject.len() + start.len());
    first.push(KIND_RECORD);
    first.extend(crc.to_le_bytes());
    first.extend(chain.0.to_le_bytes());
    first.extend(commit.as_bytes());
    first.extend((record.len() as u32).to_le_bytes());
    first.push(subject.len() as u8);
    first.extend(subject);
    first.extend(start);
    let others = rest.chunks(CHUNK).zip(1..).map(|(chunk, number)| (number, chunk.to_vec()));
    std::iter::once((0, first)).chain(others).collect()
}

/// The row of a purge mark at `from`.
pub(crate) fn mark_row(from: Sequence, mark: Mark) -> Vec<u8> {
    let mut row = vec![KIND_MARK];
    row.extend(mark.through.0.to_le_bytes());
    row.extend(mark.chain.0.to_le_bytes());
    row.extend(mark_crc(from, mark).to_le_bytes());
    row
}

fn mark_crc(from: Sequence, mark: Mark) -> u32 {
    record_crc(from, &mark.through.0.to_le_bytes(), &mark.chain.0.to_le_bytes(), b"purged")
}

/// Reads a row with chunk 0; none if it is nothing that this crate wrote.
pub(crate) fn parse_first(sequence: Sequence, row: &[u8]) -> Option<First<'_>> {
    let (kind, rest) = row.split_first()?;
    match *kind {
        KIND_RECORD => {
            let (crc, rest) = rest.split_first_chunk::<4>()?;
            let (chain, rest) = rest.split_first_chunk::<4>()?;
            let (commit, rest) = rest.split_first_chunk::<16>()?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (subject_length, rest) = rest.split_first()?;
            let (subject, start) = rest.split_at_checked(usize::from(*subject_length))?;
            Some(First::Record(RecordHeader {
                crc: u32::from_le_bytes(*crc),
                chain: Chain(u32::from_le_bytes(*chain)),
                commit,
                length: u32::from_le_bytes(*length) as usize,
                subject,
                start,
            }))
        }
        KIND_MARK => {
            let (through, rest) = rest.split_first_chunk::<8>()?;
            let (chain, crc) = rest.split_first_chunk::<4>()?;
            let mark = Mark {
                through: Sequence(u64::from_le_bytes(*through)),
                chain: Chain(u32::from_le_bytes(*chain)),
            };
            let is_whole = crc == mark_crc(sequence, mark).to_le_bytes() && mark.through >= sequence;
            is_whole.then_some(First::Mark(mark))
        }
        _ => None,
    }
}
