//! The worker: runs sandboxes on one host, as the log wishes, and says on the log what became of them.
//!
//! Nobody calls it to start or stop anything. It reads what is wanted from the log, compares it with what lives on the host, and
//! closes the difference; a crash at any point is mended by the same comparison. Each guest belongs to an owner process of its own that
//! outlives the worker, so a restarted worker finds its guests running and takes them over.
//!
//! ```text
//!   queue ─▶ claim ─▶ SandboxClaimed ─▶ directory ─▶ reconcile ─▶ start · end · report ─▶ outbox ─▶ log
//!   gateway ──TLS──▶ serve ──▶ owner process ──▶ guest          (nothing of it is stored or logged)
//! ```
//!
//! A host that is cut off from the log goes on running its sandboxes for a quarter of an hour: each owner process enforces its own end time, and
//! what happened waits in the outbox. After that it ends them, since others will take it for lost, and it joins again when it is back.
//!
//! Reading order: [`config`], [`claim`] (who runs a sandbox), [`reconcile`] (what to do now), `start`, `pause`, `finish`, `outbox`, `meter`,
//! `pool`, `serve`, and below them `guests`, `owner`, `place`.

pub mod config;

mod context;
mod worker;

mod announce;
mod caught_up;
mod certificate;
mod template;

pub mod claim;

pub mod reconcile;

mod finish;
mod pause;
mod start;

mod meter;
pub mod outbox;

mod pool;

mod serve;

mod guests;
mod owner;
mod place;

pub use config::{Config, Offer, Parts, Stores};
pub use worker::{StartError, Stop, Worker, WorkerHandle};
