//! Guests' answers on their way to the client.
//!
//! A guest is not trusted: of its answer's head only the status is taken, and that from a closed set; headers are ours. Bodies pass through.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use omnirun_agent_api::Refusal;
use omnirun_events::id::TokenId;
use tokio::time::Interval;

use super::{Cut, GuestRequest, Target, sandbox_ended};
use crate::error::ApiError;
use crate::gateway::{App, duration};

/// What the client gets of a good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// JSON of bounded size.
    Json,
    /// Server-sent events, for as long as both ends want.
    Events,
    /// A file's bytes.
    Bytes,
    /// Nothing.
    Empty,
}

/// Bytes of a guest's refusal that are read, at most.
const REFUSAL_BYTES: usize = 4096;
/// How long a guest may take over a refusal.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// Asks the guest and answers the client with what it says. `token` is looked at again while a stream runs.
pub(crate) async fn relay(
    app: &App,
    target: &Target,
    token: TokenId,
    request: GuestRequest,
    shape: Shape,
) -> Result<Response, ApiError> {
    let answer = app.data_path.request(target, request).await;
    // A guest that has just ended breaks its connections; the client is told what happened.
    let answer = answer.map_err(|error| if ended(app, target) { sandbox_ended() } else { error })?;
    if !answer.status().is_success() {
        let error = refused(answer).await;
        return Err(if ended(app, target) { sandbox_ended() } else { error });
    }
    let body = || body(app, token, shape, answer);
    let (kind, body) = match shape {
        Shape::Empty => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        Shape::Json => ("application/json", body()),
        Shape::Events => ("text/event-stream", body()),
        Shape::Bytes => ("application/octet-stream", body()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if shape == Shape::Bytes {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    Ok(response)
}

fn ended(app: &App, target: &Target) -> bool {
    app.target_of(target.account, target.sandbox) == Err(sandbox_ended())
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.sandbox == other.sandbox && self.host == other.host
    }
}

/// The refusal in a guest's or worker's answer, as far as its form can be trusted.
async fn refused(answer: hyper::Response<Incoming>) -> ApiError {
    let status = answer.status();
    let bad =
        ApiError::new(StatusCode::BAD_GATEWAY, "guest_failed", "The sandbox did not handle the request.");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return ApiError::unavailable("host_busy", "The host of the sandbox cannot take the request now.");
    }
    if ![400, 403, 404, 409, 413, 415, 422, 507].contains(&status.as_u16()) {
        return bad;
    }
    let whole = Limited::new(answer.into_body(), REFUSAL_BYTES).collect();
    let Ok(Ok(body)) = tokio::time::timeout(REFUSAL_TIME, whole).await else { return bad };
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&body.to_bytes()) else { return bad };
    let is_code = |text: &str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let is_sentence = |text: &str| text.len() <= 300 && !text.chars().any(char::is_control);
    if !is_code(&refusal.code) || !is_sentence(&refusal.message) {
        return bad;
    }
    ApiError { status, code: refusal.code, message: refusal.message, ..bad }
}

/// An answer's body while it passes through.
struct Passing {
    body: Incoming,
    /// Bytes that may still pass; none = no limit.
    left: Option<u64>,
    recheck: Interval,
    app: App,
    token: TokenId,
}

fn body(app: &App, token: TokenId, shape: Shape, answer: hyper::Response<Incoming>) -> Body {
    let every = duration(app.config.times.recheck);
    let recheck = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let left = (shape == Shape::Json).then_some(app.config.limits.answer.0);
    Body::from_stream(frames(Passing { body: answer.into_body(), left, recheck, app: app.clone(), token }))
}

/// The body's pieces. It ends with an error, which breaks the client's stream off, when the guest's does, when there is too much, or
/// when the credential that began it is not good any more.
fn frames(passing: Passing) -> impl Stream<Item = Result<Bytes, Cut>> {
    stream::unfold(Some(passing), async |state| {
        let mut passing = state?;
        match passing.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(passing))),
            Ok(None) => None,
            Err(cut) => Some((Err(cut), None)),
        }
    })
}

impl Passing {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                _ = self.recheck.tick() => {
                    if self.app.is_still_valid(self.token) {
                        continue;
                    }
                    return Err(Cut);
                }
            };
            let Some(frame) = frame else { return Ok(None) };
            let Ok(bytes) = frame.map_err(|_| Cut)?.into_data() else { continue };
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(bytes.len() as u64).ok_or(Cut)?;
            }
            return Ok(Some(bytes));
        }
    }
}
