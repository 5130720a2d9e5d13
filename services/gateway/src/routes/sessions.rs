//! Where somebody is signed in: listed, ended one by one, or all at once.
//!
//! API tokens are not signed in anywhere; they are ended in `tokens`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::Command;
use omnirun_events::envelope::Actor;
use omnirun_events::id::TokenId;
use omnirun_events::token::{RevokeReason, TokenKind};
use omnirun_events::unit::Timestamp;
use omnirun_projections::tokens::Token;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ask::unexpected;
use crate::auth::{Caller, cookie};
use crate::error::ApiError;
use crate::extract::Id;
use crate::gateway::App;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownSession {
    #[schema(value_type = String)]
    id: TokenId,
    /// `session` for a browser, `cli` for a command line.
    #[schema(value_type = String)]
    kind: TokenKind,
    /// Whether it is the one that asks.
    current: bool,
    created_at: String,
    expires_at: Option<String>,
    /// The day on which this gateway last saw it, if it has since its start.
    last_used_on: Option<String>,
}

/// Where the account is signed in, oldest first.
#[utoipa::path(get, path = "/auth/sessions", tag = "sign-in", responses((status = 200, body = Vec<ShownSession>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<Vec<ShownSession>>, ApiError> {
    let now = app.now();
    let show = |(id, token): (TokenId, &Token)| ShownSession {
        id,
        kind: token.kind,
        current: id == caller.token,
        created_at: token.created_at.rfc3339(),
        expires_at: token.expires_at.map(Timestamp::rfc3339),
        last_used_on: app.last_used.of(id).map(Timestamp::day),
    };
    let shown = app.directory.view(|directory, _| {
        let all = directory.tokens.of(caller.account);
        let works = all.filter(|(id, token)| token.is_valid(now) && !app.is_idle(*id, token, now));
        works.filter(|(_, token)| token.kind != TokenKind::Api).map(show).collect()
    });
    Ok(Json(shown))
}

/// Ends one sign-in.
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "sign-in", params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn end(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(session): Id<TokenId>,
) -> Result<Response, ApiError> {
    app.own_token(&caller, session, |kind| kind != TokenKind::Api).await?;
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let command =
        Command::RevokeToken { account: caller.account, token: session, reason: RevokeReason::ByOwner };
    app.ask(wish, Actor::Account(caller.account), command).await?;
    Ok(if session == caller.token { signed_out() } else { StatusCode::NO_CONTENT.into_response() })
}

/// Signs out everywhere: ends every browser's session and every command line's sign-in, the asking one too. API tokens go on working.
#[utoipa::path(delete, path = "/auth/sessions", tag = "sign-in", responses((status = 204)))]
pub(crate) async fn end_all(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let command = Command::SignOutEverywhere { account: caller.account };
    match app.ask(wish, Actor::Account(caller.account), command).await? {
        Outcome::SignedOut { .. } if caller.kind == TokenKind::Api => {
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Outcome::SignedOut { .. } => Ok(signed_out()),
        _ => Err(unexpected()),
    }
}

/// Ends the session or command-line sign-in that asks.
#[utoipa::path(post, path = "/auth/logout", tag = "sign-in", responses((status = 204)))]
pub(crate) async fn log_out(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if caller.kind == TokenKind::Api {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "not_a_session",
            "An API token does not sign out; delete it with DELETE /tokens/{id}.",
        ));
    }
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let Caller { account, token, .. } = caller;
    let command = Command::RevokeToken { account, token, reason: RevokeReason::ByOwner };
    app.ask(wish, Actor::Account(account), command).await?;
    Ok(signed_out())
}

/// Nothing more to say, and a browser forgets what it had of us.
fn signed_out() -> Response {
    let all = "\"cache\", \"cookies\", \"storage\"";
    let headers = [(header::SET_COOKIE, cookie::CLEARING), (cookie::CLEAR_SITE_DATA, all)];
    (StatusCode::NO_CONTENT, headers).into_response()
}
