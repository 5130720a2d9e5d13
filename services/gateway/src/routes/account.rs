//! What is held about an account, and its correction.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::{Command, SealedField};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::auth::CodeProof;
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::TokenKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sign_in::{CodeRequested, as_sent, email, wrong_code};
use crate::ask::unexpected;
use crate::auth::Caller;
use crate::client::Client;
use crate::error::ApiError;
use crate::extract::{Accepted, Body};
use crate::gateway::{App, Shared};

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
    /// Closed months: `GET /account/statements`.
    statements: usize,
}

/// The account and what is held about it.
#[utoipa::path(get, path = "/account", tag = "account", responses((status = 200, body = ShownAccount)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller) -> Result<Json<ShownAccount>, ApiError> {
    show(&app, &caller).await.map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountChange {
    /// The address that the account is to have.
    email: String,
    /// The code that was sent to it; without one, it is sent.
    code: Option<String>,
    /// The challenge that the code answers.
    challenge_id: Option<String>,
}

impl Accepted for AccountChange {}

/// Changes the address, in two steps: without a code one is sent to the new address, with it the account has the address from then on, the
/// old one is told, and is not stored any more.
#[utoipa::path(patch, path = "/account", tag = "account", request_body = AccountChange,
    responses((status = 200, body = ShownAccount), (status = 202, body = CodeRequested)))]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    headers: HeaderMap,
    Body(body): Body<AccountChange>,
) -> Result<Response, ApiError> {
    let (account, email) = (caller.account, email(body.email)?);
    let wish = app.wish(account.as_bytes(), &headers)?;
    let Some(code) = body.code else {
        let network = client.network;
        let command = Command::RequestEmailChange { account, email, network };
        let outcome = app.ask(wish, Actor::Account(account), command).await?;
        return Ok((StatusCode::ACCEPTED, Json(CodeRequested::of(outcome)?)).into_response());
    };
    let challenge = body.challenge_id.and_then(|text| text.parse().ok());
    let (Some(challenge), Some(code)) = (challenge, as_sent(&code)) else { return Err(wrong_code()) };
    let command = Command::ChangeEmail { account, email, challenge, proof: CodeProof::of(challenge, &code) };
    match app.ask(wish, Actor::Account(account), command).await? {
        Outcome::EmailChanged => Ok(Json(show(&app, &caller).await?).into_response()),
        _ => Err(unexpected()),
    }
}

async fn show(app: &Shared, caller: &Caller) -> Result<ShownAccount, ApiError> {
    let id = caller.account;
    let metered = app.usage.view(|usage, _| usage.of(id).count());
    let statements =
        app.billing.view(|billing, _| billing.of(id).map_or(0, |ledger| ledger.statements().len()));
    let (account, held) = app.directory.view(|directory, _| {
        let of_kind = |session: bool| {
            directory.tokens.of(id).filter(|(_, token)| (token.kind == TokenKind::Session) == session).count()
        };
        let sandboxes = directory.sandboxes.of(id).count();
        let held = Held { tokens: of_kind(false), sessions: of_kind(true), sandboxes, metered, statements };
        (directory.accounts.get(id).cloned(), held)
    });
    let account = account.ok_or_else(ApiError::not_found)?;
    let subject = SubjectKind::Account(id).into();
    let email = SealedField { subject, field: EMAIL_FIELD.to_owned(), sealed: account.email };
    let email = app.open_fields(caller, vec![Some(email)]).await?.pop().flatten();
    Ok(ShownAccount {
        id,
        email,
        plan: account.plans.at(app.now()).to_owned(),
        created_at: account.opened_at.rfc3339(),
        held,
    })
}
