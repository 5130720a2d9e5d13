//! One-time codes: derived, never stored. Whoever holds every log and every disk but not the master key learns nothing about them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use omnirun_commands_api::mail::OneTimeCode;
use omnirun_events::auth::{ChallengeIssued, Purpose};
use omnirun_events::id::ChallengeId;
use omnirun_events::unit::Millis;
use sha2::Sha256;

use crate::address::Address;
use crate::master::MasterKey;

/// The 32 characters of long codes, none of which looks like another when read aloud (Crockford's base 32).
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What a code looks like. A challenge stores its number of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Six digits: five tries at one of 10^6 are a chance of 1 in 200 000.
    Short,
    /// Ten characters of base 32, 50 bits: for an address that somebody guesses at.
    Long,
}

impl Form {
    /// Characters of such a code.
    pub const fn characters(self) -> u8 {
        match self {
            Self::Short => 6,
            Self::Long => 10,
        }
    }

    /// The form of codes with so many characters; none if no code has.
    pub fn of(characters: u8) -> Option<Self> {
        [Self::Short, Self::Long].into_iter().find(|form| form.characters() == characters)
    }

    /// A code of this form out of 128 bits: the bias is below 2^-77.
    fn write(self, number: u128) -> String {
        let base = match self {
            Self::Short => 10,
            Self::Long => 32,
        };
        let digits = (0..self.characters()).scan(number, |rest, _| {
            let digit = CROCKFORD[(*rest % base) as usize];
            *rest /= base;
            Some(char::from(digit))
        });
        digits.collect()
    }
}

/// How long a code works: the ceiling for out-of-band secrets in NIST SP 800-63B-4 section 3.1.3.
pub const VALID_FOR: Millis = Millis(10 * 60 * 1000);

/// When a page may offer to send another code.
pub const RESEND_AFTER: Millis = Millis(30 * 1000);

/// Tries per challenge.
pub const TRIES: u64 = 5;

/// The code of a challenge; none if its epoch of the master key is gone or no code looks like it says. It is bound to the address as well
/// as to the account, so that it signs nobody in under another one, and to its purpose.
pub fn derive(
    master: &MasterKey,
    challenge: ChallengeId,
    issued: &ChallengeIssued,
    address: &Address,
) -> Option<OneTimeCode> {
    let (key, form) = (master.codes(issued.epoch)?, Form::of(issued.digits)?);
    let purpose = match issued.purpose {
        Purpose::SignIn => 0,
        Purpose::ChangeEmail => 1,
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length");
    mac.update(b"omnirun/otp/code/v2\0");
    mac.update(challenge.as_bytes());
    mac.update(issued.account.as_bytes());
    mac.update(address.as_str().as_bytes());
    mac.update(&[0, form.characters(), purpose]);
    let tag = mac.finalize().into_bytes();
    let (head, _) = tag.split_at(16);
    let number = u128::from_be_bytes(head.try_into().expect("16 of 32 bytes"));
    Some(OneTimeCode::new(form.write(number)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use omnirun_events::id::AccountId;
    use omnirun_events::unit::Timestamp;

    use super::*;

    fn issued(account: u8, purpose: Purpose) -> ChallengeIssued {
        let account = AccountId::from_bytes([account; 16]);
        ChallengeIssued { account, epoch: 1, digits: 6, bind: None, expires_at: Timestamp(9), purpose }
    }

    fn code(challenge: u8, issued: &ChallengeIssued, address: &str) -> String {
        let master = MasterKey::ephemeral(&(std::sync::Arc::new(|buffer: &mut [u8]| buffer.fill(5)) as _));
        let address = Address::parse(address).expect("an address");
        derive(&master, ChallengeId::from_bytes([challenge; 16]), issued, &address)
            .expect("an epoch that is held")
            .reveal()
            .to_owned()
    }

    #[test]
    fn a_code_is_six_digits_and_the_same_each_time() {
        let first = code(1, &issued(1, Purpose::SignIn), "a@example.org");
        assert_eq!(first, code(1, &issued(1, Purpose::SignIn), "a@example.org"));
        assert!(first.len() == 6 && first.bytes().all(|byte| byte.is_ascii_digit()));
    }

    #[test]
    fn a_long_code_is_ten_characters_that_nobody_mistakes() {
        let code = Form::Long.write(u128::MAX);
        assert_eq!(code, "ZZZZZZZZZZ");
        assert_eq!(Form::Long.write(0), "0000000000");
        assert!(CROCKFORD.iter().all(|letter| !b"ILOU".contains(letter)));
        assert_eq!((Form::of(6), Form::of(10), Form::of(7)), (Some(Form::Short), Some(Form::Long), None));
    }

    #[test]
    fn everything_it_is_bound_to_changes_it() {
        let codes = [
            code(1, &issued(1, Purpose::SignIn), "a@example.org"),
            code(2, &issued(1, Purpose::SignIn), "a@example.org"),
            code(1, &issued(2, Purpose::SignIn), "a@example.org"),
            code(1, &issued(1, Purpose::ChangeEmail), "a@example.org"),
            code(1, &issued(1, Purpose::SignIn), "b@example.org"),
        ];
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
    }

    #[test]
    fn there_is_no_code_of_an_epoch_that_is_gone() {
        let master = MasterKey::ephemeral(&(std::sync::Arc::new(|buffer: &mut [u8]| buffer.fill(5)) as _));
        let address = Address::parse("a@example.org").expect("an address");
        let issued = ChallengeIssued { epoch: 2, ..issued(1, Purpose::SignIn) };
        assert!(derive(&master, ChallengeId::from_bytes([1; 16]), &issued, &address).is_none());
    }
}
