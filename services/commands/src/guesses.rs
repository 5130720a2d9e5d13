//! Wrong codes per address. Whoever guesses makes the next codes longer, and so the guessing pointless, but locks nobody out: the owner of the
//! address reads a long code in the mail as easily. In memory; a restart forgives.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::address::Address;
use crate::codes::Form;

/// Wrong codes one after the other from which on an address gets long ones: ten tries at one of 10^6 are a chance of 1 in 100 000, for each time
/// that the owner signs in.
const PATIENCE: u32 = 10;

/// Addresses that are remembered, at most. Beyond that every address without a count of its own gets long codes.
const ADDRESSES_MAX: usize = 50_000;

/// How often each address was guessed at since its owner last signed in.
#[derive(Default)]
pub struct Guesses {
    wrong: Mutex<HashMap<Address, u32>>,
}

impl Guesses {
    /// The form of the next code for `address`. The same for addresses with and without an account.
    pub fn form(&self, address: &Address) -> Form {
        let wrong = self.lock();
        let is_suspect = match wrong.get(address) {
            Some(count) => *count >= PATIENCE,
            None => wrong.len() >= ADDRESSES_MAX,
        };
        if is_suspect { Form::Long } else { Form::Short }
    }

    /// A code for `address` was wrong.
    pub fn wrong(&self, address: &Address) {
        let mut wrong = self.lock();
        if wrong.len() < ADDRESSES_MAX || wrong.contains_key(address) {
            let count = wrong.entry(address.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// A code for `address` was right.
    pub fn right(&self, address: &Address) {
        self.lock().remove(address);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, u32>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: usize) -> Address {
        Address::parse(&format!("a{n}@example.org")).expect("an address")
    }

    #[test]
    fn ten_wrong_codes_make_the_next_ones_long_until_one_is_right() {
        let guesses = Guesses::default();
        for _ in 0..9 {
            guesses.wrong(&address(1));
        }
        assert_eq!(guesses.form(&address(1)), Form::Short);
        guesses.wrong(&address(1));
        assert_eq!((guesses.form(&address(1)), guesses.form(&address(2))), (Form::Long, Form::Short));
        guesses.right(&address(1));
        assert_eq!(guesses.form(&address(1)), Form::Short);
    }

    #[test]
    fn whoever_fills_the_memory_makes_codes_long_and_nothing_is_forgotten() {
        let guesses = Guesses::default();
        for _ in 0..PATIENCE {
            guesses.wrong(&address(0));
        }
        (1..=ADDRESSES_MAX).for_each(|n| guesses.wrong(&address(n)));
        assert_eq!(guesses.form(&address(0)), Form::Long);
        assert_eq!(guesses.form(&address(1)), Form::Short);
        assert_eq!(guesses.form(&address(ADDRESSES_MAX + 1)), Form::Long);
    }
}
