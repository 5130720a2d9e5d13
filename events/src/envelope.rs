//! The envelope of a record: header ‖ payload ‖ signature.
//!
//! The header holds random ids, kinds, times and numbers only, nothing that identifies a person; personal data is sealed inside
//! the payload. Both are kept as the bytes that were signed and are never serialised again.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::event::{Event, EventName};
use crate::id::{AccountId, CommitId, HostId, KeyId};
use crate::log::Sequence;
use crate::subject::Subject;
use crate::unit::Timestamp;

/// Version of the header's layout.
pub const FORMAT: u8 = 1;

/// What a signing key may say; the table from event to role is in [`crate::event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Enrols and retires the others. Kept offline where that is possible.
    Root,
    /// The commands service: the only general writer.
    Commands,
    /// One worker host: the life of the sandboxes it claimed, and their meters.
    Worker,
    /// A gateway: signs capabilities for the data path, no events.
    Gateway,
}

/// Who caused a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The owner of an account.
    Account(AccountId),
    /// A part of the system, on its own account.
    System(Role),
    /// A worker host.
    Host(HostId),
    /// Somebody at the operator's terminal.
    Operator,
}

/// SHA-256 that links a record to the one before it on its subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordHash(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl RecordHash {
    /// What the first record of a subject links to.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordHash({self})")
    }
}

/// The end of a subject as a writer knows it: what its next record must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Position of the last record in its log, [`Sequence::NONE`] when there is none.
    pub sequence: Sequence,
    /// Number of the last record within the subject, from 1; 0 when there is none.
    pub version: u64,
    /// Hash of the last record.
    pub hash: RecordHash,
}

impl Head {
    /// The head of a subject without records.
    pub const EMPTY: Self = Self { sequence: Sequence::NONE, version: 0, hash: RecordHash::NONE };
}

/// What a writer wants to have happened on one subject, before it is numbered, linked and signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Id of the commit; a retry carries the same one.
    pub commit: CommitId,
    /// Where it is filed.
    pub subject: Subject,
    /// When it happened, by the writer's clock.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// The commit that this one answers, such as the request that a claim follows.
    pub cause: Option<CommitId>,
    /// What happened, in order; at least one event.
    pub events: Vec<Event>,
}

/// The signed head of a record, with named fields as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Header {
    /// [`FORMAT`] of the build that wrote it.
    pub format: u8,
    /// Id of the commit.
    pub commit: CommitId,
    /// Where it is filed; must equal the subject that the store files it under.
    pub subject: Subject,
    /// Number within the subject, from 1 without gaps.
    pub version: u64,
    /// When it happened, by the writer's clock.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// The commit that this one answers.
    pub cause: Option<CommitId>,
    /// Hash of the subject's previous record.
    pub previous: RecordHash,
    /// Names and versions of the events in the payload, in order.
    pub events: Vec<EventName>,
    /// The key that signed.
    pub key: KeyId,
}

/// A decoded record, beside the bytes that it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The header.
    pub header: Header,
    /// The payload, each event in its current version.
    pub events: Vec<Event>,
    /// The stored bytes that the signature covers and what it is.
    pub(crate) parts: Parts,
}

/// The three stored parts of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// MessagePack of the [`Header`].
    #[serde(rename = "h")]
    pub header: Bytes,
    /// MessagePack array with one byte string per event.
    #[serde(rename = "p")]
    pub payload: Bytes,
    /// Ed25519 signature, 64 bytes.
    #[serde(rename = "s")]
    pub signature: Bytes,
}

impl Record {
    /// The stored bytes of what happened, which the signature covers.
    pub fn payload(&self) -> &Bytes {
        &self.parts.payload
    }

    /// The hash that the next record of the subject links to.
    pub fn hash(&self) -> RecordHash {
        crate::signing::record_hash(&self.parts)
    }

    /// The head of the subject after this record, which the store filed at `sequence`.
    pub fn head(&self, sequence: Sequence) -> Head {
        Head { sequence, version: self.header.version, hash: self.hash() }
    }
}
