//! Subjects: where a record is filed. One filter, `evt.<account>.>`, is everything of an account but its meters.
//!
//! A subject is a NATS subject (tokens joined by dots). Its record sequence is what writers race on.

mod filter;
mod kind;
mod logs;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::filter::Filter;
pub use self::kind::SubjectKind;
pub use self::logs::{Log, Slot, USAGE_SLOTS};

/// A text that is no subject of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of the event log")]
pub struct ParseSubjectError;

/// The text of a subject, and what it is about. Each determines the other. Subjects are ordered by their texts; compared and hashed
/// by what they are about, which lies beside it in memory.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject {
    text: std::sync::Arc<str>,
    /// Kept, because whoever checks a record asks for it again and again.
    kind: SubjectKind,
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Subject {}

/// So that a map by subject can be asked by what the subject is about.
impl Borrow<SubjectKind> for Subject {
    fn borrow(&self) -> &SubjectKind {
        &self.kind
    }
}

impl PartialOrd for Subject {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Subject {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl Subject {
    /// The subject's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the subject is about.
    pub fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// The log that the subject lives in.
    pub fn log(&self) -> Log {
        self.kind.log()
    }

    /// The subject with this text, which is most likely `expected`'s: then nothing is parsed.
    pub(crate) fn parse_like(text: &str, expected: &Self) -> Result<Self, ParseSubjectError> {
        if *expected.text == *text { Ok(expected.clone()) } else { text.parse() }
    }
}

impl From<SubjectKind> for Subject {
    fn from(kind: SubjectKind) -> Self {
        Self { text: kind.to_string().into(), kind }
    }
}

impl FromStr for Subject {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, ParseSubjectError> {
        text.parse().map(|kind| Self { text: text.into(), kind })
    }
}

impl TryFrom<String> for Subject {
    type Error = ParseSubjectError;

    fn try_from(text: String) -> Result<Self, ParseSubjectError> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.text.as_ref().to_owned()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
