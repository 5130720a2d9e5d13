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
use omnirun_runner::Status;
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
        let within = duration(self.config.times.read_your_writes);
        let look = async {
            let began = self.now();
            let head = tokio::time::timeout(within, self.reader.head(Log::Events)).await;
            let Ok(Ok(head)) = head else { return Err(ApiError::behind()) };
            self.directory.reached(head, within).await.map_err(|_| ApiError::behind())?;
            self.sight.saw(began);
            Ok(())
        };
        self.catch_up.share(look).await
    }

    /// Refuses while the directory is not what the log says: a credential revoked in the meantime would still look good.
    pub(crate) fn is_following(&self) -> Result<(), ApiError> {
        match self.directory.progress().status {
            Status::Following if self.sight.is_lost(self.now()) => Err(ApiError::log_lost()),
            Status::Following => Ok(()),
            Status::CatchingUp => {
                Err(ApiError::unavailable("starting", "The read models are being brought up to date."))
            }
            Status::Stopped(_) => Err(ApiError::unavailable(
                "stopped",
                "A read model has stopped; the operator's log says why.",
            )),
        }
    }
}

/// When the last look at the log that succeeded began.
#[derive(Default)]
pub(crate) struct CatchUp {
    last: Mutex<Option<Instant>>,
}

impl CatchUp {
    /// Runs `look`, or waits for one that begins after this call.
    async fn share(&self, look: impl Future<Output = Result<(), ApiError>>) -> Result<(), ApiError> {
        let called = Instant::now();
        let mut last = self.last.lock().await;
        if last.is_some_and(|began| began >= called) {
            return Ok(());
        }
        let began = Instant::now();
        look.await?;
        *last = Some(began);
        Ok(())
    }
}

/// An outcome that does not belong to the command that was asked: a bug on either side.
pub(crate) fn unexpected() -> ApiError {
    tracing::error!("the commands service answered another command than was asked");
    ApiError::internal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{join, join_all};
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn callers_that_come_during_a_look_share_the_next_one() {
        let (catch_up, gate, looks) = (CatchUp::default(), Semaphore::new(0), AtomicU32::new(0));
        let look = async || {
            looks.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.expect("never closed").forget();
            Ok(())
        };
        // Futures are polled in order: all have called before the gate opens.
        let calls = join_all((0..32).map(|_| catch_up.share(look())));
        let (answers, ()) = join(calls, async { gate.add_permits(32) }).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(looks.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_look_that_failed_is_shared_with_nobody() {
        let catch_up = CatchUp::default();
        assert!(catch_up.share(async { Err(ApiError::behind()) }).await.is_err());
        assert!(catch_up.share(async { Ok(()) }).await.is_ok());
    }

    #[test]
    fn an_idempotency_key_has_one_form() {
        let headers = |text: &str| {
            HeaderMap::from_iter([(IDEMPOTENCY_KEY.parse().expect("a name"), text.parse().expect("a value"))])
        };
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
        assert_eq!(idempotency_key(&headers("A-9")), Ok(Some("A-9")));
        for text in ["", "a b", "a_b", &"a".repeat(256)] {
            assert!(idempotency_key(&headers(text)).is_err(), "{text}");
        }
    }
}
