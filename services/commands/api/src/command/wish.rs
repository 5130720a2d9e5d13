//! What commands carry.

use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::Network;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::{Log, Subject};
use omnirun_events::token::{Scope, TokenVerifier};
use omnirun_events::unit::{Mebibytes, Seconds, Vcpus};
use serde::{Deserialize, Serialize};

use super::Personal;

/// The stored half of a credential that the gateway has just made; the other half is on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCredential {
    /// What presented credentials are compared with.
    pub verifier: TokenVerifier,
    /// The checksum characters.
    pub hint: String,
}

/// What a user wants of a new API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWish {
    /// What the user calls it.
    pub name: Personal,
    /// What it may do; at least one, and nothing that the asking credential may not.
    pub scopes: Vec<Scope>,
    /// Days until it expires; none = never.
    pub expires_in_days: Option<u32>,
}

/// What a user wants of a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxWish {
    /// Template, by name.
    pub template: String,
    /// Virtual processors; none = the template's.
    pub vcpus: Option<Vcpus>,
    /// Memory; none = the template's.
    pub memory: Option<Mebibytes>,
    /// Life in seconds from its start; 0 = the plan's longest.
    pub timeout: Seconds,
    /// Whether it has a way out.
    pub network: Network,
    /// The user's metadata as JSON, sealed on arrival.
    pub metadata: Option<Personal>,
}

/// A sealed field and the place it was sealed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedField {
    /// The subject of its record.
    pub subject: Subject,
    /// Its name.
    pub field: String,
    /// The sealed value.
    pub sealed: Sealed,
}

/// Sealed fields that one command opens, at most.
pub const FIELDS_MAX: usize = 1000;

/// An account as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// By its id.
    Account(AccountId),
    /// By its address.
    Address(Personal),
}

/// What retention would remove now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPlan {
    /// Names exactly this plan: SHA-256 of the tombstones that would be written and the keys that would be destroyed.
    pub hash: Digest,
    /// Records by log.
    pub records: Vec<(Log, u64)>,
    /// Sandboxes of which nothing would be left.
    pub sandboxes: u64,
    /// Keys of free text.
    pub keys: u64,
}
