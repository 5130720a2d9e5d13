//! Events of credentials, on `evt.<account>.token.<token>`: API tokens, dashboard sessions, command-line sign-ins.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::TokenId;
use crate::sealing::Sealed;
use crate::unit::Timestamp;

/// Name of the sealed field that holds what the user called the token.
pub const NAME_FIELD: &str = "name";

/// What a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Made by the user for a program; `omr_…`.
    Api,
    /// A signed-in browser; `oms_…` in the cookie.
    Session,
    /// A signed-in command line; `omr_…` with every scope, valid 90 days.
    Cli,
}

/// What a credential may do. Stored by its text; a new scope is a new text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Ask for sandboxes, extend and destroy them.
    #[serde(rename = "sandbox:create")]
    SandboxCreate,
    /// Run code and touch files in sandboxes.
    #[serde(rename = "sandbox:exec")]
    SandboxExec,
    /// List sandboxes and read their state.
    #[serde(rename = "sandbox:read")]
    SandboxRead,
    /// Read usage and statements.
    #[serde(rename = "usage:read")]
    UsageRead,
    /// Have vault credentials injected.
    #[serde(rename = "vault:inject")]
    VaultInject,
    /// Make and revoke tokens, change, export and delete the account.
    #[serde(rename = "account:*")]
    Account,
}

impl Scope {
    /// Every scope, as a signed-in person holds.
    pub const ALL: [Self; 6] = [
        Self::SandboxCreate,
        Self::SandboxExec,
        Self::SandboxRead,
        Self::UsageRead,
        Self::VaultInject,
        Self::Account,
    ];

    /// What a new API token gets when its maker names no scopes: everything a program needs and nothing that
    /// could take the account over or reach the vault.
    pub const DEFAULT: [Self; 4] =
        [Self::SandboxCreate, Self::SandboxExec, Self::SandboxRead, Self::UsageRead];
}

/// What of a token is stored: one HKDF output of it, from which nothing about the token can be learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenVerifier(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenVerifier([redacted])")
    }
}

/// A credential is valid from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The credential, which is also in the subject.
    pub token: TokenId,
    /// What it is for.
    pub kind: TokenKind,
    /// What a presented token is compared with.
    pub verifier: TokenVerifier,
    /// What the user called it, sealed under the account's key; none for sessions.
    pub name: Option<Sealed>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The checksum characters, so that a list can be matched with a token at hand.
    pub hint: String,
    /// When it stops working; none = when it is revoked.
    pub expires_at: Option<Timestamp>,
}

/// Why a credential ended before its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// Its owner deleted it or signed out.
    ByOwner,
    /// Somebody showed that they hold it.
    Leaked,
}

/// A credential is refused from here on, on every gateway that has reached this event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// Why.
    pub reason: RevokeReason,
}
