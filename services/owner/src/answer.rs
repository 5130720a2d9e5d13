//! Answers on the owner's socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Incoming, header};
use omnirun_agent_api::Refusal;
use serde::{Serialize, de::DeserializeOwned};

/// Every answer's body.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;
/// What a handler gives.
pub type Handled = Result<Response<Body>, No>;

/// The longest control message: a claim carries an environment.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// A refusal with its status.
#[derive(Debug)]
pub struct No(pub StatusCode, pub Refusal);

impl No {
    pub const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self(status, Refusal::new(code, message))
    }

    pub const fn conflict(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }
}

/// Something of ours failed.
pub const fn internal(message: &'static str) -> No {
    No::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn with(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let mut answer = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// 200 with a value as JSON.
pub fn json(value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("our messages have string keys and no failing serializer");
    with(StatusCode::OK, text)
}

/// 204.
pub fn nothing() -> Response<Body> {
    let mut answer = with(StatusCode::NO_CONTENT, Vec::new());
    answer.headers_mut().remove(header::CONTENT_TYPE);
    answer
}

/// A refusal as an answer.
pub fn refusal(No(status, refusal): No) -> Response<Body> {
    with(status, json_text(&refusal))
}

fn json_text(refusal: &Refusal) -> Vec<u8> {
    serde_json::to_vec(refusal).expect("two strings are JSON")
}

/// Reads a control message. An empty body is an empty object.
pub async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, No> {
    let bad = No::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "bad_request",
        "the body is not the JSON that this route takes",
    );
    let Ok(all) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else { return Err(bad) };
    let all = all.to_bytes();
    let text = if all.is_empty() { &b"{}"[..] } else { &all[..] };
    serde_json::from_slice(text).map_err(|_| bad)
}
