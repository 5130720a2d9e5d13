//! The one cookie: `omnirun_token`, a browser's session.

use axum::http::{HeaderMap, HeaderName, header};

/// Its name, which the privacy policy names.
pub const NAME: &str = "omnirun_token";

/// How a browser is told to forget it.
pub const CLEARING: &str = "omnirun_token=; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=0";

/// The header by which a browser forgets more than that one cookie (W3C Clear Site Data).
pub const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// What a request's `Cookie` headers hold of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// None.
    Nothing,
    /// One value.
    One(&'a str),
    /// Several, which no browser of ours sends: somebody on a neighbouring host has set another one.
    Several,
}

/// Looks for the session cookie. Other cookies are not ours and are passed over.
pub fn find(headers: &HeaderMap) -> Found<'_> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = texts
        .flat_map(cookie::Cookie::split_parse)
        .filter_map(Result::ok)
        .filter(|cookie| cookie.name() == NAME);
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(cookie), None) => cookie.value_raw().map_or(Found::Nothing, Found::One),
        (Some(_), Some(_)) => Found::Several,
    }
}

/// The `Set-Cookie` of a new session. `value` is a credential's text, which needs no escaping.
pub fn setting(value: &str) -> String {
    format!("{NAME}={value}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=604800")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (header::COOKIE, value.parse().expect("a header"))).collect()
    }

    #[test]
    fn one_cookie_is_found_among_others_and_two_are_refused() {
        assert_eq!(find(&headers(&[])), Found::Nothing);
        assert_eq!(find(&headers(&["a=b; c=d"])), Found::Nothing);
        assert_eq!(find(&headers(&["a=b; omnirun_token=oms_x"])), Found::One("oms_x"));
        assert_eq!(find(&headers(&["omnirun_token=a; omnirun_token=b"])), Found::Several);
        assert_eq!(find(&headers(&["omnirun_token=a", "omnirun_token=a"])), Found::Several);
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_other_sites_and_plain_text() {
        assert_eq!(
            setting("oms_x"),
            "omnirun_token=oms_x; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=604800"
        );
    }
}
