//! Signing in with a code sent by mail.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use omnirun_commands_api::command::{Command, NO_CHALLENGE, NewCredential, Personal};
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::auth::CodeProof;
use omnirun_events::envelope::{Actor, Role};
use omnirun_events::id::{ChallengeId, TokenId};
use omnirun_events::token::TokenKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ask::unexpected;
use crate::auth::{cookie, origin};
use crate::client::Client;
use crate::error::ApiError;
use crate::extract::{Accepted, Body};
use crate::gateway::{App, Shared};
use crate::token::{Prefix, TokenText};

/// Characters of an address, at most (RFC 5321 section 4.5.3.1.3, without the brackets).
const EMAIL_MAX: usize = 254;

/// Bytes of a code, at most; none is nearly as long.
const CODE_MAX: usize = 32;

#[derive(Deserialize, ToSchema)]
pub(crate) struct CodeRequest {
    /// Where the code is sent.
    email: String,
    /// base64url of SHA-256 of a secret that the asking page keeps: then the code works only together with that secret.
    bind: Option<String>,
}

impl Accepted for CodeRequest {}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CodeRequested {
    #[schema(value_type = String)]
    challenge_id: ChallengeId,
    /// Seconds that the code works.
    expires_in: u64,
    /// Seconds until another may be asked for.
    resend_after: u64,
}

impl CodeRequested {
    /// The answer to whoever asked for a code.
    pub(super) fn of(outcome: Outcome) -> Result<Self, ApiError> {
        match outcome {
            Outcome::CodeRequested { challenge, expires_in, resend_after } => Ok(Self {
                challenge_id: challenge,
                expires_in: expires_in.0 / 1000,
                resend_after: resend_after.0.div_ceil(1000),
            }),
            _ => Err(unexpected()),
        }
    }
}

/// Sends a one-time code. The answer is the same for every address.
#[utoipa::path(post, path = "/auth/magic-link/request", tag = "sign-in", request_body = CodeRequest,
    responses((status = 200, body = CodeRequested)))]
pub(crate) async fn request_code(
    State(app): State<App>,
    client: Client,
    uri: Uri,
    headers: HeaderMap,
    Body(body): Body<CodeRequest>,
) -> Result<Json<CodeRequested>, ApiError> {
    same_site(&app, &uri, &headers)?;
    let email = email(body.email)?;
    let bind = body.bind.map(|text| digest(&text)).transpose()?;
    let wish = app.wish(email.reveal().as_bytes(), &headers)?;
    let command = Command::RequestCode { email, bind, network: client.network };
    let outcome = app.ask(wish, Actor::System(Role::Gateway), command).await?;
    CodeRequested::of(outcome).map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CodeVerification {
    /// The address that the code was sent to.
    email: String,
    /// The code; spaces, hyphens and case in it do not count.
    code: String,
    /// The challenge that the code answers; without it, the newest unbound one of the address.
    challenge_id: Option<String>,
    /// The secret of a bound challenge.
    verifier: Option<String>,
}

impl Accepted for CodeVerification {}

#[derive(Serialize, ToSchema)]
pub(crate) struct SignedIn {
    /// The new token of kind `cli`; shown this once.
    token: String,
}

/// Signs in. A browser gets the session cookie and no body, everything else a token of kind `cli`.
#[utoipa::path(post, path = "/auth/otp/verify", tag = "sign-in", request_body = CodeVerification,
    responses((status = 200, body = SignedIn), (status = 204, description = "The session cookie was set.")))]
