//! API tokens: made, listed, deleted, and reported as leaked by whoever finds one.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::{Command, NewCredential, Personal, SealedField, TokenWish};
use omnirun_events::envelope::{Actor, Role};
use omnirun_events::id::TokenId;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::{NAME_FIELD, RevokeReason, Scope, TokenKind};
use omnirun_events::unit::Timestamp;
use omnirun_projections::tokens::Token;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sign_in::{already_done, is_new};
use crate::ask::unexpected;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Accepted, Body, Id};
use crate::gateway::{App, Shared};
use crate::token::{Prefix, TokenText};

/// Characters of a token's name, at most.
const NAME_MAX: usize = 100;
/// Days until a token expires when its maker does not say.
const DAYS_DEFAULT: u32 = 90;
/// Days until a token expires, at most.
const DAYS_MAX: u32 = 3650;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewToken {
    /// What it is for, in its owner's words: 1 to 100 characters.
    name: String,
    /// What it may do. Default: sandbox:create, sandbox:exec, sandbox:read, usage:read.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Scope>>,
    /// 1 to 3650; 0 = never. Default 90.
    expires_in_days: Option<u32>,
}

impl Accepted for NewToken {}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedToken {
    /// The token itself; shown this once.
    token: String,
    #[serde(flatten)]
    shown: ShownToken,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownToken {
    #[schema(value_type = String)]
    id: TokenId,
    name: Option<String>,
    /// `api`, or `cli` for a signed-in command line.
    #[schema(value_type = String)]
    kind: TokenKind,
    /// Its last six characters.
    hint: String,
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    created_at: String,
    expires_at: Option<String>,
    /// The day on which this gateway last saw it, if it has since its start.
    last_used_on: Option<String>,
}

/// Makes an API token.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = NewToken, responses((status = 201, body = CreatedToken)))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let (name, scopes) = (name(&body.name)?, scopes(&caller, body.scopes)?);
    let expires_in_days = match body.expires_in_days.unwrap_or(DAYS_DEFAULT) {
        0 => None,
        days @ 1..=DAYS_MAX => Some(days),
        _ => return Err(ApiError::invalid("expiresInDays has to be 0 to 3650.")),
    };
    let text = TokenText::generate(Prefix::Program);
    let credential = NewCredential { verifier: text.verifier(), hint: text.hint() };
    let wanted = TokenWish { name: Personal::new(name.as_str()), scopes: scopes.clone(), expires_in_days };
    let command = Command::CreateToken { account: caller.account, wish: wanted, credential };
    match app.ask(wish, Actor::Account(caller.account), command).await? {
        Outcome::TokenCreated { token, created_at, expires_at } if is_new(&app, token, &text) => {
            let shown = ShownToken {
                id: token,
                name: Some(name),
                kind: TokenKind::Api,
                hint: text.hint(),
                scopes,
                created_at: created_at.rfc3339(),
                expires_at: expires_at.map(Timestamp::rfc3339),
                last_used_on: None,
            };
            Ok((StatusCode::CREATED, Json(CreatedToken { token: text.reveal_once(), shown })))
        }
        Outcome::TokenCreated { token, .. } | Outcome::TokenAlreadyCreated { token } => {
            Err(already_done(token))
        }
        _ => Err(unexpected()),
    }
}

fn name(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    let length = text.chars().count();
    if !(1..=NAME_MAX).contains(&length) || text.chars().any(char::is_control) {
        return Err(ApiError::invalid("name has to be 1 to 100 characters without control characters."));
    }
    Ok(text.to_owned())
}

/// The scopes of a new token: never more than its maker's.
fn scopes(caller: &Caller, wanted: Option<Vec<Scope>>) -> Result<Vec<Scope>, ApiError> {
    let mut scopes = wanted.unwrap_or_else(|| Scope::DEFAULT.to_vec());
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(ApiError::invalid("scopes has to name at least one scope."));
    }
    if scopes.iter().any(|scope| !caller.scopes.contains(scope)) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "missing_scope",
            "A token cannot have a scope that the credential that makes it does not have.",
        ));
    }
    Ok(scopes)
}

