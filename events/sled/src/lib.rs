//! The event log on sled 0.34: the log of `omnirun up`. A worker's outbox is no log, and uses of this the [`Database`] and the [`DirLock`].
//!
//! ```text
//! <dir>/lock             held while a process has the logs open
//! <dir>/EVENTS/          one sled database per log: records, subject index, purge marks and consumer progress in ONE tree,
//! <dir>/KEYS/            so that one commit covers all of them
//! <dir>/USAGE_00/ …      a directory each, so that a purge of everything in it removes its files
//! <dir>/head-EVENTS …    the last position and the running check sum, outside sled
//! ```
//!
//! Reading order: what is stored ([`layout`], `head`), how sled is held (`database`), what is checked before anything is served
//! (`check`), the one writer of each log (`committer`), the readers (`read`, `queue`), and the store that puts them together
//! ([`SledLog`]). [`EmbeddedLog`] adds the AUTH log, which is never on disk.
//!
//! sled itself neither syncs what it flushes nor notices that acknowledged data is gone. So every group of appends ends with our own
//! `fdatasync`, and every start compares records, index and head with each other before it serves any of them.
//!
//! In [`Log::Keys`](omnirun_events::Log::Keys) a purge cannot overwrite: sled's file keeps the bytes until it uses the space again.
//! What makes a wrapped key worthless is that the master key is rotated; a purge here only tidies up.

mod cell;
mod check;
mod committer;
mod database;
mod embedded;
mod error;
mod head;
mod layout;
mod lock;
mod purge;
mod queue;
mod read;
mod store;

pub use cell::SyncCounts;
pub use database::{Database, DatabaseError, Rows};
pub use embedded::EmbeddedLog;
pub use error::{OpenError, StoreError};
pub use layout::RECORD_BYTES_MAX;
pub use lock::DirLock;
pub use store::{Options, SledLog};
