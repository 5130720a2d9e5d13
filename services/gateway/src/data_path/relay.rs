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

use super::{Cut, GuestRequest, Target, sandbox_ended};
use crate::auth::watched::Watched;
use crate::error::ApiError;
use crate::gateway::App;

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

/// Asks the guest and answers the client with what it says, for as long as `token` is good.
pub(crate) async fn relay(
    app: &App,
    target: &Target,
    token: TokenId,
    request: GuestRequest,
    shape: Shape,
) -> Result<Response, ApiError> {
    let mut watched = Watched::new(app, token);
    let answer = tokio::select! {
        biased;
        error = watched.ended() => return Err(error),
        answer = app.data_path.request(target, request) => answer,
    };
    // A guest that has just ended breaks its connections; the client is told what happened.
    let answer = answer.map_err(|error| if ended(app, target) { sandbox_ended() } else { error })?;
    if !answer.status().is_success() {
        let error = refused(answer).await;
        return Err(if ended(app, target) { sandbox_ended() } else { error });
    }
    let limit = app.config.limits.answer.0;
    let body = || watched.pass(pieces(shape, limit, answer.into_body()));
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

/// The pieces of an answer's body. They end with an error when the guest's do, or when there are too many bytes.
fn pieces(shape: Shape, limit: u64, body: Incoming) -> impl Stream<Item = Result<Bytes, Cut>> {
    let left = (shape == Shape::Json).then_some(limit);
    stream::unfold(Some((body, left)), async |state| {
        let (mut body, mut left) = state?;
        loop {
            let Ok(frame) = body.frame().await? else { return Some((Err(Cut), None)) };
            let Ok(bytes) = frame.into_data() else { continue };
            if let Some(left) = &mut left {
                let Some(rest) = left.checked_sub(bytes.len() as u64) else { return Some((Err(Cut), None)) };
                *left = rest;
            }
            return Some((Ok(bytes), Some((body, left))));
        }
    })
}
