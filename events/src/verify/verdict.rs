//! What is found of a record.

use serde::Serialize;

use crate::codec::DecodeError;
use crate::envelope::{Record, Role};
use crate::id::KeyId;
use crate::log::Position;
use crate::subject::Subject;

/// Damage or forgery in the log, with the first bad position.
#[derive(Debug, thiserror::Error)]
#[error("record at {at} cannot be believed")]
pub struct Fault {
    /// Where.
    pub at: Position,
    /// What is wrong.
    #[source]
    pub kind: FaultKind,
}

impl Fault {
    /// Whether a tombstone that the reader has not seen yet may explain it: the records before this one may have been removed while it was
    /// reading. It reads the tombstones and checks once more.
    pub fn may_be_erasure(&self) -> bool {
        matches!(self.kind, FaultKind::Gap { .. } | FaultKind::Chain { .. })
    }
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum FaultKind {
    /// Its bytes are no record.
    #[error("it cannot be decoded")]
    Decode(#[source] DecodeError),
    /// Its header names another subject than the one it is filed under.
    #[error("it is filed under {filed} and says {said}")]
    Subject {
        /// Where the store has it.
        filed: Box<Subject>,
        /// What its header says.
        said: Box<Subject>,
    },
    /// Its subject belongs to another log than the one that holds it.
    #[error("it is on {subject}, which belongs to {}", subject.log())]
    Log {
        /// Its subject.
        subject: Subject,
    },
    /// A record of its subject is missing or doubled.
    #[error("it is number {found} of {subject}, after number {last}")]
    Gap {
        /// The subject.
        subject: Subject,
        /// Number of the record before it.
        last: u64,
        /// Its own number.
        found: u64,
    },
    /// The record before it is not the one that its writer saw.
    #[error("it does not follow the record before it on {subject}")]
    Chain {
        /// The subject.
        subject: Subject,
    },
    /// Signed by a key that the root key never enrolled.
    #[error("its key {key} was never enrolled")]
    UnknownKey {
        /// The key.
        key: KeyId,
    },
    /// The signature does not fit.
    #[error("its signature does not fit")]
    Signature,
}

/// Why a well-made record is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// Its key's role may not say one of its events.
    Role(Role),
    /// Its key was retired before: whoever still has it says nothing any more, and stops nobody.
    Retired,
    /// A worker spoke for a sandbox or host that is not its own.
    ForeignHost,
    /// It says that somebody acted for whom its key cannot speak.
    Actor,
    /// It enrols a key that cannot be accepted.
    Enrolment(String),
    /// A worker speaks for a sandbox of an account that is not there: it was erased, and this came too late. It is harmless, and it goes with
    /// the next tombstone.
    Erased,
    /// A tombstone that names positions which were not written yet.
    Tombstone,
}

/// What is to be done with a record.
#[derive(Debug)]
pub enum Verdict {
    /// Folds may see it.
    Believed(Record),
    /// It is reported and skipped.
    Ignored(Record, Ignored),
    /// A tombstone says that it is gone: it is skipped as if it were not there.
    Erased,
}
