//! How often codes may be asked for: per address, per network that asks, and in all. In memory; a restart forgives.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use omnirun_commands_api::command::ClientNetwork;
use omnirun_commands_api::{Code, Rejection};
use omnirun_events::unit::{Millis, Timestamp};

use crate::address::Address;

/// Codes that one address may ask for at once, and the time in which one of them grows back: 5 tries each at 10^6 codes bound what guessing
/// can reach.
const PER_ADDRESS: Rate = Rate { burst: 10, every: Millis(3600 * 1000) };

/// The same for one network: an office may sign in on one morning, and nobody can send mails to a list of addresses from one place.
const PER_NETWORK: Rate = Rate { burst: 30, every: Millis(120 * 1000) };

/// The same for all addresses together: what a mail server takes from one sender.
const IN_ALL: Rate = Rate { burst: 600, every: Millis(100) };

/// Addresses, and networks, that are remembered, at most; those whose bucket is full again are forgotten first.
const REMEMBERED_MAX: usize = 50_000;

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
    inner: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    all: Bucket,
    addresses: HashMap<Address, Bucket>,
    networks: HashMap<ClientNetwork, Bucket>,
}

impl CodeLimits {
    /// Counts one code for `address` that was asked for from `network`, or says when to come back and counts nothing. The same for addresses
    /// with and without an account.
    pub fn take(
        &self,
        address: &Address,
        network: Option<ClientNetwork>,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { all, addresses, networks } = &mut *inner;
        let of_all = all.less(IN_ALL, now)?;
        let of_address = bucket(addresses, address, now)?.less(PER_ADDRESS, now)?;
        if let Some(network) = network {
            let of_network = bucket(networks, &network, now)?.less(PER_NETWORK, now)?;
            networks.insert(network, of_network);
        }
        addresses.insert(address.clone(), of_address);
        *all = of_all;
        Ok(())
    }
}

/// The bucket of `key`, after making room for one if it is new.
fn bucket<K: Hash + Eq>(
    known: &mut HashMap<K, Bucket>,
    key: &K,
    now: Timestamp,
) -> Result<Bucket, Rejection> {
    if let Some(bucket) = known.get(key) {
        return Ok(*bucket);
    }
    if known.len() >= REMEMBERED_MAX {
        known.retain(|_, bucket| bucket.full_at > now);
    }
    if known.len() >= REMEMBERED_MAX { Err(too_many(IN_ALL.every)) } else { Ok(Bucket::default()) }
}

impl Bucket {
    /// The bucket after one take.
    fn less(self, rate: Rate, now: Timestamp) -> Result<Self, Rejection> {
        let full_at = self.full_at.max(now).after(rate.every);
        let missing = full_at.since(now);
        let held = Millis(rate.every.0.saturating_mul(rate.burst));
        if missing > held {
            return Err(too_many(missing.minus(held)));
        }
        Ok(Self { full_at })
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
            limits.take(&one, None, now).expect("within the burst");
        }
        let refused = limits.take(&one, None, now).expect_err("the eleventh");
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(3_600_000))));
        limits.take(&other, None, now).expect("another address");
        limits.take(&one, None, now.after(Millis(3_600_000))).expect("an hour later");
        limits.take(&one, None, now.after(Millis(3_600_000))).expect_err("only one more");
    }

    #[test]
    fn a_network_has_thirty_codes_for_whatever_addresses_and_another_one_its_own() {
        let limits = CodeLimits::default();
        let (one, other) = (Some(ClientNetwork::V4([192, 0, 2])), Some(ClientNetwork::V4([192, 0, 3])));
        let now = Timestamp(1_000_000_000);
        let address = |n: u32| address(&format!("a{n}@example.org"));
        for n in 0..30 {
            limits.take(&address(n), one, now).expect("within the burst");
        }
        let refused = limits.take(&address(30), one, now).expect_err("the next");
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(120_000))));
        for _ in 0..10 {
            limits.take(&address(30), other, now).expect("the refused one counted nothing");
        }
        limits.take(&address(31), one, now.after(Millis(120_000))).expect("two minutes later");
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let limits = CodeLimits::default();
        let now = Timestamp(1_000_000_000);
        for n in 0..600 {
            limits.take(&address(&format!("a{n}@example.org")), None, now).expect("within the burst");
        }
        let one_more = address("z@example.org");
        assert_eq!(limits.take(&one_more, None, now).expect_err("too many").retry_after, Some(Millis(100)));
        limits.take(&one_more, None, now.after(Millis(100))).expect("a moment later");
    }
}
