//! How large a request's head may be: refused here, in our words. hyper's own limits lie beyond and answer with a bare status.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// Bytes of the path and query. A path of 4096 bytes in a guest takes three times that when every byte is escaped.
pub(crate) const URL_BYTES_MAX: usize = 16 * 1024;

/// Headers, at most, in number and in bytes of their names and values.
pub(crate) const HEADERS_MAX: usize = 64;
pub(crate) const HEADER_BYTES_MAX: usize = 32 * 1024;

/// Refuses a head that is too large, before anything in it is looked at.
pub(crate) async fn limit(request: Request, next: Next) -> Response {
    let url = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    if url > URL_BYTES_MAX {
        return ApiError::new(
            StatusCode::URI_TOO_LONG,
            "url_too_long",
            "The path and query are longer than 16 KiB.",
        )
        .into_response();
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "The headers are more than 64, or more than 32 KiB.",
        )
        .into_response();
    }
    next.run(request).await
}
