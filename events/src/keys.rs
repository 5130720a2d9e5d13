//! Events about keys: who may sign (`sys.keys`), and wrapped data keys (the KEYS log).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::envelope::Role;
use crate::id::{HostId, KeyId};
use crate::log::Sequence;
use crate::sealing::{DataKeyLabel, Sealed};

/// A SHA-256 digest of something public: an image, a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A signing key is believed from here on, in one role. Signed by the root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEnrolled {
    /// The key.
    pub key: KeyId,
    /// Its public half (Ed25519, RFC 8032).
    pub public: Digest,
    /// What it may say.
    pub role: Role,
    /// For [`Role::Worker`], the one host it speaks for.
    pub host: Option<HostId>,
}

/// A signing key is not believed from here on; what it signed before stays valid. Signed by the root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRetired {
    /// The key.
    pub key: KeyId,
}

/// The master key has a new epoch and the one before is overwritten. On `sys.erasure`, among the tombstones that it makes final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyRotated {
    /// The epoch that every data key is wrapped under.
    pub epoch: u32,
    /// What was destroyed by this position of EVENTS cannot be unwrapped any more, in whatever copy: it was gone when the epoch began, and so was
    /// never wrapped under it. [`Sequence::NONE`] where nobody can tell: of a rotation that went on with an epoch which another had begun,
    /// and in version 1.
    #[serde(default)]
    pub final_through: Sequence,
}

/// Data keys are destroyed because what was sealed under them is as old as it may become, or because nothing needs them. Copies of the wrapped
/// keys can be unwrapped until the master key is rotated, which this makes due. On `sys.erasure`; between it and the end of the keys no
/// epoch of the master key begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeysDestroyed {
    /// How many.
    pub count: u32,
}

/// A data key, wrapped under the master key of an epoch. On `key.<account>.<label>` in the KEYS log, acknowledged before
/// the first byte is sealed under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeyWrapped {
    /// Which of the account's keys.
    pub label: DataKeyLabel,
    /// Epoch of the master key.
    pub epoch: u32,
    /// The key, sealed under the master key.
    pub wrapped: Sealed,
}
