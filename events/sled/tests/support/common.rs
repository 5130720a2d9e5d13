//! What the tests of the store share: subjects, entries, opening, copying directories.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::Path;

use omnirun_events::log::{Append, Batch, ConsumerName, Entry};
use omnirun_events::{AccountId, CommitId, Mebibytes, SandboxId, Sequence, Slot, Subject, SubjectKind};
use omnirun_sled::{Options, SledLog};

pub const GROUP: ConsumerName = ConsumerName("faults");

/// A sandbox's subject; `n` tells them apart.
pub fn subject(n: u8) -> Subject {
    SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
}

/// A usage subject in slot 0.
pub fn usage_subject(n: u8) -> Subject {
    let slot = Slot::from_index(0).expect("there is a first slot");
    SubjectKind::Usage(slot, AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
}

/// An entry whose commit follows from subject and number.
pub fn entry(subject: Subject, expected: Sequence, n: usize, record: Vec<u8>) -> Entry {
    let commit = CommitId::derive(&(n as u64).to_le_bytes(), subject.as_str());
    Entry { subject, expected, commit, record: record.into() }
}

/// A batch of one.
pub fn one(subject: Subject, expected: Sequence, n: usize, record: Vec<u8>) -> Batch {
    Batch::one(entry(subject, expected, n, record))
}

/// No reserve, so that the size of the disk the tests run on does not matter.
pub fn options() -> Options {
    Options { cache: Mebibytes(32), reserve: Mebibytes(0) }
}

/// Opens a directory that must open.
pub fn open(dir: &Path) -> SledLog {
    SledLog::open(dir, options()).expect("the directory is whole")
}

/// Appends `count` records, each on a subject of its own or on one that exists, and closes.
pub async fn fill(dir: &Path, count: usize) {
    let log = open(dir);
    for n in 0..count {
        let subject = subject(n as u8);
        let last = omnirun_events::log::Read::last(&log, &subject).await.expect("up");
        let expected = last.map(|stored| stored.sequence).unwrap_or_default();
        log.append_all(one(subject, expected, n, vec![n as u8; 300])).await.expect("up");
    }
}

/// Copies a directory with what is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the target can be made");
    for entry in fs::read_dir(from).expect("the source is there") {
        let entry = entry.expect("the source is readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("there is space");
        }
    }
}

/// A deterministic source of numbers (xorshift64*), so that a failing round can be repeated.
pub struct Dice(u64);

impl Dice {
    /// Dice that begin at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }
}
