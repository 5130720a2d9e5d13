//! Answers and refusals in the server's own types.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Incoming, header};
use omnirun_agent_api::Refusal;
use serde::{Serialize, de::DeserializeOwned};

/// Every answer's body: whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Every answer.
pub type Answer = Response<Body>;
/// What a handler gives.
pub type Handled = Result<Answer, No>;

/// The longest request that is kept in memory whole; longer files are uploaded as a stream. JSON may need six bytes
/// for one of a text of 16 MiB, but text that is mostly escapes is not what this has to hold.
pub const REQUEST_BYTES_MAX: usize = 24 * 1024 * 1024;

/// A refusal with its status.
#[derive(Debug, Clone)]
pub struct No(pub StatusCode, pub Refusal);

impl No {
    pub const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self(status, Refusal::new(code, message))
    }

    pub const fn invalid(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    pub const fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
}

impl From<io::Error> for No {
    /// The guest's own file system said no. The error's text may hold a path, so only its kind is told.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound => Self::not_found("there is nothing with that path"),
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
                Self::new(StatusCode::FORBIDDEN, "permission_denied", "the guest does not allow that")
            }
            Kind::AlreadyExists => {
                Self::new(StatusCode::CONFLICT, "already_exists", "something has that path")
            }
            Kind::IsADirectory => Self::invalid("is_directory", "that is a directory"),
            Kind::NotADirectory => Self::invalid("not_directory", "a part of the path is not a directory"),
            Kind::DirectoryNotEmpty => {
                Self::new(StatusCode::CONFLICT, "not_empty", "the directory is not empty")
            }
            Kind::StorageFull | Kind::FileTooLarge | Kind::QuotaExceeded => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the guest's disk is full")
            }
            _ => Self::invalid("guest_refused", "the guest's kernel refused the operation"),
        }
    }
}

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// 200 with a value as JSON.
pub fn json(value: &impl Serialize) -> Answer {
    json_bytes(to_json(value))
}

/// 200 with JSON text that is there already.
pub fn json_bytes(text: Bytes) -> Answer {
    with_type(StatusCode::OK, "application/json", whole(text))
}

/// A value as JSON text.
pub fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("our messages have string keys and no failing serializer").into()
}

/// 200 with a body that is still being made.
pub fn stream(content_type: &'static str, body: Body) -> Answer {
    with_type(StatusCode::OK, content_type, body)
}

/// 204.
pub fn nothing() -> Answer {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A refusal as an answer.
pub fn refusal(No(status, refusal): No) -> Answer {
    with_type(status, "application/json", whole(to_json(&refusal)))
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

/// Reads a request's whole body.
pub async fn read(body: Incoming) -> Result<Bytes, No> {
    match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(No::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the request is longer than 24 MiB"))
        }
        Err(_) => Err(No::new(StatusCode::BAD_REQUEST, "bad_request", "the request's body ended early")),
    }
}

/// Reads a message from JSON text. The parser's own error is not told: it quotes the input.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, No> {
    serde_json::from_slice(text)
        .map_err(|_| No::invalid("bad_request", "the body is not the JSON that this route takes"))
}
