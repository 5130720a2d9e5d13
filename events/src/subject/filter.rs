//! Which subjects a reader wants.

use serde::{Deserialize, Serialize};

use super::Subject;
use crate::id::AccountId;

/// Which subjects a reader wants, in NATS's words: `*` is any one token, a last `>` is one token or more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filter(String);

impl Filter {
    /// Every subject of a log.
    pub fn all() -> Self {
        Self(">".to_owned())
    }

    /// One subject.
    pub fn exactly(subject: &Subject) -> Self {
        Self(subject.as_str().to_owned())
    }

    /// Whether it takes one subject alone.
    pub fn is_exact(&self) -> bool {
        !self.0.contains(['*', '>'])
    }

    /// Everything of an account in [`Log::Events`].
    pub fn account(account: AccountId) -> Self {
        Self(format!("evt.{account}.>"))
    }

    /// Every meter reading of an account in the usage logs.
    pub fn usage_of(account: AccountId) -> Self {
        Self(format!("usage.*.{account}.>"))
    }

    /// Every data key of an account in [`Log::Keys`].
    pub fn keys_of(account: AccountId) -> Self {
        Self(format!("key.{account}.>"))
    }

    /// Every challenge that was issued, in [`Log::Auth`].
    pub fn challenges() -> Self {
        Self("auth.*.issued".to_owned())
    }

    /// Every account's requests for sandboxes: what worker hosts compete for.
    pub fn admissions() -> Self {
        Self("evt.*.admission.self".to_owned())
    }

    /// The filter with this text, as an operator typed it. Any text is a filter; one that fits no subject finds nothing.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `subject` is wanted.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.takes(subject.as_str())
    }

    /// Whether the subject with this text is wanted: for stores, which scan texts that they wrote themselves.
    pub fn takes(&self, subject: &str) -> bool {
        let mut wanted = self.0.split('.').peekable();
        let mut tokens = subject.split('.');
        loop {
            match (wanted.next(), tokens.next()) {
                (Some(">"), Some(_)) if wanted.peek().is_none() => return true,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(token)) if want == token => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::SubjectKind;

    fn account() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    #[test]
    fn a_filter_takes_the_subjects_that_nats_would() {
        let subject = Subject::from(SubjectKind::Admission(account()));
        for (filter, wanted) in [
            (Filter::all(), true),
            (Filter::admissions(), true),
            (Filter::account(account()), true),
            (Filter::exactly(&subject), true),
            (Filter::account(AccountId::from_bytes([9; 16])), false),
            (Filter::from_text("evt.*"), false),
            (Filter::from_text(format!("{subject}.>")), false),
            (Filter::from_text("sys.>"), false),
        ] {
            assert_eq!(filter.matches(&subject), wanted, "{filter:?}");
        }
    }
}
