//! Identifiers: 128 random bits each, one type per kind so that they cannot be swapped.
//!
//! As text an id is 26 characters of lower-case base32 (RFC 4648 section 6, no padding), which is a valid NATS subject
//! token and URL segment. On disk it is 16 bytes. Ids carry no meaning: no time, no host, no address.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// Characters in the text of an id: 128 bits at 5 bits each, rounded up.
pub const ID_TEXT_LEN: usize = 26;

/// The alphabet that every id and digest prints in: RFC 4648 base32 in lower case, no padding.
pub(crate) fn base32() -> &'static Encoding {
    // Made once: a replay reads two ids for each record.
    static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
        let mut specification = Specification::new();
        specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        specification.encoding().expect("32 distinct symbols make a base32 encoding")
    });
    &BASE32
}

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 26 characters of lower-case base32")]
pub struct ParseIdError;

fn parse(text: &str) -> Result<[u8; 16], ParseIdError> {
    let mut bytes = [0; 16];
    // `decode_mut` panics unless the length of its output is exactly what the text gives.
    if text.len() != ID_TEXT_LEN {
        return Err(ParseIdError);
    }
    base32().decode_mut(text.as_bytes(), &mut bytes).map_err(|_| ParseIdError)?;
    Ok(bytes)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes; the caller got them from the system's random source.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id that `seed` determines for this `label`: equal inputs give equal ids, so a retried
            /// command lands on the record of its first try. Different labels give unrelated ids.
            pub fn derive(seed: &[u8], label: &str) -> Self {
                let digest = Sha256::new()
                    .chain_update(b"omnirun/id/v1\0")
                    .chain_update(label.as_bytes())
                    .chain_update([0])
                    .chain_update(seed)
                    .finalize();
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest[..16]);
                Self(bytes)
            }

            /// The 16 bytes that are stored.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32().encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    serde_bytes::ByteArray::<16>::deserialize(deserializer).map(|bytes| Self(*bytes))
                }
            }
        }
    )*};
}

ids! {
    /// One account. Random, never derived from the address, so that it identifies nobody.
    AccountId;
    /// One credential: an API token, a dashboard session or a command-line sign-in.
    TokenId;
    /// One sandbox, from its request to its end. Never used again.
    SandboxId;
    /// One worker host. A reinstalled machine is another host.
    HostId;
    /// One sign-in challenge; it lives in the AUTH log for fifteen minutes.
    ChallengeId;
    /// One commit: the records that a writer appended together. A retry carries the same id.
    CommitId;
    /// One erasure of an account. Random, never derived from the account.
    ReceiptId;
    /// One command on the bus; see `services/commands/api`.
    CommandId;
    /// One signing key: the first 16 bytes of SHA-256 over its role's label and its public half.
    KeyId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_id_reads_back_as_the_id() {
        let id = SandboxId::from_bytes([0xa7; 16]);
        assert_eq!(id.to_string().len(), ID_TEXT_LEN);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn text_of_another_length_or_alphabet_is_no_id() {
        for text in [
            "",
            "a",
            "AAAAAAAAAAAAAAAAAAAAAAAAAA",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "aaaaaaaaaaaaa.aaaaaaaaaaaa",
        ] {
            assert_eq!(text.parse::<TokenId>(), Err(ParseIdError), "{text}");
        }
    }

    #[test]
    fn ids_derived_from_one_seed_differ_by_label() {
        let seed = [7; 32];
        assert_eq!(CommitId::derive(&seed, "commit"), CommitId::derive(&seed, "commit"));
        assert_ne!(
            CommitId::derive(&seed, "commit").as_bytes(),
            SandboxId::derive(&seed, "sandbox").as_bytes()
        );
    }
}
