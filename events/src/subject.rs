//! Subjects: where a record is filed. One filter, `evt.<account>.>`, is everything of an account but its meters.
//!
//! A subject is a NATS subject (tokens joined by dots). Its record sequence is what writers race on.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, ChallengeId, HostId, SandboxId, TokenId};
use crate::unit::Timestamp;

/// Number of usage logs; a week's meters go to week modulo this, and a log is purged whole before its week comes again.
pub const USAGE_SLOTS: u8 = 14;

/// Milliseconds in a week.
const WEEK: u64 = 7 * 24 * 3600 * 1000;

/// One of the fourteen usage logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u8);

impl Slot {
    /// The slot that meters observed at `at` go to.
    pub const fn of(at: Timestamp) -> Self {
        Self(((at.0 / WEEK) % USAGE_SLOTS as u64) as u8)
    }

    /// Slot number `index`, if there are that many.
    pub const fn from_index(index: u8) -> Option<Self> {
        if index < USAGE_SLOTS { Some(Self(index)) } else { None }
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..USAGE_SLOTS).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// One append-only log with its own sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Log {
    /// Everything that is kept: accounts, tokens, sandboxes, hosts, signing keys, tombstones.
    Events,
    /// Wrapped data keys; deletion overwrites.
    Keys,
    /// Sign-in challenges; memory only, fifteen minutes.
    Auth,
    /// Meters of the weeks that share a slot.
    Usage(Slot),
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events => f.write_str("EVENTS"),
            Self::Keys => f.write_str("KEYS"),
            Self::Auth => f.write_str("AUTH"),
            Self::Usage(slot) => write!(f, "USAGE_{slot}"),
        }
    }
}

impl Log {
    /// Every log that outlives the process, in the order that operators see them.
    pub fn kept() -> impl Iterator<Item = Self> {
        [Self::Events, Self::Keys].into_iter().chain(Slot::all().map(Self::Usage))
    }
}

/// A text that is no subject of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of the event log")]
pub struct ParseSubjectError;

/// What a subject is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    /// `evt.<account>.account.self`
    Account(AccountId),
    /// `evt.<account>.admission.self`
    Admission(AccountId),
    /// `evt.<account>.token.<token>`
    Token(AccountId, TokenId),
    /// `evt.<account>.billing.self`
    Billing(AccountId),
    /// `evt.<account>.sandbox.<sandbox>`
    Sandbox(AccountId, SandboxId),
    /// `usage.<slot>.<account>.<sandbox>`
    Usage(Slot, AccountId, SandboxId),
    /// `key.<account>.account`: the account's own data key
    AccountKey(AccountId),
    /// `key.<account>.address.<version>`: the data key of one of the addresses that it had
    AddressKey(AccountId, u32),
    /// `key.<account>.<yyyymmdd>`: the data key of the sandboxes of a day
    DayKey(AccountId, u32),
    /// `key.<account>.<yyyymm>`: the data key of the sandboxes of a month, from before each day had its own
    MonthKey(AccountId, u32),
    /// `auth.<challenge>.issued`
    ChallengeIssued(ChallengeId),
    /// `auth.<challenge>.attempts`
    ChallengeAttempts(ChallengeId),
    /// `auth.<challenge>.used`
    ChallengeUsed(ChallengeId),
    /// `sys.registry`: claims of addresses
    Registry,
    /// `sys.host.<host>`
    Host(HostId),
    /// `sys.keys`: who may sign
    KeyRing,
    /// `sys.erasure`: tombstones
    Erasure,
    /// `sys.ops`: what operators did
    Ops,
}

impl SubjectKind {
    /// The log that the subject lives in.
    pub const fn log(self) -> Log {
        match self {
            Self::Usage(slot, ..) => Log::Usage(slot),
            Self::AccountKey(_) | Self::AddressKey(..) | Self::DayKey(..) | Self::MonthKey(..) => Log::Keys,
            Self::ChallengeIssued(_) | Self::ChallengeAttempts(_) | Self::ChallengeUsed(_) => Log::Auth,
            _ => Log::Events,
        }
    }

