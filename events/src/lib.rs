//! What can happen in OmniRun, how it is written down, and what every event log promises.
//!
//! This crate is pure: no sockets, no files, no async runtime. The stores in `events/jetstream` and
//! `events/sled` implement the traits of [`log`]; everything else speaks in the types below.
//!
//! Reading order: the nouns ([`id`], [`unit`], [`subject`]), what happens ([`event`] and one file per family),
//! how it is written ([`envelope`], [`codec`], [`signing`], [`sealing`]), who is believed ([`keyring`],
//! [`verify`]), and where it goes ([`log`]).

pub mod civil;
pub mod id;
pub mod unit;

pub mod subject;

pub mod account;
pub mod auth;
pub mod erasure;
pub mod host;
pub mod keys;
pub mod ops;
pub mod sandbox;
pub mod token;
pub mod usage;

pub mod event;

pub mod codec;
pub mod envelope;
pub mod sealing;
pub mod signing;

pub mod keyring;
pub mod verify;

pub mod log;

pub use envelope::{Actor, Draft, Head, Record, RecordHash, Role};
pub use event::Event;
pub use id::{AccountId, ChallengeId, CommitId, HostId, KeyId, ReceiptId, SandboxId, TokenId};
pub use log::{Append, Batch, Entry, Erase, Position, Queue, Read, Sequence, Stored};
pub use subject::{Filter, Log, Slot, Subject, SubjectKind};
pub use unit::{Mebibytes, Millis, Timestamp, Vcpus};
