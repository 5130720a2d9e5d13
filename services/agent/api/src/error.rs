//! How the agent says no.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The body of every 4xx and 5xx answer. Never holds any of the request's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Stable, for programs: `bad_request`, `bad_path`, `not_found`, …
    pub code: Cow<'static, str>,
    /// One sentence for people.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with fixed text.
    pub const fn new(code: &'static str, message: &'static str) -> Self {
        Self { code: Cow::Borrowed(code), message: Cow::Borrowed(message) }
    }
}
