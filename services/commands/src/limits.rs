//! How often codes may be asked for: per address and in all. In memory; a restart forgives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use omnirun_commands_api::{Code, Rejection};
use omnirun_events::unit::{Millis, Timestamp};

use crate::address::Address;

/// Codes that one address may ask for at once, and the time in which one of them grows back: 5 tries each at 10^6 codes bound what guessing
/// can reach.
const PER_ADDRESS: Rate = Rate { burst: 10, every: Millis(3600 * 1000) };

/// The same for all addresses together: what a mail server takes from one sender.
const IN_ALL: Rate = Rate { burst: 600, every: Millis(100) };

/// Addresses that are remembered, at most; those whose bucket is full again are forgotten first.
const ADDRESSES_MAX: usize = 50_000;

#[derive(Clone, Copy)]
struct Rate {
    burst: u64,
    every: Millis,
}

/// A bucket that is full at `full_at`: each take moves that moment by `every`.
#[derive(Clone, Copy, Default)]
struct Bucket {
    full_at: Timestamp,
}

/// Who asked how often.
#[derive(Default)]
pub struct CodeLimits {
    inner: Mutex<(Bucket, HashMap<Address, Bucket>)>,
}

impl CodeLimits {
    /// Counts one code for `address`, or says when to come back. The same for addresses with and without an account.
    pub fn take(&self, address: &Address, now: Timestamp) -> Result<(), Rejection> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, addresses) = &mut *inner;
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(address) {
            addresses.retain(|_, bucket| bucket.full_at > now);
        }
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(address) {
            return Err(too_many(IN_ALL.every));
        }
        let mut of_all = *all;
        of_all.take(IN_ALL, now)?;
        addresses.entry(address.clone()).or_default().take(PER_ADDRESS, now)?;
        *all = of_all;
        Ok(())
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Timestamp) -> Result<(), Rejection> {
        let full_at = self.full_at.max(now).after(rate.every);
        let missing = full_at.since(now);
        let held = Millis(rate.every.0.saturating_mul(rate.burst));
        if missing > held {
            return Err(too_many(missing.minus(held)));
        }
        self.full_at = full_at;
        Ok(())
    }
}

fn too_many(after: Millis) -> Rejection {
    Rejection::retryable(Code::RateLimited, "Too many codes were asked for; wait before asking again.", after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    #[test]
    fn an_address_has_ten_codes_and_one_more_each_hour() {
        let limits = CodeLimits::default();
        let (one, other) = (address("a@example.org"), address("b@example.org"));
        let now = Timestamp(1_000_000_000);
        for _ in 0..10 {
            limits.take(&one, now).expect("within the burst");
        }
        let refused = limits.take(&one, now).expect_err("the eleventh");
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(3_600_000))));
        limits.take(&other, now).expect("another address");
        limits.take(&one, now.after(Millis(3_600_000))).expect("an hour later");
        limits.take(&one, now.after(Millis(3_600_000))).expect_err("only one more");
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let limits = CodeLimits::default();
        let now = Timestamp(1_000_000_000);
        for n in 0..600 {
            limits.take(&address(&format!("a{n}@example.org")), now).expect("within the burst");
        }
        let one_more = address("z@example.org");
        assert_eq!(limits.take(&one_more, now).expect_err("too many").retry_after, Some(Millis(100)));
        limits.take(&one_more, now.after(Millis(100))).expect("a moment later");
    }
}