/// The account's tokens that work, oldest first.
#[utoipa::path(get, path = "/tokens", tag = "tokens", responses((status = 200, body = Vec<ShownToken>)))]
pub(crate) async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Vec<ShownToken>>, ApiError> {
    let now = app.now();
    let tokens: Vec<(TokenId, Token)> = app.directory.view(|directory, _| {
        let all = directory.tokens.of(caller.account);
        let good = all.filter(|(_, token)| token.kind != TokenKind::Session && token.is_valid(now));
        good.map(|(id, token)| (id, token.clone())).collect()
    });
    let names = names(&app, &caller, &tokens).await?;
    let shown = tokens.into_iter().zip(names).map(|((id, token), name)| ShownToken {
        id,
        name,
        kind: token.kind,
        hint: token.hint,
        scopes: token.scopes,
        created_at: token.created_at.rfc3339(),
        expires_at: token.expires_at.map(Timestamp::rfc3339),
        last_used_on: app.last_used.of(id).map(Timestamp::day),
    });
    Ok(Json(shown.collect()))
}

/// The names in the tokens' order; only the commands service can open them.
async fn names(
    app: &Shared,
    caller: &Caller,
    tokens: &[(TokenId, Token)],
) -> Result<Vec<Option<String>>, ApiError> {
    let field = |id: TokenId, token: &Token| {
        let subject = SubjectKind::Token(caller.account, id).into();
        token.name.clone().map(|sealed| SealedField { subject, field: NAME_FIELD.to_owned(), sealed })
    };
    let fields = tokens.iter().map(|(id, token)| field(*id, token)).collect();
    app.open_fields(caller, fields).await
}

impl Shared {
    /// Finds out that a token is the caller's and of the right kind, after looking at the end of the log for one that is not known; 404 for
    /// every other.
    pub(super) async fn own_token(
        &self,
        caller: &Caller,
        token: TokenId,
        is_meant: impl Fn(TokenKind) -> bool,
    ) -> Result<(), ApiError> {
        let is_own = || {
            self.directory.view(|directory, _| {
                let token = directory.tokens.get(token)?;
                Some(token.account == caller.account && is_meant(token.kind))
            })
        };
        if is_own().is_none() {
            self.catch_up().await?;
        }
        if is_own() == Some(true) { Ok(()) } else { Err(ApiError::not_found()) }
    }

    /// The texts of sealed fields of the caller's account, in their order; none where there is no field or its key is destroyed.
    pub(crate) async fn open_fields(
        &self,
        caller: &Caller,
        fields: Vec<Option<SealedField>>,
    ) -> Result<Vec<Option<String>>, ApiError> {
        let sealed: Vec<SealedField> = fields.iter().flatten().cloned().collect();
        let mut opened = Vec::new().into_iter();
        if !sealed.is_empty() {
            let wish = self.wish(caller.account.as_bytes(), &HeaderMap::new())?;
            let command = Command::OpenFields { account: caller.account, fields: sealed };
            match self.ask(wish, Actor::Account(caller.account), command).await? {
                Outcome::FieldsOpened(texts) => opened = texts.into_iter(),
                _ => return Err(unexpected()),
            }
        }
        let texts = fields.iter().map(|field| field.as_ref().and_then(|_| opened.next()).flatten());
        Ok(texts.map(|text| text.map(Personal::into_revealed)).collect())
    }
}

/// Deletes a token: it is refused at once.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(token): Id<TokenId>,
) -> Result<StatusCode, ApiError> {
    app.own_token(&caller, token, |_| true).await?;
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    let command = Command::RevokeToken { account: caller.account, token, reason: RevokeReason::ByOwner };
    app.ask(wish, Actor::Account(caller.account), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct LeakedToken {
    /// The token that was found.
    token: String,
}

impl Accepted for LeakedToken {}

/// Ends a token that somebody found where it should not be. The answer is the same whether it was one or not.
#[utoipa::path(post, path = "/auth/tokens/leaked", tag = "tokens", request_body = LeakedToken, responses((status = 204)))]
pub(crate) async fn report_leaked(
    State(app): State<App>,
    Body(body): Body<LeakedToken>,
) -> Result<StatusCode, ApiError> {
    let Ok(text) = TokenText::parse(&body.token) else { return Ok(StatusCode::NO_CONTENT) };
    let verifier = text.verifier();
    let now = app.now();
    let find = || {
        app.directory.view(|directory, _| {
            let found = directory.tokens.find(&verifier);
            found.map(|(id, token)| (id, token.account, token.is_valid(now)))
        })
    };
    if find().is_none() {
        app.catch_up().await?;
    }
    if let Some((token, account, true)) = find() {
        let wish = app.wish(account.as_bytes(), &HeaderMap::new())?;
        let command = Command::RevokeToken { account, token, reason: RevokeReason::Leaked };
        app.ask(wish, Actor::System(Role::Gateway), command).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
