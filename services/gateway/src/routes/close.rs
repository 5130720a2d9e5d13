//! The end of an account.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::{Command, Personal};
use omnirun_events::envelope::Actor;
use omnirun_events::id::ReceiptId;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ask::unexpected;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Accepted, Body};
use crate::gateway::App;

#[derive(Deserialize, ToSchema)]
pub(crate) struct Confirmation {
    /// The account's own address.
    confirm: String,
}

impl Accepted for Confirmation {}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClosingAccount {
    /// Names the erasure; the receipt that comes by mail has it.
    #[schema(value_type = String)]
    receipt: ReceiptId,
    /// Since when.
    closing_since: String,
    /// What happens now.
    message: &'static str,
}

/// What happens once it was asked for.
const MESSAGE: &str = "Every token and session of the account is refused from now on. Its sandboxes are ended, its keys destroyed and its records removed; a signed receipt comes by mail.";

/// Erases the account and everything of it. This cannot be undone.
#[utoipa::path(delete, path = "/account", tag = "account", request_body = Confirmation, responses((status = 202, body = ClosingAccount)))]
pub(crate) async fn close(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<Confirmation>,
) -> Result<(StatusCode, Json<ClosingAccount>), ApiError> {
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let command = Command::CloseAccount { account: caller.account, confirm: Personal::new(body.confirm) };
    match app.ask(wish, Actor::Account(caller.account), command).await? {
        Outcome::AccountClosing { receipt, since } => {
            let answer = ClosingAccount { receipt, closing_since: since.rfc3339(), message: MESSAGE };
            Ok((StatusCode::ACCEPTED, Json(answer)))
        }
        _ => Err(unexpected()),
    }
}
