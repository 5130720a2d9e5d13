//! `<data>/ops.sock`: how `ops` reads while `omnirun up` holds the store, which takes one process per directory.
//!
//! A Unix stream socket of mode 0600 whose server answers its own user and root only. It offers reading, the digests of read models, and
//! what operators may ask of the commands service. One frame is a length (4 bytes, big endian) and a MessagePack value; a connection carries one question at a time.

mod client;
mod protocol;
mod server;

pub use client::SocketRead;
pub use server::{BindError, CommandsSlot, OpsServer, View};

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "ops.sock";
