//! Sealed fields: personal data inside payloads, under keys whose destruction erases it.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with a random 24-byte nonce; subject and field name are the associated data, so that a
//! sealed value cannot be moved. Nonces and keys come in as values: whoever calls has the random source.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::subject::Subject;

/// Which of an account's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKeyLabel {
    /// For what lives as long as the account, such as the names of its tokens.
    Account,
    /// For its address alone: version, from 1, counted up by each change and destroyed by the next one.
    Address(u32),
    /// For the free text of the sandboxes that were requested on one day, as year times 10 000 plus month times 100 plus day; destroyed on
    /// its 90th day.
    Day(u32),
    /// For the free text of a month's sandboxes, as year times 100 plus month: how it was sealed before each day had its key.
    Month(u32),
}

/// A sealed value as it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key that opens it.
    pub key: DataKeyLabel,
    /// 24 random bytes.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 24],
    /// Ciphertext and tag.
    #[serde(with = "serde_bytes")]
    pub text: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({:?}, {} bytes)", self.key, self.text.len())
    }
}

/// A value that does not open: another key, another place, or changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed field does not open with this key in this place")]
pub struct OpenError;

/// A symmetric key. Wiped from memory when dropped; never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey([redacted])")
    }
}

impl DataKey {
    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Seals `plain` for `field` of a record on `subject`. The nonce is random and used once.
    pub fn seal(
        &self,
        label: DataKeyLabel,
        nonce: [u8; 24],
        subject: &Subject,
        field: &str,
        plain: &[u8],
    ) -> Sealed {
        let aad = associated_data(subject, field);
        let text = self
            .cipher()
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad })
            .expect("sealing fails only above 256 GiB, and records end at 256 KiB");
        Sealed { key: label, nonce, text }
    }

    /// Opens what [`Self::seal`] sealed for this place.
    pub fn open(&self, sealed: &Sealed, subject: &Subject, field: &str) -> Result<Vec<u8>, OpenError> {
        let aad = associated_data(subject, field);
        self.cipher()
            .decrypt(&XNonce::from(sealed.nonce), Payload { msg: &sealed.text, aad: &aad })
            .map_err(|_| OpenError)
    }

    /// Wraps another key for storage on `subject`, as this key's epoch of the master key.
    pub fn wrap(&self, key: &DataKey, label: DataKeyLabel, nonce: [u8; 24], subject: &Subject) -> Sealed {
        self.seal(label, nonce, subject, WRAPPED_FIELD, &key.0)
    }

    /// Opens what [`Self::wrap`] wrapped.
    pub fn unwrap_key(&self, wrapped: &Sealed, subject: &Subject) -> Result<DataKey, OpenError> {
        let mut plain = self.open(wrapped, subject, WRAPPED_FIELD)?;
        let key = <[u8; 32]>::try_from(plain.as_slice()).map(DataKey).map_err(|_| OpenError);
        plain.zeroize();
        key
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }
}

/// Field name of a wrapped key.
const WRAPPED_FIELD: &str = "wrapped";

/// Subject and field name, separated by a byte that neither can hold.
fn associated_data(subject: &Subject, field: &str) -> Vec<u8> {
    [subject.as_str().as_bytes(), &[0], field.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AccountId;
    use crate::subject::SubjectKind;

    fn subject(byte: u8) -> Subject {
        SubjectKind::Account(AccountId::from_bytes([byte; 16])).into()
    }

    #[test]
    fn a_sealed_field_opens_only_with_its_key_in_its_place() {
        let key = DataKey::from_bytes([1; 32]);
        let sealed = key.seal(DataKeyLabel::Account, [2; 24], &subject(1), "email", b"someone@example.org");
        assert_eq!(key.open(&sealed, &subject(1), "email").as_deref(), Ok(b"someone@example.org".as_slice()));
        assert_eq!(key.open(&sealed, &subject(2), "email"), Err(OpenError));
        assert_eq!(key.open(&sealed, &subject(1), "name"), Err(OpenError));
        assert_eq!(DataKey::from_bytes([3; 32]).open(&sealed, &subject(1), "email"), Err(OpenError));
    }

    #[test]
    fn neither_a_key_nor_a_sealed_value_prints_what_it_holds() {
        let key = DataKey::from_bytes([0x41; 32]);
        let sealed =
            key.seal(DataKeyLabel::Account, [0x42; 24], &subject(1), "email", b"someone@example.org");
        let printed = format!("{key:?} {sealed:?}");
        assert_eq!(printed, "DataKey([redacted]) Sealed(Account, 35 bytes)");
    }
}
