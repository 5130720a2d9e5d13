//! The part of a check that needs no other record: decoding and hashing. It can be done ahead of the rest and beside it.

use crate::codec::{self, DecodeError};
use crate::envelope::{Record, RecordHash};
use crate::log::{Sequence, Stored};

/// A stored record, decoded and hashed as far as it can be. Nothing is believed yet, and what cannot be decoded is refused when its turn comes.
#[derive(Debug)]
pub struct Opened {
    pub(super) stored: Stored,
    pub(super) content: Result<Content, DecodeError>,
}

/// What the stored bytes hold.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) record: Record,
    pub(super) hash: RecordHash,
}

impl Content {
    pub(super) fn of(stored: &Stored) -> Result<Self, DecodeError> {
        let record = codec::decode_stored(stored)?;
        let hash = record.hash();
        Ok(Self { record, hash })
    }
}

impl Opened {
    /// Opens what a store filed.
    pub fn open(stored: Stored) -> Self {
        let content = Content::of(&stored);
        Self { stored, content }
    }

    /// Where the store has it.
    pub fn sequence(&self) -> Sequence {
        self.stored.sequence
    }
}
