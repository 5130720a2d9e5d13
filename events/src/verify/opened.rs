//! The part of a check that needs no other record: decoding and hashing. It can be done ahead of the rest and beside it.

use crate::codec::{self, DecodeError};
use crate::envelope::{Record, RecordHash};
use crate::log::Stored;

/// A stored record, decoded and hashed. Nothing is believed yet.
#[derive(Debug)]
pub struct Opened {
    pub(super) record: Record,
    pub(super) hash: RecordHash,
}

impl Opened {
    /// Opens what a store filed.
    pub fn open(stored: &Stored) -> Result<Self, DecodeError> {
        let record = codec::decode_stored(stored)?;
        let hash = record.hash();
        Ok(Self { record, hash })
    }
}
