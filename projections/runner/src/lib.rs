//! The runner: follows the log, checks every record, folds it, and says how far it is.
//!
//! Catching up and following are one loop ([`follow`]). State, positions and the verifier's heads are one value, written in one
//! write ([`checkpoint`]). [`rebuild`] makes the same state from the log alone and has no way to tell anybody about it. Nothing here can append.

pub mod live;

pub mod checkpoint;
mod folding;
pub mod follow;

pub mod rebuild;

pub mod readings;

pub use checkpoint::Checkpoints;
pub use follow::{Follower, Source, StartError, follow};
pub use live::{Live, NotCaughtUp, NotReached, Progress, Snapshot, Status};
pub use rebuild::{RebuildError, Rebuilt, rebuild};
