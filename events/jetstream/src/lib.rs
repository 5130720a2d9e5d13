//! The event log on NATS JetStream: one stream per log, for installations of more than one machine.
//!
//! ```text
//!   append_all ─▶ one entry ─▶ committer ─┬ alone ─────▶ plain publish ─┐
//!              │              (one a log) └ with others ▶ atomic batch ─┼─▶ refused or unknown ─▶ settle: ask the leader
//!              └ several entries ─────────────────────▶ atomic batch ───┘
//! ```
//!
//! Reading order: [`connect`] and [`streams`] (what is asked of a server before anything is written to it), `publish` (one try
//! on the wire), `settle` (what became of it), `committer` (many writers, one fsync), then `cursor` with its `feed`, `queue` and `erase`.
//!
//! What this store cannot see: a server that lost its end, after bit rot or a power cut without `sync_interval: always`,
//! starts with a shorter stream, says nothing, and gives the lost numbers again. Whoever keeps positions (checkpoints, the head
//! kept outside) notices: [`Read::head`](omnirun_events::log::Read::head) is then smaller than what was acknowledged, or the record at the
//! kept position has another hash. A cursor opened beyond the head waits; it does not report.

pub mod connect;
pub mod streams;
pub mod version;

mod append;
mod committer;
mod cursor;
mod erase;
mod error;
mod feed;
mod publish;
mod queue;
mod read;
mod server;
mod settle;

use std::collections::HashMap;
use std::sync::Arc;

use omnirun_events::Log;

pub use connect::{ConnectError, Identity, Options, Tls};
pub use streams::{Applied, ApplyError, Difference, Replicas, apply_streams};

use committer::Committer;
use server::Server;

/// The logs of one JetStream account; clones share the connection and the committers.
///
/// It implements all four traits of a log; which of them a server allows is the matter of its permissions.
#[derive(Clone)]
pub struct JetStreamLog {
    server: Server,
    committers: Arc<HashMap<Log, Committer>>,
}
