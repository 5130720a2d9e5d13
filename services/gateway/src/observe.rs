//! What is seen of a request from outside its handler: one log line and two metrics, and the headers of every answer.
//!
//! Method, route template, status and time; nothing of the address, the headers or the body, and no panic's words.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::error::ApiError;

/// Headers of every answer of the API. Nothing here is a page: it may load nothing and be framed nowhere.
const HEADERS: [(HeaderName, &str); 10] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=63072000; includeSubDomains; preload"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), browsing-topics=()",
    ),
    (header::VARY, "Origin, Sec-Fetch-Site"),
];

/// Runs the request and reports it. A panic in it is answered with 500; what it said is dropped.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = name(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "none".to_owned());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answer.unwrap_or_else(|_| {
        tracing::error!(method, route, "a request's handler panicked");
        ApiError::internal().into_response()
    });
    let (status, took) = (response.status().as_u16(), began.elapsed());
    if route != "/health" {
        tracing::info!(method, route, status, micros = took.as_micros() as u64, "a request was answered");
    }
    let labels = [("method", method.to_owned()), ("route", route)];
    metrics::histogram!("omnirun_http_seconds", &labels).record(took.as_secs_f64());
    let [method, route] = labels;
    metrics::counter!("omnirun_http_requests_total", &[method, route, ("status", status.to_string())])
        .increment(1);
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The methods there are. Any other word is a client's own text.
fn name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
