//! Where a browser's request comes from. A cookie counts only in requests that our own pages made, whatever their method: reading a
//! stream of events across sites is as bad as a forged change.

use axum::http::{HeaderMap, Method, Uri, header};

use crate::client::host;
use crate::error::ApiError;

/// Fetch Metadata's header (W3C), which scripts cannot set.
pub const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses a request with a cookie that did not come from a page of ours, or from the address bar when it only reads. One that says
/// nothing about where it comes from is refused too: every browser that keeps `SameSite` says it.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap, ours: Option<&str>) -> Result<(), ApiError> {
    let site = headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes());
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let origin = headers.get(header::ORIGIN);
    let same_origin =
        origin.map(|origin| is_ours(origin.to_str().unwrap_or_default(), host(uri, headers), ours));
    match (site, same_origin) {
        (Some(b"same-origin"), None | Some(true)) => Ok(()),
        (Some(b"none"), None | Some(true)) if reads => Ok(()),
        (None, Some(true)) => Ok(()),
        _ => Err(cross_origin()),
    }
}

/// Whether a browser sent this: then it gets a cookie, never a token that scripts can read.
pub fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_FETCH_SITE)
}

fn is_ours(origin: &str, host: Option<&str>, ours: Option<&str>) -> bool {
    match ours {
        Some(ours) => origin == ours,
        None => {
            let named = origin.split_once("://").map(|(_, named)| named);
            named.is_some() && named == host
        }
    }
}

const fn cross_origin() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::FORBIDDEN,
        "cross_origin",
        "The session cookie works only from this site's own pages.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn passes(method: Method, pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "app.example:8080".parse().expect("a header"));
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a header"));
        }
        check(&method, &Uri::from_static("/"), &headers, None).is_ok()
    }

    #[test]
    fn a_page_of_ours_over_http_2_has_no_host_header_and_may_use_the_cookie() {
        let headers = |origin: &'static str| {
            let pairs = [(SEC_FETCH_SITE, "same-origin"), ("origin", origin)];
            HeaderMap::from_iter(pairs.map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            }))
        };
        let uri = Uri::from_static("https://app.example/tokens");
        assert!(check(&Method::POST, &uri, &headers("https://app.example"), None).is_ok());
        assert!(check(&Method::POST, &uri, &headers("https://evil.example"), None).is_err());
    }

    #[test]
    fn only_our_own_pages_may_use_the_cookie() {
        assert!(passes(
            Method::POST,
            &[("sec-fetch-site", "same-origin"), ("origin", "http://app.example:8080")]
        ));
        assert!(passes(Method::GET, &[("sec-fetch-site", "same-origin")]));
        assert!(passes(Method::POST, &[("origin", "https://app.example:8080")]));
        assert!(passes(Method::GET, &[("sec-fetch-site", "none")]));
        assert!(!passes(Method::POST, &[("sec-fetch-site", "none")]));
        for method in [Method::GET, Method::POST, Method::DELETE] {
            assert!(!passes(method.clone(), &[]));
            assert!(!passes(method.clone(), &[("sec-fetch-site", "cross-site")]));
            assert!(!passes(method.clone(), &[("sec-fetch-site", "same-site")]));
            assert!(!passes(method.clone(), &[("origin", "http://evil.example")]));
            assert!(!passes(method.clone(), &[("origin", "null")]));
            assert!(!passes(method, &[("sec-fetch-site", "same-origin"), ("origin", "http://evil.example")]));
        }
    }
}
