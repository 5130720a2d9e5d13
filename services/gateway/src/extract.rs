//! Reading requests: JSON bodies, queries and path segments, with refusals that say what is wrong and never repeat the input.

use axum::body::{Body as HttpBody, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use omnirun_events::id::{SandboxId, TokenId};
use serde::de::DeserializeOwned;

use crate::config::Limits;
use crate::error::ApiError;
use crate::gateway::{App, duration};

/// Which limit a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Control,
    Code,
    File,
}

/// What a route takes as JSON.
pub(crate) trait Accepted: DeserializeOwned {
    /// How large it may be.
    const KIND: BodyKind = BodyKind::Control;
}

/// A JSON body.
pub(crate) struct Body<T>(pub T);

impl<T: Accepted> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body has to be application/json.",
            ));
        }
        let whole = read(request.into_body(), limit(&app.config.limits, T::KIND));
        let bytes =
            tokio::time::timeout(duration(app.config.times.body), whole).await.map_err(|_| too_slow())??;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| explain(&error))
    }
}

fn limit(limits: &Limits, kind: BodyKind) -> usize {
    let bytes = match kind {
        BodyKind::Control => limits.control,
        BodyKind::Code => limits.code,
        BodyKind::File => limits.file,
    };
    usize::try_from(bytes.0).unwrap_or(usize::MAX)
}

/// Reads a body to its end, or to its limit: what is beyond is not waited for.
async fn read(body: HttpBody, limit: usize) -> Result<Bytes, ApiError> {
    // By its Content-Length, if it has one.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", "The body ended early.")),
    }
}

pub(crate) const fn too_large() -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is larger than this route takes.")
}

pub(crate) const fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "The body did not come in in time.")
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Where a body is wrong, in numbers. The parser's own words quote the input, and a name of ours is all that is taken from them.
fn explain(error: &serde_json::Error) -> ApiError {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    if matches!(error.classify(), Category::Syntax | Category::Eof | Category::Io) {
        let mut refusal = ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", "");
        refusal.message =
            format!("The body is not JSON; the first mistake is at line {line}, column {column}.").into();
        return refusal;
    }
    let mut refusal = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", "");
    let text = error.to_string();
    // serde takes the name of a missing field from our own types, never from the input.
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    refusal.message = match missing {
        Some(name) => format!("The field {name} is missing.").into(),
        None => {
            format!("A value has the wrong type or is not allowed, near line {line}, column {column}.").into()
        }
    };
    refusal
}

/// The query of a request. Names that the route does not know are ignored.
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        let refusal = ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_query",
            "A value of the query is missing, given twice, or not what it has to be.",
        );
        query.map(|axum::extract::Query(query)| Self(query)).map_err(|_| refusal)
    }
}

/// The segment `{id}` of a path. Text that is no id names nothing, so it is a 404 like any other.
pub(crate) struct Id<T>(pub T);

macro_rules! ids {
    ($($id:ty),*) => {$(
        impl<S: Send + Sync> FromRequestParts<S> for Id<$id> {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
                segment(parts, state, "id").await?.parse().map(Self).map_err(|_| ApiError::not_found())
            }
        }
    )*};
}

ids!(SandboxId, TokenId);

/// The segment `{pid}` of a path.
pub(crate) struct Pid(pub u32);

impl<S: Send + Sync> FromRequestParts<S> for Pid {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = segment(parts, state, "pid").await?;
        let is_number = (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let pid = is_number.then(|| text.parse().ok()).flatten();
        pid.filter(|pid| *pid > 0).map(Self).ok_or_else(ApiError::not_found)
    }
}

/// The segment `{month}` of a path. What is no month is the name of none.
pub(crate) struct Month(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Month {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        segment(parts, state, "month").await.map(Self)
    }
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, ApiError> {
    let segments =
        RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::not_found())?;
    let found = segments.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(ApiError::not_found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its deserialiser is used")]
    struct Sample {
        number: u32,
        choice: Choice,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        One,
    }

    #[test]
    fn a_refused_body_is_never_repeated() {
        for body in [
            r#"{"number": "canary", "choice": "one"}"#,
            r#"{"number": 1, "choice": "canary"}"#,
            r#"{"number": 1, "choice": {"canary": 1}}"#,
            r#"["canary", "one"]"#,
            r#""canary""#,
            r#"{"canary"#,
            "canary",
        ] {
            let error = serde_json::from_str::<Sample>(body).expect_err("wrong on purpose");
            let refusal = explain(&error);
            assert!(!refusal.to_string().contains("canary"), "{refusal}");
            assert!(refusal.status.is_client_error());
        }
        let error = serde_json::from_str::<Sample>("{}").expect_err("wrong on purpose");
        assert_eq!(explain(&error).message, "The field number is missing.");
    }
}
