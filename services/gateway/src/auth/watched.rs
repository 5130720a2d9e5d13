//! The credential of an answer that goes on: looked at again whenever the directory changes, so that a revoked one ends what it began as soon
//! as this gateway has the event.

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use omnirun_events::id::TokenId;
use omnirun_runner::Progress;
use tokio::sync::watch;
use tokio::time::{Instant, Interval};

use crate::data_path::Cut;
use crate::error::ApiError;
use crate::gateway::{App, Shared, duration};

/// Looks at one credential.
pub(crate) struct Watched {
    app: App,
    token: TokenId,
    changes: watch::Receiver<Progress>,
    /// A credential that expires, and a log that is lost, change nothing in the directory.
    tick: Interval,
}

impl Watched {
    /// Looks at `token`, which was good a moment ago.
    pub fn new(app: &App, token: TokenId) -> Self {
        let every = duration(app.config.times.recheck);
        let tick = tokio::time::interval_at(Instant::now() + every, every);
        let mut changes = app.directory.changes();
        // It may have been revoked since it was found good.
        changes.mark_changed();
        Self { app: app.clone(), token, changes, tick }
    }

    /// Waits until the credential is not good any more, or nobody can tell; answers why. May be dropped and called again.
    pub async fn ended(&mut self) -> ApiError {
        loop {
            tokio::select! {
                // The sender is the application's own, so that it outlives this.
                _ = self.changes.changed() => {}
                _ = self.tick.tick() => {}
            }
            if let Err(error) = self.app.is_still_good(self.token) {
                return error;
            }
        }
    }

    /// Passes `pieces` on while the credential is good. Then, as when they end with an error, the client's connection breaks off: nobody takes
    /// what has come for the whole.
    pub fn pass<E: Into<BoxError>>(
        self,
        pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Body {
        let begun = Some((self, Box::pin(pieces)));
        Body::from_stream(stream::unfold(begun, async |state| {
            let (mut watched, mut pieces) = state?;
            let piece = tokio::select! {
                // First, for pieces may always be ready.
                biased;
                _ = watched.ended() => Err(Cut.into()),
                piece = pieces.next() => piece?.map_err(Into::into),
            };
            let rest = piece.is_ok().then_some((watched, pieces));
            Some((piece, rest))
        }))
    }
}

impl Shared {
    /// Refuses a credential that was good when its request began and is not any more, as far as this gateway can tell.
    fn is_still_good(&self, token: TokenId) -> Result<(), ApiError> {
        self.is_following()?;
        let now = self.now();
        let is_valid = self
            .directory
            .view(|directory, _| directory.tokens.get(token).is_some_and(|token| token.is_valid(now)));
        if is_valid { Ok(()) } else { Err(ApiError::unauthenticated()) }
    }
}
