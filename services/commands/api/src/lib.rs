//! What can be asked of the commands service, and how: the types, one client trait, and the client over NATS.
//!
//! In `omnirun up` the same trait is a direct call. Secrets never travel in a command: one-time codes arrive as a proof, tokens
//! as their verifiers. Personal data (an address, a name) does, from request to reply, and is stored nowhere on the way.

pub mod command;
pub mod reply;

pub mod mail;

pub mod client;
pub mod mail_nats;
pub mod nats;

pub use client::{Commands, SendError};
pub use command::{Command, Envelope};
pub use reply::{Code, Outcome, Rejection, Reply};
