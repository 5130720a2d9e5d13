//! Mail addresses: one form per mailbox, so that a mailbox has one account.
//!
//! Only what every mail server takes: ASCII with a dotted domain. Whether the mailbox exists, the code shows.

use std::fmt;

/// Characters before the `@`, at most (RFC 5321 section 4.5.3.1.1).
const LOCAL_MAX: usize = 64;

/// Characters of an address, at most: a path of 256 (RFC 5321 section 4.5.3.1.3) without its angle brackets.
const ADDRESS_MAX: usize = 254;

/// A mail address, trimmed and in lower case. Its Debug prints nothing of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

/// Text that is no mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a mail address that codes can be sent to")]
pub struct NotAnAddress;

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address([redacted])")
    }
}

impl Address {
    /// The address that somebody typed.
    pub fn parse(typed: &str) -> Result<Self, NotAnAddress> {
        let text = typed.trim().to_ascii_lowercase();
        if text.len() > ADDRESS_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAnAddress);
        }
        let (local, domain) = text.split_once('@').ok_or(NotAnAddress)?;
        if is_local(local) && is_domain(domain) { Ok(Self(text)) } else { Err(NotAnAddress) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 5321's Dot-string; quoted forms are used by nobody and parsed differently by everybody.
fn is_local(local: &str) -> bool {
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    local.len() <= LOCAL_MAX && local.split('.').all(is_atom)
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.contains('.') && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_one_mailbox_are_one_address() {
        let address = Address::parse("some.one+tag@example.org").expect("an address");
        for typed in ["  Some.One+Tag@Example.ORG\n", "some.one+tag@EXAMPLE.org"] {
            assert_eq!(Address::parse(typed), Ok(address.clone()));
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}example.org", "abcdefgh.".repeat(30));
        for typed in [
            "",
            "@",
            "a",
            "a@b",
            "a@@example.org",
            "a@b@example.org",
            "a b@example.org",
            "a\r\nBcc: c@example.org",
            "a@example.org,b@example.org",
            "<a@example.org>",
            ".a@example.org",
            "a..b@example.org",
            "a@-example.org",
            "a@example..org",
            "ä@example.org",
            "\u{212a}@example.org",
            "a@[127.0.0.1]",
            &long,
            &longer,
        ] {
            assert_eq!(Address::parse(typed), Err(NotAnAddress), "{typed:?}");
        }
    }

    #[test]
    fn an_address_does_not_print() {
        assert_eq!(format!("{:?}", Address::parse("a@example.org")), "Ok(Address([redacted]))");
    }
}
