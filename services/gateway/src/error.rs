//! How the gateway says no: a status, a code for programs and one sentence for people, none of it taken from the request.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use omnirun_commands_api::{Code, Rejection, SendError};
use omnirun_events::unit::{Millis, Seconds};
use serde::Serialize;

use crate::auth::cookie::{CLEAR_SITE_DATA, CLEARING};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// For programs, in snake case.
    pub code: Cow<'static, str>,
    /// For people, one sentence.
    pub message: Cow<'static, str>,
    /// How long to wait before trying again.
    pub retry_after: Option<Seconds>,
    /// What becomes of the session cookie.
    pub cookie: Cookie,
}

/// What an answer does with the session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// Nothing.
    Keep,
    /// The browser is told to forget it, and every other cookie of this site, whatever domain and path they were set for.
    Clear,
}

/// The body of every 4xx and 5xx answer.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// For programs, in snake case.
    code: Cow<'static, str>,
    /// For people, one sentence. Never holds any of the request.
    message: Cow<'static, str>,
}

impl ApiError {
    /// A refusal with fixed words.
    pub const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code: Cow::Borrowed(code),
            message: Cow::Borrowed(message),
            retry_after: None,
            cookie: Cookie::Keep,
        }
    }

    /// 422: a value is not what it has to be. `message` names the field and the rule.
    pub const fn invalid(message: &'static str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// 422: this build does not do that yet, and does not pretend to.
    pub const fn not_supported(message: &'static str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not_supported", message)
    }

    /// 404: it does not exist, or is somebody else's, or the route is none.
    pub const fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing here.")
    }

    /// 401: no credential, or one that is not good.
    pub const fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "A valid credential is needed: X-API-Key, Authorization: Bearer, or a signed-in browser.",
        )
    }

    /// 503 that passes soon.
    pub const fn unavailable(code: &'static str, message: &'static str) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        error.retry_after = Some(Seconds(1));
        error
    }

    /// 503: the read model has not reached what was just written.
    pub const fn behind() -> Self {
        Self::unavailable("behind", "This gateway has not caught up yet; try again.")
    }

    /// 503: the gateway has not seen the log for longer than it may answer without.
    pub const fn log_lost() -> Self {
        let mut error = Self::unavailable(
            "log_unreachable",
            "This gateway cannot reach the event log, so it cannot tell which credentials are still good; try again.",
        );
        error.retry_after = Some(Seconds(5));
        error
    }

    /// 500, which means a bug of ours.
    pub const fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong here; it was not the request.",
        )
    }

    /// The same refusal that also clears the cookies, those too that a neighbouring host has set for its whole domain.
    pub const fn clearing_cookies(mut self) -> Self {
        self.cookie = Cookie::Clear;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let needs_wait =
            [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&self.status);
        let retry_after = self.retry_after.or(needs_wait.then_some(Seconds(1)));
        let body = ErrorBody { code: self.code, message: self.message };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.0.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.cookie == Cookie::Clear {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(CLEARING));
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cookies\""));
        }
        response
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let (status, code) = status_of(rejection.code);
        let seconds = |wait: Millis| Seconds(u32::try_from(wait.0.div_ceil(1000)).unwrap_or(u32::MAX));
        Self {
            status,
            code: Cow::Borrowed(code),
            message: Cow::Owned(rejection.message),
            retry_after: rejection.retry_after.map(seconds),
            cookie: Cookie::Keep,
        }
    }
}

const fn status_of(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidOrExpiredCode => (StatusCode::UNAUTHORIZED, "invalid_or_expired_code"),
        Code::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        Code::UnknownTemplate => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_template"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::AddressTaken => (StatusCode::CONFLICT, "address_taken"),
        Code::AlreadyFinal => (StatusCode::CONFLICT, "sandbox_ended"),
        Code::NotRunning => (StatusCode::CONFLICT, "sandbox_not_ready"),
        Code::AccountClosing => (StatusCode::CONFLICT, "account_closing"),
        Code::IdempotencyConflict => (StatusCode::CONFLICT, "idempotency_conflict"),
        Code::PlanLimit => (StatusCode::PAYMENT_REQUIRED, "plan_limit"),
        Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        Code::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Code::DeadlinePassed => (StatusCode::GATEWAY_TIMEOUT, "deadline_passed"),
    }
}

impl From<SendError> for ApiError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Rejected(rejection) => rejection.into(),
            SendError::NoResponders => Self::unavailable(
                "commands_unavailable",
                "The commands service does not answer; nothing was done.",
            ),
            SendError::TimedOut | SendError::Exchange { .. } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "unknown_outcome",
                "The commands service did not confirm in time; repeat the request with the same Idempotency-Key to learn what came of it.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_ask_for_patience_say_how_long() {
        for error in [
            ApiError::behind(),
            ApiError::log_lost(),
            Rejection::retryable(Code::RateLimited, "slow down", Millis(1500)).into(),
            Rejection::new(Code::Busy, "later").into(),
        ] {
            let response = error.into_response();
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
    }
}
