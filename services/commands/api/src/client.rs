//! The one way to send a command, whichever way it goes.

use async_trait::async_trait;

use crate::command::Envelope;
use crate::reply::{Rejection, Reply};

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The command was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nobody handles commands now; nothing was done.
    #[error("no commands service answers")]
    NoResponders,
    /// No answer by the deadline: it may or may not have been followed. Sending the same envelope again is safe and tells.
    #[error("the commands service did not answer in time")]
    TimedOut,
    /// Something else than a reply came back, or the connection broke.
    #[error("cannot exchange the command with the commands service")]
    Exchange {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Sends commands.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Sends one command and waits for its answer, at most until its deadline.
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError>;
}
