//! What is held about an account.

use axum::Json;
use axum::extract::State;
use omnirun_commands_api::command::SealedField;
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::id::AccountId;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::TokenKind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::gateway::App;
use crate::time::rfc3339;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownAccount {
    #[schema(value_type = String)]
    id: AccountId,
    /// Where codes are sent: the only thing about its owner that is held.
    email: Option<String>,
    /// The plan that it is on.
    plan: String,
    created_at: String,
    held: Held,
}

/// How much else is held, each with the route that lists it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Held {
    /// API tokens and command-line sign-ins, ended ones too: `GET /tokens`.
    tokens: usize,
    /// Browsers' sessions, ended ones too: `GET /auth/sessions`.
    sessions: usize,
    /// Sandboxes, ended ones too: `GET /sandboxes`.
    sandboxes: usize,
    /// Sandboxes with metered usage: `GET /account/usage`.
    metered: usize,
}

/// The account and what is held about it.
#[utoipa::path(get, path = "/account", tag = "account", responses((status = 200, body = ShownAccount)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller) -> Result<Json<ShownAccount>, ApiError> {
    let id = caller.account;
    let metered = app.usage.view(|usage, _| usage.of(id).count());
    let (account, held) = app.directory.view(|directory, _| {
        let of_kind = |session: bool| {
            directory.tokens.of(id).filter(|(_, token)| (token.kind == TokenKind::Session) == session).count()
        };
        let sandboxes = directory.sandboxes.of(id).count();
        let held = Held { tokens: of_kind(false), sessions: of_kind(true), sandboxes, metered };
        (directory.accounts.get(id).cloned(), held)
    });
    let account = account.ok_or_else(ApiError::not_found)?;
    let subject = SubjectKind::Account(id).into();
    let email = SealedField { subject, field: EMAIL_FIELD.to_owned(), sealed: account.email };
    let email = app.open_fields(&caller, vec![Some(email)]).await?.pop().flatten();
    Ok(Json(ShownAccount { id, email, plan: account.plan, created_at: rfc3339(account.opened_at), held }))
}
