//! The export of an account: everything that is held about it in one ZIP, readable by its owner and checkable by anybody.
//!
//! ```text
//!   README.txt       what is in here and how it is checked       account.json, tokens.json, sandboxes.json, usage.json
//!   events.jsonl     every record about the account, opened      keys.jsonl  the records that say who may sign
//!   erasures.jsonl   the records that say what was erased        schemas/*.json   JSON Schemas of what is in the files
//!   manifest.json    digests of all that                         manifest.sig.json   the commands service's signature
//! ```
//!
//! It is made while it is sent ([`export`]) and stored nowhere. The four files are folds of the records in `events.jsonl`, made here, so that they say
//! what the account was at exactly those positions. Only the commands service can open sealed fields and sign, so both are asked of it.
//! [`check`] is the other side: it takes an archive apart with nothing but the root key's fingerprint.
//!
//! Reading order: [`export`], [`collect`] (records), [`shapes`] (the four files), [`archive`] (the ZIP and its manifest), [`check`].

pub mod readable;

mod archive;
mod collect;
mod shapes;

pub mod check;
pub mod export;

pub use export::{ExportError, Exporter};
