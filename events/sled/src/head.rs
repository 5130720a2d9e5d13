//! The head of a log, kept outside sled: the last acknowledged position and the chain there.
//!
//! Two slots, 4096 bytes apart so that a torn write hits one only, written in turn after the data is durable; the newer readable one
//! counts. Its own fdatasync runs at most once a second and on close, not per group: until then a power cut may leave an older head, which
//! still proves everything up to it. A killed process loses nothing of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use omnirun_events::{Log, Sequence};

use crate::error::{OpenError, io_error};
use crate::layout::Chain;

/// Distance of the two slots: a page, the unit that is written at once.
const SLOT_DISTANCE: u64 = 4096;
/// Bytes of a slot: magic 8, turn 8, sequence 8, chain 4, crc 4.
const SLOT_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"omnihd01";

/// How far a log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub sequence: Sequence,
    pub chain: Chain,
}

impl Head {
    /// The head of a new log.
    pub fn start(log: Log) -> Self {
        Self { sequence: Sequence::NONE, chain: Chain::start(log) }
    }
}

/// The open file of a head.
pub(crate) struct HeadFile {
    file: File,
    turn: u64,
    is_synced: bool,
}

/// Where the head of `log` is.
pub(crate) fn head_path(dir: &Path, log: Log) -> PathBuf {
    dir.join(format!("head-{log}"))
}

impl HeadFile {
    /// Makes the file for a log that has no records yet; durable when it returns.
    pub fn create(dir: &Path, log: Log) -> Result<Self, OpenError> {
        let path = head_path(dir, log);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let mut head = Self { file: file.map_err(io_error("create", &path))?, turn: 0, is_synced: false };
        head.file.set_len(2 * SLOT_DISTANCE).map_err(io_error("extend", &path))?;
        head.write(Head::start(log)).map_err(io_error("write", &path))?;
        head.file.sync_all().map_err(io_error("sync", &path))?;
        head.is_synced = true;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))?;
        Ok(head)
    }

    /// Opens the file and reads the newer slot; no file is none.
    pub fn open(dir: &Path, log: Log) -> Result<Option<(Self, Head)>, OpenError> {
        let path = head_path(dir, log);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_error("open", &path))?,
        };
        let slots = [0, SLOT_DISTANCE].map(|offset| {
            let mut slot = [0; SLOT_BYTES];
            file.read_exact_at(&mut slot, offset).ok()?;
            parse(&slot)
        });
        let newest = slots.into_iter().flatten().max_by_key(|(turn, _)| *turn);
        let (turn, head) = newest.ok_or(OpenError::Head { log, file: path, what: "unreadable" })?;
        Ok(Some((Self { file, turn, is_synced: false }, head)))
    }

    /// Writes the next slot. Not durable yet, but safe from the process being killed.
    pub fn write(&mut self, head: Head) -> io::Result<()> {
        self.turn += 1;
        self.is_synced = false;
        self.file.write_all_at(&slot(self.turn, head), (self.turn % 2) * SLOT_DISTANCE)
    }

    /// Makes what was written durable; answers whether there was anything to do.
    pub fn sync(&mut self) -> io::Result<bool> {
        if self.is_synced {
            return Ok(false);
        }
        self.file.sync_data()?;
        self.is_synced = true;
        Ok(true)
    }

    /// Whether everything written is durable.
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }
}

fn slot(turn: u64, head: Head) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&turn.to_le_bytes());
    slot[16..24].copy_from_slice(&head.sequence.0.to_le_bytes());
    slot[24..28].copy_from_slice(&head.chain.0.to_le_bytes());
    let crc = crc32fast::hash(&slot[..28]);
    slot[28..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn parse(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Head)> {
    let word = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    let is_whole = slot.starts_with(MAGIC) && half(28) == crc32fast::hash(&slot[..28]);
    is_whole.then(|| (word(8), Head { sequence: Sequence(word(16)), chain: Chain(half(24)) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_readable_slot_counts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut file = HeadFile::create(dir.path(), Log::Events).expect("the directory is ours");
        let heads = [1, 2, 3].map(|n| Head { sequence: Sequence(n), chain: Chain(n as u32 * 7) });
        for head in heads {
            file.write(head).expect("there is space");
        }
        let read = || HeadFile::open(dir.path(), Log::Events).map(|found| found.expect("it is there").1);
        assert_eq!(read().expect("whole"), heads[2]);
        let damage = |offset| file.file.write_all_at(b"x", offset).expect("there is space");
        // Three writes after the first one: turn 4 is in slot 0, turn 3 in slot 1.
        damage(20);
        assert_eq!(read().expect("one slot is whole"), heads[1]);
        damage(SLOT_DISTANCE + 20);
        assert!(matches!(read(), Err(OpenError::Head { what: "unreadable", .. })));
    }
}
