//! What subjects are about, and their texts.

use std::fmt;
use std::str::FromStr;

use super::{Log, ParseSubjectError, Slot};
use crate::id::{AccountId, ChallengeId, HostId, SandboxId, TokenId};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Subject;

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
}
