//! Every event there is: its stored name and version, and who may say it.
//!
//! The stored name is not the Rust name and never changes. A changed meaning is a new version with an entry in
//! `codec/upcast.rs` and a golden file of its own. A name that this build does not know decodes to [`Event::Unknown`], so that an
//! older reader can pass over it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serialize};

use crate::envelope::Role;
use crate::{account, auth, billing, erasure, host, keys, ops, sandbox, token, usage};

/// Name and version under which an event is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
pub struct EventName(#[serde(deserialize_with = "known_or_owned")] pub Cow<'static, str>, pub u16);

/// The name as this build spells it where it knows it: a replay reads one for every event.
fn known_or_owned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, str>, D::Error> {
    struct Name;
    impl Visitor<'_> for Name {
        type Value = Cow<'static, str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of an event")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(Event::spelling(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed))
        }
    }
    deserializer.deserialize_str(Name)
}

/// The roles whose keys may say the event; see [`crate::verify`].
macro_rules! events {
    ($($variant:ident($body:ty) = $name:literal, $version:literal, by $($role:ident)|+;)*) => {
        /// Something that happened.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $(#[doc = concat!("Stored as `", $name, "` version ", stringify!($version), ".")] $variant($body),)*
            /// An event that a newer build wrote; its body is kept as it is stored.
            Unknown {
                /// Its stored name and version.
                name: EventName,
                /// Its stored bytes.
                #[serde(with = "serde_bytes")]
                body: Vec<u8>,
            },
        }

        impl Event {
            /// The name and version under which this event is stored.
            pub fn name(&self) -> EventName {
                match self {
                    $(Self::$variant(_) => EventName(Cow::Borrowed($name), $version),)*
                    Self::Unknown { name, .. } => name.clone(),
                }
            }

            /// Whether keys of `role` may say an event of this name. Nobody may say one that this build does not know.
            pub fn may_be_said_by(name: &EventName, role: Role) -> bool {
                match &*name.0 {
                    $($name => [$(Role::$role),+].contains(&role),)*
                    _ => false,
                }
            }

            /// The stored bytes of the body.
            pub(crate) fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
                match self {
                    $(Self::$variant(body) => rmp_serde::to_vec_named(body),)*
                    Self::Unknown { body, .. } => Ok(body.clone()),
                }
            }

            /// The event with this name, of its current version, from its stored bytes.
            pub(crate) fn decode(name: &EventName, body: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
                match (&*name.0, name.1) {
                    $(($name, $version) => rmp_serde::from_slice(body).map(Self::$variant),)*
                    _ => Ok(Self::Unknown { name: name.clone(), body: body.to_vec() }),
                }
            }

            /// The same text for as long as the program runs, if some event of this build has that name.
            fn spelling(name: &str) -> Option<&'static str> {
                match name {
                    $($name => Some($name),)*
                    _ => None,
                }
            }
        }

        $(impl From<$body> for Event {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })*

        /// Every (name, version) that this build writes.
        pub const WRITTEN: &[(&str, u16)] = &[$(($name, $version)),*];
    };
}

events! {
    AccountOpened(account::AccountOpened) = "account.opened", 1, by Commands;
    EmailChanged(account::EmailChanged) = "account.email_changed", 1, by Commands;
    PlanChanged(account::PlanChanged) = "account.plan_changed", 1, by Commands;
    AddressClaimed(account::AddressClaimed) = "address.claimed", 1, by Commands;
    TokenCreated(token::TokenCreated) = "token.created", 1, by Commands;
    TokenRevoked(token::TokenRevoked) = "token.revoked", 1, by Commands;
    ChallengeIssued(auth::ChallengeIssued) = "challenge.issued", 2, by Commands;
    AttemptSpent(auth::AttemptSpent) = "challenge.attempt_spent", 1, by Commands;
    ChallengeUsed(auth::ChallengeUsed) = "challenge.used", 1, by Commands;
    SandboxRequested(sandbox::SandboxRequested) = "sandbox.requested", 1, by Commands;
    TimeoutExtended(sandbox::TimeoutExtended) = "sandbox.timeout_extended", 1, by Commands;
    SandboxResumed(sandbox::SandboxResumed) = "sandbox.resumed", 1, by Commands;
    AdmissionTrimmed(sandbox::AdmissionTrimmed) = "admission.trimmed", 1, by Commands;
    StopRequested(sandbox::StopRequested) = "sandbox.stop_requested", 1, by Commands;
    PauseRequested(sandbox::PauseRequested) = "sandbox.pause_requested", 1, by Commands;
    SandboxFailed(sandbox::SandboxFailed) = "sandbox.failed", 1, by Commands | Worker;
    SandboxClaimed(sandbox::SandboxClaimed) = "sandbox.claimed", 1, by Worker;
    SandboxStarted(sandbox::SandboxStarted) = "sandbox.started", 1, by Worker;
    SandboxPaused(sandbox::SandboxPaused) = "sandbox.paused", 1, by Worker;
    SandboxStopped(sandbox::SandboxStopped) = "sandbox.stopped", 2, by Commands | Worker;
    UsageMetered(usage::UsageMetered) = "usage.metered", 1, by Worker;
    StatementClosed(billing::StatementClosed) = "billing.statement_closed", 2, by Commands;
    StatementCorrected(billing::StatementCorrected) = "billing.statement_corrected", 1, by Commands;
    UsageNoticed(billing::UsageNoticed) = "billing.usage_noticed", 1, by Commands;
    HostJoined(host::HostJoined) = "host.joined", 1, by Worker;
    HostLeft(host::HostLeft) = "host.left", 1, by Worker;
    HostLost(host::HostLost) = "host.lost", 1, by Commands;
    KeyEnrolled(keys::KeyEnrolled) = "key.enrolled", 1, by Root;
    KeyRetired(keys::KeyRetired) = "key.retired", 1, by Root;
    MasterKeyRotated(keys::MasterKeyRotated) = "master_key.rotated", 2, by Commands;
    DataKeyWrapped(keys::DataKeyWrapped) = "data_key.wrapped", 1, by Commands;
    DataKeysDestroyed(keys::DataKeysDestroyed) = "data_keys.destroyed", 1, by Commands;
    AccountClosing(account::AccountClosing) = "account.closing", 1, by Commands;
    AccountQuiet(account::AccountQuiet) = "account.quiet", 1, by Commands;
    ReceiptIssued(account::ReceiptIssued) = "account.receipt_issued", 1, by Commands;
    AccountClosed(account::AccountClosed) = "account.closed", 1, by Commands;
    RecordsErased(erasure::RecordsErased) = "records.erased", 1, by Commands;
    ErasureFinished(erasure::ErasureFinished) = "erasure.finished", 1, by Commands;
    HostCaughtUp(host::HostCaughtUp) = "host.caught_up", 1, by Worker;
    OpsActed(ops::OpsActed) = "ops.acted", 1, by Commands;
}
