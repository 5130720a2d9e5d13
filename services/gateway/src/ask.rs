//! Asking the commands service, and reading what was written.

use std::time::Instant;

use axum::http::{HeaderMap, StatusCode};
use hmac::{Hmac, KeyInit, Mac};
use omnirun_commands_api::command::{Command, Envelope};
use omnirun_commands_api::{Outcome, Reply, SendError};
use omnirun_events::envelope::Actor;
use omnirun_events::id::CommandId;
use omnirun_events::log::Position;
use omnirun_events::subject::Log;
use sha2::Sha256;
use tokio::sync::Mutex;

use crate::error::ApiError;
use crate::gateway::{Shared, duration};

/// The header that names a wish, so that a repeated request is the same one.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Fills `bytes` from the system's random source.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random source works once the system is up");
}

/// The request's idempotency key, if it has one of the right form.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    match value.to_str() {
        Ok(text) if fits && (1..=255).contains(&bytes.len()) && values.next().is_none() => Ok(Some(text)),
        _ => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_idempotency_key",
            "Idempotency-Key is 1 to 255 letters, digits and hyphens.",
        )),
    }
}

/// Whether a command may be asked for again by the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The client named it.
    Named(CommandId),
    /// It is a new one each time.
    Unnamed(CommandId),
}

impl Wish {
    pub const fn id(self) -> CommandId {
        match self {
            Self::Named(id) | Self::Unnamed(id) => id,
        }
    }
}

impl Shared {
    /// The wish that a request is: named by `owner` (an account's id, or an address before there is one) and the idempotency key.
    pub(crate) fn wish(&self, owner: &[u8], headers: &HeaderMap) -> Result<Wish, ApiError> {
        let mut bytes = [0; 16];
        let Some(key) = idempotency_key(headers)? else {
            fill_random(&mut bytes);
            return Ok(Wish::Unnamed(CommandId::from_bytes(bytes)));
        };
        let mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_slice()).expect("HMAC takes keys of any length");
        let mac = mac.chain_update((owner.len() as u64).to_be_bytes()).chain_update(owner).chain_update(key);
        bytes.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        Ok(Wish::Named(CommandId::from_bytes(bytes)))
    }

    /// Asks for `command` and waits until this gateway's own view shows what came of it.
    pub(crate) async fn ask(&self, wish: Wish, actor: Actor, command: Command) -> Result<Outcome, ApiError> {
        let subject = command.subject();
        let reply = match self.send(wish, actor, command.clone()).await {
            // The same envelope again is safe and tells what came of the first.
            Err(SendError::TimedOut | SendError::Exchange { .. }) => self.send(wish, actor, command).await,
            reply => reply,
        };
        let reply = reply.map_err(|error| {
            if !matches!(error, SendError::Rejected(_)) {
                tracing::warn!(command = subject, "a command was not answered");
            }
            error
        })?;
        if let Some(position) = reply.position {
            self.wait_for(position).await?;
        }
        Ok(reply.outcome)
    }

    async fn send(&self, wish: Wish, actor: Actor, command: Command) -> Result<Reply, SendError> {
        let at = self.now();
        let deadline = at.after(self.config.times.command.into());
        let envelope = Envelope { id: wish.id(), actor, at, deadline, command };
        let sent = self.commands.send(envelope);
        tokio::time::timeout(duration(self.config.times.command), sent)
            .await
            .unwrap_or(Err(SendError::TimedOut))
    }

    async fn wait_for(&self, position: Position) -> Result<(), ApiError> {
        if position.log != Log::Events {
            return Ok(());
        }
        let within = duration(self.config.times.read_your_writes);
        self.directory.reached(position.sequence, within).await.map_err(|_| ApiError::behind())
    }

    /// Waits until the directory holds everything that was in the log when this was called. Calls that come in meanwhile share the next
    /// look at the log, so that a flood of unknown credentials costs one look at a time.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        let called = Instant::now();
        let mut last = self.catch_up.last.lock().await;
        if last.is_some_and(|began| began >= called) {
            return Ok(());
        }
        let began = Instant::now();
        let within = duration(self.config.times.read_your_writes);
        let look = tokio::time::timeout(within, self.reader.head(Log::Events)).await;
        let Ok(Ok(head)) = look else { return Err(ApiError::behind()) };
        self.directory.reached(head, within).await.map_err(|_| ApiError::behind())?;
        *last = Some(began);
        Ok(())
    }
}

/// When the last look at the log that succeeded began.
#[derive(Default)]
pub(crate) struct CatchUp {
    last: Mutex<Option<Instant>>,
}

/// An outcome that does not belong to the command that was asked: a bug on either side.
pub(crate) fn unexpected(outcome: &Outcome) -> ApiError {
    let _ = outcome;
    tracing::error!("the commands service answered another command than was asked");
    ApiError::internal()
}
