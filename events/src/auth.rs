//! Events of one sign-in challenge, in the AUTH log, which is memory and forgets after fifteen minutes.
//!
//! The code itself is never here: it is derived from a key in memory, the challenge and the address.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{AccountId, ChallengeId};
use crate::unit::Timestamp;

/// What a code is good for. It is part of what the code is derived from, so that none does another one's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Signing in to the account of an address, or to a new one.
    #[default]
    SignIn,
    /// Giving an account that is signed in another address.
    ChangeEmail,
}

/// A code was derived for an address and is on its way. On `auth.<challenge>.issued`, expected 0.
///
/// Version 1 had no purpose and named a day where version 2 names an epoch of the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeIssued {
    /// The account that owns the address, or the id that an account for it would get: nothing here tells which.
    pub account: AccountId,
    /// Epoch of the master key that the code was derived from.
    pub epoch: u32,
    /// Characters in the code.
    pub digits: u8,
    /// SHA-256 of the verifier that the asking page keeps in memory, if it bound the challenge to itself.
    #[serde(with = "serde_bytes")]
    pub bind: Option<Vec<u8>>,
    /// When the code stops working.
    pub expires_at: Timestamp,
    /// What the code is good for.
    #[serde(default)]
    pub purpose: Purpose,
}

/// One of the tries is spent. On `auth.<challenge>.attempts`: try n expects try n-1, and is appended before
/// anything is compared, so that guessing in parallel gains nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptSpent {}

/// The code was right and is used up, or a newer challenge took this one's place. On `auth.<challenge>.used`, expected 0: it works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeUsed {}

/// Proof that somebody knows a code: SHA-256 of a label, the challenge and the code. It is compared and dropped; a six-digit code
/// can be guessed from it, so it goes no further than the request that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeProof(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl CodeProof {
    /// The proof of `code` for `challenge`.
    pub fn of(challenge: ChallengeId, code: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(b"omnirun/code-proof/v1\0")
            .chain_update(challenge.as_bytes())
            .chain_update(code.as_bytes())
            .finalize();
        Self(digest.into())
    }
}

impl fmt::Debug for CodeProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeProof([redacted])")
    }
}
