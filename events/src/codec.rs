//! Bytes to records and back: MessagePack by rmp-serde with named fields.
//!
//! Signing happens between: [`header_and_payload`] makes the bytes to sign, [`encode`] joins the three parts, [`decode`] takes them apart.

mod parts;
pub mod upcast;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::Error as _;
use serde_bytes::ByteBuf;

use crate::envelope::{Actor, Draft, FORMAT, Head, Header, Parts, Record, RecordHash};
use crate::event::{Event, EventName};
use crate::id::{CommitId, KeyId};
use crate::log::Stored;
use crate::subject::Subject;
use crate::unit::Timestamp;

/// Events in one commit, at most. A commit is one decision, which makes a handful.
pub const EVENTS_MAX: usize = 64;

/// Bytes of one stored record, at most; NATS refuses messages above 1 MiB.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// Why a draft cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A commit without events, or with too many.
    #[error("a commit holds 1 to {EVENTS_MAX} events, not {count}")]
    EventCount {
        /// How many it has.
        count: usize,
    },
    /// MessagePack refused a value.
    #[error("cannot encode {what}")]
    MessagePack {
        /// Header, payload, an event or the record.
        what: &'static str,
        /// Why.
        #[source]
        source: rmp_serde::encode::Error,
    },
    /// The record is larger than any store takes.
    #[error("a record of {bytes} bytes is above {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not MessagePack of the expected shape.
    #[error("cannot decode {what}")]
    MessagePack {
        /// Header, payload, an event or the record.
        what: &'static str,
        /// Why; it may quote a value, so it is for operators who hold the record anyway.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// There is more than one way to write these three parts down, and this is not ours: something was added or re-encoded.
    #[error("the record's bytes are not the ones that its parts encode to")]
    NotCanonical,
    /// Written by a build with another header layout.
    #[error("header format {format} is not {FORMAT}; use a build that knows it")]
    Format {
        /// The format found.
        format: u8,
    },
    /// The header names more or fewer events than the payload holds.
    #[error("the header names {named} events and the payload holds {held}")]
    EventCount {
        /// Named in the header.
        named: usize,
        /// Held in the payload.
        held: usize,
    },
}

/// The bytes of a draft's header and payload when it follows `head` and `key` will sign it.
pub fn header_and_payload(draft: &Draft, head: &Head, key: KeyId) -> Result<(Bytes, Bytes), EncodeError> {
    let count = draft.events.len();
    if count == 0 || count > EVENTS_MAX {
        return Err(EncodeError::EventCount { count });
    }
    let header = Header {
        format: FORMAT,
        commit: draft.commit,
        subject: draft.subject.clone(),
        version: head.version.saturating_add(1),
        at: draft.at,
        actor: draft.actor,
        cause: draft.cause,
        previous: head.hash,
        events: draft.events.iter().map(Event::name).collect(),
        key,
    };
    let bodies =
        draft.events.iter().map(|event| event.encode().map(ByteBuf::from)).collect::<Result<Vec<_>, _>>();
    let bodies = bodies.map_err(|source| EncodeError::MessagePack { what: "an event", source })?;
    let payload = rmp_serde::to_vec_named(&bodies)
        .map_err(|source| EncodeError::MessagePack { what: "the payload", source })?;
    let header = rmp_serde::to_vec_named(&header)
        .map_err(|source| EncodeError::MessagePack { what: "the header", source })?;
    Ok((header.into(), payload.into()))
}

/// The stored bytes of a record.
pub fn encode(parts: &Parts) -> Result<Bytes, EncodeError> {
    let record = rmp_serde::to_vec_named(parts)
        .map_err(|source| EncodeError::MessagePack { what: "the record", source })?;
    if record.len() > RECORD_BYTES_MAX {
        return Err(EncodeError::TooLarge { bytes: record.len() });
    }
    Ok(record.into())
}

/// The record in these stored bytes. Nothing is believed yet: see [`crate::verify`].
pub fn decode(record: &[u8]) -> Result<Record, DecodeError> {
    decode_parts(&Bytes::copy_from_slice(record), None)
}

/// The record that a store filed. It shares the memory of the stored bytes.
pub(crate) fn decode_stored(stored: &Stored) -> Result<Record, DecodeError> {
    decode_parts(&stored.record, Some(&stored.subject))
}

fn decode_parts(record: &Bytes, filed: Option<&Subject>) -> Result<Record, DecodeError> {
    let parts = parts::split(record)?;
    let header = decode_header(&parts.header, filed)
        .map_err(|source| DecodeError::MessagePack { what: "the header", source })?;
    if header.format != FORMAT {
        return Err(DecodeError::Format { format: header.format });
    }
    let bodies: Vec<&serde_bytes::Bytes> = rmp_serde::from_slice(&parts.payload)
        .map_err(|source| DecodeError::MessagePack { what: "the payload", source })?;
    if bodies.len() != header.events.len() {
        return Err(DecodeError::EventCount { named: header.events.len(), held: bodies.len() });
    }
    let events = header.events.iter().zip(bodies).map(|(name, body)| {
        let (name, body) = upcast::to_current(name, body);
        Event::decode(&name, &body)
    });
    let events = events
        .collect::<Result<_, _>>()
        .map_err(|source| DecodeError::MessagePack { what: "an event", source })?;
    Ok(Record { header, events, parts })
}

/// [`Header`] as it is read: the subject's text is still part of the stored bytes.
#[derive(Deserialize)]
#[serde(rename = "Header")]
struct Read<'a> {
    format: u8,
    commit: CommitId,
    subject: &'a str,
    version: u64,
    at: Timestamp,
    actor: Actor,
    cause: Option<CommitId>,
    previous: RecordHash,
    events: Vec<EventName>,
    key: KeyId,
}

fn decode_header(header: &[u8], filed: Option<&Subject>) -> Result<Header, rmp_serde::decode::Error> {
    let read: Read<'_> = rmp_serde::from_slice(header)?;
    let subject = match filed {
        Some(filed) => Subject::parse_like(read.subject, filed),
        None => read.subject.parse(),
    };
    let Read { format, commit, version, at, actor, cause, previous, events, key, .. } = read;
    let subject = subject.map_err(rmp_serde::decode::Error::custom)?;
    Ok(Header { format, commit, subject, version, at, actor, cause, previous, events, key })
}
