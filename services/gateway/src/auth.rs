//! Who is asking: the credential of a request, and whether it may do what the route does.

pub mod cookie;
pub(crate) mod last_used;
pub mod origin;
pub(crate) mod watched;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use omnirun_events::id::{AccountId, TokenId};
use omnirun_events::token::{Scope, TokenKind};
use subtle::ConstantTimeEq;

use crate::access::{self, Access};
use crate::error::ApiError;
use crate::gateway::{App, Shared};
use crate::token::{Prefix, TokenText};

/// Who is asking, once that is known.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub account: AccountId,
    pub token: TokenId,
    pub kind: TokenKind,
    pub scopes: Vec<Scope>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    /// The caller that [`guard`] found. A handler that asks for one on a route without a row in the table gets none, and fails closed.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::internal)
    }
}

/// Lets a request through to its handler if the table in [`access`] allows it.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let row = path.and_then(|path| access::of(request.method(), &path));
    let Some(row) = row else { return next.run(request).await };
    if let Err(error) = crate::ask::idempotency_key(request.headers()) {
        return error.into_response();
    }
    let needed = match row {
        Access::Public => return next.run(request).await,
        Access::SignedIn => None,
        Access::Scope(scope) => Some(scope),
    };
    let (mut parts, body) = request.into_parts();
    let caller = match authenticate(&app, &parts).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    if needed.is_some_and(|scope| !caller.scopes.contains(&scope)) {
        return missing_scope().into_response();
    }
    parts.extensions.insert(caller);
    next.run(Request::from_parts(parts, body)).await
}

const fn missing_scope() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "missing_scope",
        "This credential does not have the scope that the route needs.",
    )
}

async fn authenticate(app: &Shared, parts: &Parts) -> Result<Caller, ApiError> {
    app.is_following()?;
    let Parts { method, uri, headers, .. } = parts;
    let (text, prefix) = match from_headers(headers)? {
        Some(text) => (text, Prefix::Program),
        None => match cookie::find(headers) {
            cookie::Found::Nothing => return Err(ApiError::unauthenticated()),
            cookie::Found::Several => return Err(several_cookies()),
            cookie::Found::One(text) => {
                origin::check(method, uri, headers, app.config.origin.as_deref())?;
                (text, Prefix::Session)
            }
        },
    };
    let token = TokenText::parse(text).map_err(|_| ApiError::unauthenticated())?;
    if token.prefix() != prefix {
        return Err(ApiError::unauthenticated());
    }
    if let Some(answer) = look_up(app, &token) {
        return answer;
    }
    // It may have been made a moment ago, through another gateway.
    app.catch_up().await?;
    look_up(app, &token).unwrap_or_else(|| Err(ApiError::unauthenticated()))
}

const fn several_cookies() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "ambiguous_cookie",
        "There are two session cookies; both are being cleared, sign in again.",
    )
    .clearing_cookies()
}

/// The credential in `X-API-Key` or `Authorization: Bearer`. Never in the query: addresses end up in logs and histories.
fn from_headers(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let ambiguous = ApiError::new(
        StatusCode::BAD_REQUEST,
        "ambiguous_credentials",
        "The request holds different credentials.",
    );
    let keys = headers.get_all("x-api-key").iter().map(|value| value.to_str().unwrap_or_default());
    let bearers = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let text = value.to_str().unwrap_or_default();
        let (scheme, rest) = text.split_once(' ').unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") { rest.trim_start() } else { "" }
    });
    let mut found = keys.chain(bearers);
    let Some(first) = found.next() else { return Ok(None) };
    if found.all(|other| other == first) { Ok(Some(first)) } else { Err(ambiguous) }
}

/// What the directory knows of a credential: nothing, or who it is, or that it is not good any more.
fn look_up(app: &Shared, presented: &TokenText) -> Option<Result<Caller, ApiError>> {
    let (verifier, now) = (presented.verifier(), app.now());
    app.directory.view(|directory, _| {
        let (id, token) = directory.tokens.find(&verifier)?;
        let is_same = bool::from(token.verifier.0.ct_eq(&verifier.0));
        let is_session = token.kind == TokenKind::Session;
        let fits = is_session == (presented.prefix() == Prefix::Session);
        if !is_same || !fits || !token.is_valid(now) || app.is_idle(id, token, now) {
            return Some(Err(ApiError::unauthenticated()));
        }
        app.last_used.touch(id, now);
        let (account, kind, scopes) = (token.account, token.kind, token.scopes.clone());
        Some(Ok(Caller { account, token: id, kind, scopes }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header"));
        }
        headers
    }

    #[test]
    fn both_headers_may_carry_one_credential_and_never_two() {
        assert_eq!(from_headers(&headers(&[])), Ok(None));
        assert_eq!(from_headers(&headers(&[("x-api-key", "a")])), Ok(Some("a")));
        assert_eq!(from_headers(&headers(&[("authorization", "bearer a")])), Ok(Some("a")));
        assert_eq!(
            from_headers(&headers(&[("x-api-key", "a"), ("authorization", "Bearer a")])),
            Ok(Some("a"))
        );
        for pairs in [
            [("x-api-key", "a"), ("authorization", "Bearer b")],
            [("x-api-key", "a"), ("x-api-key", "b")],
            [("x-api-key", "a"), ("authorization", "Basic a")],
        ] {
            assert_eq!(
                from_headers(&headers(&pairs)).map_err(|error| error.status),
                Err(StatusCode::BAD_REQUEST)
            );
        }
    }
}
