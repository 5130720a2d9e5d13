//! The export of everything that is held about an account: made while it is sent, kept nowhere.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_export::Exporter;

use crate::auth::Caller;
use crate::auth::watched::Watched;
use crate::error::ApiError;
use crate::gateway::{App, duration};

/// Exports that are made at once, at most.
const EXPORTS_MAX: usize = 4;

/// The accounts whose export is being made, which reads and checks a lot: one of each, so that nobody has all turns.
#[derive(Default)]
pub(crate) struct Exports(Mutex<HashSet<AccountId>>);

/// A turn to make an export, given back when it is dropped. It goes with the making, not with the answer's body, which a client may leave
/// untaken for ever.
struct Turn {
    exports: Arc<Exports>,
    account: AccountId,
}

impl Exports {
    fn turn(self: &Arc<Self>, account: AccountId) -> Result<Turn, ApiError> {
        let mut running = self.lock();
        if running.contains(&account) {
            return Err(ApiError::unavailable(
                "busy",
                "An export of this account is being made; take that one.",
            ));
        }
        if running.len() >= EXPORTS_MAX {
            return Err(ApiError::unavailable(
                "busy",
                "Too many exports are being made; try again in a minute.",
            ));
        }
        running.insert(account);
        Ok(Turn { exports: self.clone(), account })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<AccountId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.exports.lock().remove(&self.account);
    }
}

/// Everything that is held about the account as a signed ZIP.
#[utoipa::path(post, path = "/account/export", tag = "account",
    responses((status = 200, content_type = "application/zip", body = Vec<u8>)))]
pub(crate) async fn export(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    // Whatever was answered before is in it.
    app.catch_up().await?;
    let turn = app.exports.turn(caller.account)?;
    let exporter = Exporter {
        reader: app.reader.clone(),
        commands: app.commands.clone(),
        root: app.directory.view(|_, verifier| verifier.ring().root()),
        clock: app.clock.clone(),
        actor: Actor::Account(caller.account),
        taken_within: duration(app.config.times.stalled),
    };
    let mut watched = Watched::new(&app, caller.token);
    let ended = async move {
        let _turn = turn;
        watched.ended().await;
    };
    let pieces = stream::unfold(exporter.begin(caller.account, ended), async |mut pieces| {
        let piece = pieces.recv().await?;
        if let Err(error) = &piece {
            // Its own words alone: those of what is behind it may name the account. `ops verify` finds what is wrong with a record.
            tracing::warn!(why = %error, "an export broke off");
        }
        Some((piece, pieces))
    });
    // Here once more, for what was made before its end and not taken yet.
    let body = Watched::new(&app, caller.token).pass(pieces);
    let disposition = HeaderValue::from_static("attachment; filename=\"omnirun-export.zip\"");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_turn_and_all_together_have_four() {
        let (exports, account) = (Arc::new(Exports::default()), |n| AccountId::from_bytes([n; 16]));
        let mut turns: Vec<Turn> =
            (1..=3).map(|n| exports.turn(account(n)).expect("there is room")).collect();
        assert!(exports.turn(account(1)).is_err(), "one account has one");
        turns.push(exports.turn(account(4)).expect("there is room for another one"));
        assert!(exports.turn(account(5)).is_err(), "four are all");
        drop(turns.pop());
        assert!(exports.turn(account(1)).is_err(), "it still has its own");
        exports.turn(account(5)).expect("a turn is given back");
    }
}
