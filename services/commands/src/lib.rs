//! The commands service: the one general writer. A command is decided against what is known, written down, and answered.
//!
//! Reading order: [`service`] (what it is made of, one command from arrival to answer), [`decide`] (pure: one file per family), [`handle`]
//! (what a family needs from the world around its decision), [`writer`] (sign, append, try again). Beside them: [`keys`] and [`master`]
//! (who can open sealed fields), [`index`] (address to account), [`codes`] and [`challenges`] (signing in), [`reconcile`] (what time decides), [`leases`]
//! (which hosts are given up).

pub mod random;

pub mod address;
pub mod master;

pub mod codes;
pub mod keys;

pub mod challenges;
pub mod guesses;
pub mod index;
pub mod limits;
pub mod outbox;
pub mod tries;
pub mod unsent;

pub mod decide;

pub mod failure;
pub mod writer;

mod handle;

pub mod erasure;
pub mod leases;
pub mod reconcile;
pub mod retention;
pub mod rotation;
pub mod service;

pub mod nats;

pub use master::{MasterKey, MasterKeyError};
pub use nats::{serve_nats, serve_nats_until};
pub use random::Random;
pub use service::{CommandService, Parts, StartError};
