//! Credentials as text: how they are made, recognised and compared.
//!
//! `omr_` (a program's) or `oms_` (a browser session's), 40 random base62 characters (238 bits), and the CRC-32 (ISO 3309) of everything
//! before in 6 base62 characters, so that a scanner recognises a leaked one offline. Only an HKDF output of it is stored.

use std::fmt;

use hkdf::Hkdf;
use omnirun_events::token::TokenVerifier;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The digits of base62 in the order of their values.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random characters.
const BODY: usize = 40;
/// Characters of the checksum: 62^6 is above 2^32.
const CHECKSUM: usize = 6;
/// Characters of the prefix.
const PREFIX: usize = 4;

/// Where a credential is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// `omr_`, in a header.
    Program,
    /// `oms_`, in the cookie.
    Session,
}

impl Prefix {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Program => "omr_",
            Self::Session => "oms_",
        }
    }
}

/// A text that is no credential of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a credential")]
pub struct NotAToken;

/// A credential. Wiped from memory when dropped; cannot be printed or serialised, only given out by [`Self::reveal_once`].
pub struct TokenText {
    prefix: Prefix,
    text: Zeroizing<String>,
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText([redacted])")
    }
}

impl TokenText {
    /// A new credential from the system's random source.
    pub fn generate(prefix: Prefix) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX + BODY + CHECKSUM));
        text.push_str(prefix.as_str());
        while text.len() < PREFIX + BODY {
            let mut bytes = Zeroizing::new([0_u8; 64]);
            crate::ask::fill_random(bytes.as_mut_slice());
            // 248 is the largest multiple of 62 in a byte: larger values are thrown away, so that every character is equally likely.
            let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| BASE62[usize::from(byte % 62)]);
            let missing = PREFIX + BODY - text.len();
            fair.take(missing).for_each(|digit| text.push(char::from(digit)));
        }
        let sum = checksum(&text);
        text.push_str(&sum);
        Self { prefix, text }
    }

    /// The credential that `text` is, if its form and checksum are right.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let prefix = match text.get(..PREFIX) {
            Some("omr_") => Prefix::Program,
            Some("oms_") => Prefix::Session,
            _ => return Err(NotAToken),
        };
        let is_base62 = text.bytes().skip(PREFIX).all(|byte| byte.is_ascii_alphanumeric());
        if text.len() != PREFIX + BODY + CHECKSUM || !is_base62 {
            return Err(NotAToken);
        }
        let (front, sum) = text.split_at(PREFIX + BODY);
        if checksum(front) != sum {
            return Err(NotAToken);
        }
        Ok(Self { prefix, text: Zeroizing::new(text.to_owned()) })
    }

    /// Where it may be presented.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// What of it is stored and looked up.
    pub fn verifier(&self) -> TokenVerifier {
        let mut verifier = [0; 32];
        self.derive(b"auth-verifier", &mut verifier);
        TokenVerifier(verifier)
    }

    /// What wraps a vault's key for whoever holds this token. Never stored, and nothing that is stored says anything about it.
    pub fn vault_wrap_key(&self) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.derive(b"vault-wrap", &mut key);
        key
    }

    /// HKDF-SHA256 (RFC 5869) under a label for each use: no output says anything about another one or about the text.
    fn derive(&self, label: &[u8], output: &mut [u8; 32]) {
        Hkdf::<Sha256>::new(Some(b"omnirun/token/v1"), self.text.as_bytes())
            .expand(label, output)
            .expect("32 bytes are below the 8160 that HKDF-SHA256 gives");
    }

    /// The checksum characters, by which a list of tokens is matched with one at hand.
    pub fn hint(&self) -> String {
        self.text[PREFIX + BODY..].to_owned()
    }

    /// The text, for the one answer that shows it.
    pub fn reveal_once(self) -> String {
        self.text.as_str().to_owned()
    }
}

/// The CRC-32 of `text` in base62, six digits, most significant first.
fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of the format.
    const EXAMPLE: &str = "omr_Tl9MLL7wq48h1rIgbvE2tdhHcSmeF11RsjEjKBmM1gTpXM";

    #[test]
    fn the_published_example_is_a_token() {
        let token = TokenText::parse(EXAMPLE).expect("published");
        assert_eq!((token.prefix(), token.hint().as_str()), (Prefix::Program, "1gTpXM"));
        assert_eq!(token.reveal_once(), EXAMPLE);
    }

    /// Computed by another implementation of HKDF. They are in logs and in wraps, so they can never change.
    #[test]
    fn the_verifier_and_the_key_that_wraps_a_vault_come_from_one_token_under_labels_of_their_own() {
        let token = TokenText::parse(EXAMPLE).expect("published");
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(
            hex(&token.verifier().0),
            "7b32c58cca7f8fcc60ea8ed7bd63a23356de8da12d0c11052b5e9faebf0588cc"
        );
        assert_eq!(
            hex(&*token.vault_wrap_key()),
            "a04761dd8f31529d13e41835c525f4d5bc179bdbe99f31f560216f59c535173c"
        );
    }

    #[test]
    fn a_new_token_has_the_published_form_and_is_another_one_each_time() {
        for prefix in [Prefix::Program, Prefix::Session] {
            let text = TokenText::generate(prefix).reveal_once();
            assert_eq!(text.len(), 50);
            let parsed = TokenText::parse(&text).expect("it was just made");
            assert_eq!(parsed.prefix(), prefix);
            assert_ne!(parsed.verifier(), TokenText::generate(prefix).verifier());
        }
    }

    #[test]
    fn one_changed_character_is_noticed_before_any_look_up() {
        for index in 0..EXAMPLE.len() {
            let mut bytes = EXAMPLE.as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'x' { b'y' } else { b'x' };
            let text = String::from_utf8(bytes).expect("ascii");
            assert_eq!(TokenText::parse(&text).err(), Some(NotAToken), "{index}");
        }
        for text in
            ["", "omr_", "omr_é", &EXAMPLE[..49], "omr_Tl9MLL7wq48h1rIgbvE2tdhHcSmeF11RsjEjKBmM1gTpXM0"]
        {
            assert_eq!(TokenText::parse(text).err(), Some(NotAToken), "{text}");
        }
    }

    #[test]
    fn every_character_is_about_equally_likely() {
        let mut counts = [0_u32; 62];
        for _ in 0..500 {
            let text = TokenText::generate(Prefix::Program).reveal_once();
            for byte in text.bytes().skip(PREFIX).take(BODY) {
                counts[BASE62.iter().position(|digit| *digit == byte).expect("base62")] += 1;
            }
        }
        // 20 000 draws, 322 expected of each, deviation 18: eight deviations are no accident.
        assert!(counts.iter().all(|count| (180..=470).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_token_does_not_print_itself() {
        assert_eq!(format!("{:?}", TokenText::parse(EXAMPLE).expect("published")), "TokenText([redacted])");
    }
}
