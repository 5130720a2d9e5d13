//! The client over NATS: MessagePack request and reply, one subject per command.

use std::time::Duration;

use async_nats::{Client, Message, RequestErrorKind};
use async_trait::async_trait;
use omnirun_events::unit::Timestamp;

use crate::client::{Commands, SendError};
use crate::command::Envelope;
use crate::reply::{Rejection, Reply};

/// Sends commands over a connection to the bus.
#[derive(Clone, Debug)]
pub struct NatsCommands {
    client: Client,
    clock: fn() -> Timestamp,
}

impl NatsCommands {
    /// A client on this connection that measures deadlines with `clock`.
    pub fn new(client: Client, clock: fn() -> Timestamp) -> Self {
        Self { client, clock }
    }
}

/// Whether somebody asks this who may, and waits for the answer. Whoever may follow a stream can have the server deliver its records to any
/// subject, under nobody's permissions. Such a message has a subject for its acknowledgement where a request has an inbox, and nobody can give it
/// another.
pub fn is_request(message: &Message) -> bool {
    message.reply.as_ref().is_some_and(|reply| reply.starts_with("_INBOX."))
}

/// What travels back.
pub type Answer = Result<Reply, Rejection>;

#[async_trait]
impl Commands for NatsCommands {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let left: Duration = envelope.deadline.since((self.clock)()).as_duration();
        let subject = envelope.command.subject();
        let body = rmp_serde::to_vec_named(&envelope).map_err(exchange)?;
        let request = tokio::time::timeout(left, self.client.request(subject, body.into()));
        let message = match request.await {
            Err(_) => return Err(SendError::TimedOut),
            Ok(Err(error)) => return Err(request_error(error)),
            Ok(Ok(message)) => message,
        };
        let answer: Answer = rmp_serde::from_slice(&message.payload).map_err(exchange)?;
        Ok(answer?)
    }
}

fn request_error(error: async_nats::RequestError) -> SendError {
    match error.kind() {
        RequestErrorKind::NoResponders => SendError::NoResponders,
        RequestErrorKind::TimedOut => SendError::TimedOut,
        _ => exchange(error),
    }
}

fn exchange(source: impl std::error::Error + Send + Sync + 'static) -> SendError {
    SendError::Exchange { source: Box::new(source) }
}
