//! Signing and checking records: Ed25519 (RFC 8032) over stored bytes, never over re-serialised values.
//!
//! What is signed is the DSSE v1 pre-authentication encoding of header ‖ SHA-256(payload): the type name keeps signatures of
//! other things from passing as records. Checking is `verify_strict`, and weak public keys are refused on enrolment.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _};
use sha2::{Digest as _, Sha256};

use crate::codec::{self, EncodeError};
use crate::envelope::{Draft, Head, Parts, Record, RecordHash, Role};
use crate::id::KeyId;
use crate::keys::Digest;

/// DSSE payload type of a record.
const RECORD_TYPE: &str = "application/vnd.omnirun.event.v1";

/// The DSSE v1 pre-authentication encoding of a body: lengths in decimal make it unambiguous.
fn pre_authentication_encoding(kind: &str, body: &[&[u8]]) -> Vec<u8> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut message = format!("DSSEv1 {} {kind} {length} ", kind.len()).into_bytes();
    for part in body {
        message.extend_from_slice(part);
    }
    message
}

/// The link from the next record to this one: SHA-256 of header ‖ SHA-256(payload) ‖ signature.
pub(crate) fn record_hash(parts: &Parts) -> RecordHash {
    let hash = Sha256::new()
        .chain_update(b"omnirun/record/v1\0")
        .chain_update(&parts.header)
        .chain_update(Sha256::digest(&parts.payload))
        .chain_update(&parts.signature)
        .finalize();
    RecordHash(hash.into())
}

/// The private half of a signing key, of one role. Wiped from memory when dropped; prints as its id only.
pub struct Signer {
    key: ed25519_dalek::SigningKey,
    id: KeyId,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

/// A record that is ready to be appended.
#[derive(Debug, Clone)]
pub struct SignedRecord {
    /// The bytes to store.
    pub bytes: Bytes,
    /// Its hash, which the subject's next record links to.
    pub hash: RecordHash,
    /// Its number within the subject.
    pub version: u64,
}

impl Signer {
    /// The signer with this secret seed (RFC 8032 section 5.1.5), which speaks in `role`.
    pub fn from_seed(seed: &[u8; 32], role: Role) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let id = key_id(role, &Digest(key.verifying_key().to_bytes()));
        Self { key, id }
    }

    /// The key's id, which names it in headers.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The public half.
    pub fn public(&self) -> Digest {
        Digest(self.key.verifying_key().to_bytes())
    }

    /// The signed record of `draft` as the successor of `head`.
    pub fn sign(&self, draft: &Draft, head: &Head) -> Result<SignedRecord, EncodeError> {
        let (header, payload) = codec::header_and_payload(draft, head, self.id)?;
        let signature = self.sign_as(RECORD_TYPE, &[&header, &Sha256::digest(&payload)]);
        let parts = Parts { header, payload, signature: signature.to_vec().into() };
        let bytes = codec::encode(&parts)?;
        Ok(SignedRecord { bytes, hash: record_hash(&parts), version: head.version.saturating_add(1) })
    }

    /// A signature over something that is not a record, such as a capability. `kind` is its DSSE type and differs from
    /// every other kind's, so that one can never pass as the other.
    pub fn sign_as(&self, kind: &str, body: &[&[u8]]) -> [u8; 64] {
        self.key.sign(&pre_authentication_encoding(kind, body)).to_bytes()
    }
}

/// The id of a public key in a role: first 16 bytes of SHA-256(label ‖ role ‖ key).
pub fn key_id(role: Role, public: &Digest) -> KeyId {
    let mut seed = format!("{role:?}\n").into_bytes();
    seed.extend_from_slice(&public.0);
    KeyId::derive(&seed, "key")
}

/// Bytes that are no acceptable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an acceptable Ed25519 public key")]
pub struct WeakKey;

/// A signature that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct BadSignature;

/// The public half of a signing key, known not to be weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// The key with these bytes, unless it is no point of the curve or one of small order.
    pub fn from_bytes(public: &Digest) -> Result<Self, WeakKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&public.0).map_err(|_| WeakKey)?;
        if key.is_weak() { Err(WeakKey) } else { Ok(Self(key)) }
    }

    /// The bytes that [`Self::from_bytes`] takes.
    pub fn to_bytes(self) -> Digest {
        Digest(self.0.to_bytes())
    }

    /// Whether this key signed the record. Costs about 35 µs.
    pub fn verify(&self, record: &Record) -> Result<(), BadSignature> {
        let parts = &record.parts;
        self.verify_as(RECORD_TYPE, &[&parts.header, &Sha256::digest(&parts.payload)], &parts.signature)
    }

    /// Whether this key made `signature` over `body` as the given kind of thing.
    pub fn verify_as(&self, kind: &str, body: &[&[u8]], signature: &[u8]) -> Result<(), BadSignature> {
        let signature = Signature::from_slice(signature).map_err(|_| BadSignature)?;
        let message = pre_authentication_encoding(kind, body);
        self.0.verify_strict(&message, &signature).map_err(|_| BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_point_is_refused_as_a_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&Digest(identity)), Err(WeakKey));
    }

    #[test]
    fn a_signature_of_another_kind_of_thing_does_not_pass() {
        let signer = Signer::from_seed(&[1; 32], Role::Gateway);
        let key = PublicKey::from_bytes(&signer.public()).expect("a derived key is not weak");
        let signature = signer.sign_as("a", &[b"body"]);
        assert_eq!(key.verify_as("a", &[b"bo", b"dy"], &signature), Ok(()));
        assert_eq!(key.verify_as("b", &[b"body"], &signature), Err(BadSignature));
        assert_eq!(key.verify_as("a", &[b"bodY"], &signature), Err(BadSignature));
    }
}