pub(crate) async fn verify_code(
    State(app): State<App>,
    client: Client,
    uri: Uri,
    headers: HeaderMap,
    Body(body): Body<CodeVerification>,
) -> Result<Response, ApiError> {
    same_site(&app, &uri, &headers)?;
    let (kind, prefix) = match origin::is_browser(&headers) {
        true => (TokenKind::Session, Prefix::Session),
        false => (TokenKind::Cli, Prefix::Program),
    };
    let email = email(body.email)?;
    // A challenge that is no id is a wrong challenge, and every wrong thing here has one answer.
    let challenge = body.challenge_id.map(|text| text.parse()).transpose();
    let challenge: Option<ChallengeId> = challenge.map_err(|_| wrong_code())?;
    let code = as_sent(&body.code).ok_or_else(wrong_code)?;
    if body.verifier.as_ref().is_some_and(|text| text.len() > 256) {
        return Err(wrong_code());
    }
    let wish = app.wish(email.reveal().as_bytes(), &headers)?;
    let token = TokenText::generate(prefix);
    let command = Command::VerifyCode {
        email,
        challenge,
        proof: CodeProof::of(challenge.unwrap_or(NO_CHALLENGE), &code),
        page_secret: body.verifier.map(Personal::new),
        network: client.network,
        kind,
        credential: NewCredential { verifier: token.verifier(), hint: token.hint() },
    };
    match app.ask(wish, Actor::System(Role::Gateway), command).await? {
        Outcome::SignedIn { token: id, .. } if is_new(&app, id, &token) => signed_in(token),
        Outcome::SignedIn { token: id, .. } | Outcome::TokenAlreadyCreated { token: id } => {
            Err(already_done(id))
        }
        _ => Err(unexpected()),
    }
}

/// Whether a credential with this id is the one just made, not the one that an earlier request with the same key made and showed.
pub(super) fn is_new(app: &Shared, id: TokenId, made: &TokenText) -> bool {
    let verifier = made.verifier();
    app.directory
        .view(|directory, _| directory.tokens.get(id).is_some_and(|token| token.verifier == verifier))
}

/// 409 with the id, which is ours.
pub(super) fn already_done(id: TokenId) -> ApiError {
    let mut error = ApiError::new(StatusCode::CONFLICT, "already_done", "");
    error.message =
        format!("This request was followed before and made the token {id}; its text was shown then.").into();
    error
}

fn signed_in(token: TokenText) -> Result<Response, ApiError> {
    if token.prefix() == Prefix::Program {
        return Ok(Json(SignedIn { token: token.reveal_once() }).into_response());
    }
    let text = cookie::setting(&token.reveal_once());
    let value = HeaderValue::from_str(&text).map_err(|_| ApiError::internal())?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, value)]).into_response())
}

/// A browser may sign in only from our own pages: otherwise another site could sign somebody in to an account of its own.
fn same_site(app: &Shared, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    match origin::is_browser(headers) || headers.contains_key(header::ORIGIN) {
        true => origin::check(&Method::POST, uri, headers, app.config.origin.as_deref()),
        false => Ok(()),
    }
}

pub(super) fn email(text: String) -> Result<Personal, ApiError> {
    let text = text.trim();
    let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    let has_parts =
        text.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if !is_plain || !has_parts || text.len() > EMAIL_MAX {
        return Err(ApiError::invalid("email has to be an email address."));
    }
    Ok(Personal::new(text))
}

/// The code as it was sent, for people type spaces, small letters, and letters for the digits that look like them; none if no code looks
/// like it.
pub(super) fn as_sent(typed: &str) -> Option<String> {
    let meant = typed.chars().filter(|c| !c.is_whitespace() && *c != '-');
    let meant = meant.map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    });
    let code: String = meant.collect();
    (1..=CODE_MAX).contains(&code.len()).then_some(code)
}

fn digest(text: &str) -> Result<[u8; 32], ApiError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let digest = bytes.and_then(|bytes| bytes.try_into().ok());
    digest.ok_or(ApiError::invalid("bind has to be a SHA-256 digest in base64url without padding."))
}

pub(super) fn wrong_code() -> ApiError {
    Rejection::new(Code::InvalidOrExpiredCode, "The code is wrong or does not work any more.").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_understood_however_it_is_typed() {
        assert_eq!(as_sent(" 012 345 ").as_deref(), Some("012345"));
        assert_eq!(as_sent("oA1b2-c3dil").as_deref(), Some("0A1B2C3D11"));
        assert_eq!((as_sent(" - "), as_sent(&"1".repeat(33))), (None, None));
    }
}