    /// The account that the subject belongs to, if it belongs to one.
    pub const fn account(self) -> Option<AccountId> {
        match self {
            Self::Account(a) | Self::Admission(a) | Self::Token(a, _) | Self::Sandbox(a, _) => Some(a),
            Self::Billing(a) => Some(a),
            Self::Usage(_, a, _) => Some(a),
            Self::AccountKey(a) | Self::AddressKey(a, _) => Some(a),
            Self::DayKey(a, _) | Self::MonthKey(a, _) => Some(a),
            _ => None,
        }
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(a) => write!(f, "evt.{a}.account.self"),
            Self::Admission(a) => write!(f, "evt.{a}.admission.self"),
            Self::Billing(a) => write!(f, "evt.{a}.billing.self"),
            Self::Token(a, t) => write!(f, "evt.{a}.token.{t}"),
            Self::Sandbox(a, s) => write!(f, "evt.{a}.sandbox.{s}"),
            Self::Usage(slot, a, s) => write!(f, "usage.{slot}.{a}.{s}"),
            Self::AccountKey(a) => write!(f, "key.{a}.account"),
            Self::AddressKey(a, version) => write!(f, "key.{a}.address.{version}"),
            Self::DayKey(a, day) => write!(f, "key.{a}.{day:08}"),
            Self::MonthKey(a, month) => write!(f, "key.{a}.{month:06}"),
            Self::ChallengeIssued(c) => write!(f, "auth.{c}.issued"),
            Self::ChallengeAttempts(c) => write!(f, "auth.{c}.attempts"),
            Self::ChallengeUsed(c) => write!(f, "auth.{c}.used"),
            Self::Registry => f.write_str("sys.registry"),
            Self::Host(h) => write!(f, "sys.host.{h}"),
            Self::KeyRing => f.write_str("sys.keys"),
            Self::Erasure => f.write_str("sys.erasure"),
            Self::Ops => f.write_str("sys.ops"),
        }
    }
}

impl FromStr for SubjectKind {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, ParseSubjectError> {
        fn id<T: FromStr>(text: &str) -> Result<T, ParseSubjectError> {
            text.parse().map_err(|_| ParseSubjectError)
        }
        // Number parsing takes a sign, which would give one kind two texts.
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let mut tokens = [""; 5];
        let mut count = 0;
        for (place, token) in tokens.iter_mut().zip(text.split('.')) {
            *place = token;
            count += 1;
        }
        Ok(match &tokens[..count] {
            ["evt", a, "account", "self"] => Self::Account(id(a)?),
            ["evt", a, "admission", "self"] => Self::Admission(id(a)?),
            ["evt", a, "billing", "self"] => Self::Billing(id(a)?),
            ["evt", a, "token", t] => Self::Token(id(a)?, id(t)?),
            ["evt", a, "sandbox", s] => Self::Sandbox(id(a)?, id(s)?),
            ["usage", slot, a, s] if slot.len() == 2 && is_number(slot) => {
                let slot = slot.parse().ok().and_then(Slot::from_index).ok_or(ParseSubjectError)?;
                Self::Usage(slot, id(a)?, id(s)?)
            }
            ["key", a, "account"] => Self::AccountKey(id(a)?),
            ["key", a, "address", version] if is_number(version) && !version.starts_with('0') => {
                Self::AddressKey(id(a)?, id(version)?)
            }
            ["key", a, day] if day.len() == 8 && is_number(day) => Self::DayKey(id(a)?, id(day)?),
            ["key", a, month] if month.len() == 6 && is_number(month) => Self::MonthKey(id(a)?, id(month)?),
            ["auth", c, "issued"] => Self::ChallengeIssued(id(c)?),
            ["auth", c, "attempts"] => Self::ChallengeAttempts(id(c)?),
            ["auth", c, "used"] => Self::ChallengeUsed(id(c)?),
            ["sys", "registry"] => Self::Registry,
            ["sys", "host", h] => Self::Host(id(h)?),
            ["sys", "keys"] => Self::KeyRing,
            ["sys", "erasure"] => Self::Erasure,
            ["sys", "ops"] => Self::Ops,
            _ => return Err(ParseSubjectError),
        })
    }
}

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

impl Subject {
    /// The subject with this text, which is most likely `expected`'s: then nothing is parsed.
    pub(crate) fn parse_like(text: &str, expected: &Self) -> Result<Self, ParseSubjectError> {
        if *expected.text == *text { Ok(expected.clone()) } else { text.parse() }
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

    fn account() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    #[test]
    fn every_kind_of_subject_reads_back_from_its_text() {
        let (a, s) = (account(), SandboxId::from_bytes([2; 16]));
        let (t, h, c) =
            (TokenId::from_bytes([3; 16]), HostId::from_bytes([4; 16]), ChallengeId::from_bytes([5; 16]));
        let slot = Slot::from_index(3).expect("there are fourteen");
        for kind in [
            SubjectKind::Account(a),
            SubjectKind::Admission(a),
            SubjectKind::Billing(a),
            SubjectKind::Token(a, t),
            SubjectKind::Sandbox(a, s),
            SubjectKind::Usage(slot, a, s),
            SubjectKind::AccountKey(a),
            SubjectKind::AddressKey(a, 10),
            SubjectKind::DayKey(a, 20261123),
            SubjectKind::MonthKey(a, 202611),
            SubjectKind::ChallengeIssued(c),
            SubjectKind::ChallengeAttempts(c),
            SubjectKind::ChallengeUsed(c),
            SubjectKind::Registry,
            SubjectKind::Host(h),
            SubjectKind::KeyRing,
            SubjectKind::Erasure,
            SubjectKind::Ops,
        ] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn text_that_is_no_subject_of_ours_is_refused() {
        for text in ["", "evt", "evt.x.account.self", "sys.keys.x", "usage.14.a.b", "evt.*.account.self", ">"]
        {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
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
