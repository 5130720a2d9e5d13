//! The export of everything that is held about an account: made while it is sent, kept nowhere.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use omnirun_events::envelope::Actor;
use omnirun_export::Exporter;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::gateway::App;

/// Everything that is held about the account as a signed ZIP.
#[utoipa::path(post, path = "/account/export", tag = "account",
    responses((status = 200, content_type = "application/zip", body = Vec<u8>)))]
pub(crate) async fn export(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    // Whatever was answered before is in it.
    app.catch_up().await?;
    let turn = app.exports.clone().try_acquire_owned();
    let turn = turn.map_err(|_| {
        ApiError::unavailable("busy", "Too many exports are being made; try again in a minute.")
    })?;
    let exporter = Exporter {
        reader: app.reader.clone(),
        commands: app.commands.clone(),
        root: app.directory.view(|_, verifier| verifier.ring().root()),
        clock: app.clock.clone(),
        actor: Actor::Account(caller.account),
    };
    let pieces = exporter.begin(caller.account);
    let body = stream::unfold((pieces, turn), |(mut pieces, turn)| async {
        let piece = pieces.recv().await?;
        if let Err(error) = &piece {
            // The connection breaks off: nobody takes half an archive for a whole one.
            tracing::warn!(error = error as &dyn std::error::Error, "an export broke off");
        }
        Some((piece, (pieces, turn)))
    });
    let disposition = HeaderValue::from_static("attachment; filename=\"omnirun-export.zip\"");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}
