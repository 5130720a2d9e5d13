//! How often codes may be asked for: per address and network that asks, per network, and in all. In memory; a restart forgives.
//!
//! Nobody can use up what the owner of an address may ask for: the limit that refuses is that of the place which asks. Whoever asks from many
//! places makes the codes long.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use omnirun_commands_api::command::ClientNetwork;
use omnirun_commands_api::{Code, Rejection};
use omnirun_events::unit::{Millis, Timestamp};

use crate::address::Address;
use crate::codes::Form;

/// Codes that may be asked for at once for one address from one network, and the time in which one of them grows back.
const PER_PLACE: Rate = Rate { burst: 10, every: Millis(3600 * 1000) };

/// Codes for one address, wherever they are asked for, that may be short: 5 tries each at 10^6 codes bound what guessing can reach. Those above
/// it are long.
const SHORT_PER_ADDRESS: Rate = Rate { burst: 30, every: Millis(3600 * 1000) };

/// The same for one network: an office may sign in on one morning, and nobody can send mails to a list of addresses from one place.
const PER_NETWORK: Rate = Rate { burst: 30, every: Millis(120 * 1000) };

/// The same for all addresses together: what a mail server takes from one sender.
const IN_ALL: Rate = Rate { burst: 600, every: Millis(100) };

/// Addresses, and networks, that are remembered, at most; those whose bucket is full again are forgotten first.
const REMEMBERED_MAX: usize = 50_000;

/// So many at once, and one more each time that `every` has passed.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub burst: u64,
    pub every: Millis,
}

/// A bucket that is full at `full_at`: each take moves that moment by `every`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bucket {
    pub full_at: Timestamp,
}

/// Who asked how often.
#[derive(Default)]
pub struct CodeLimits {
    inner: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    all: Bucket,
    places: HashMap<(Address, Option<ClientNetwork>), Bucket>,
    addresses: HashMap<Address, Bucket>,
    networks: HashMap<ClientNetwork, Bucket>,
}

impl CodeLimits {
    /// Counts one code for `address` that was asked for from `network`, and answers with the shortest form that it may have; or says when to
    /// come back and counts nothing. The same for addresses with and without an account.
    pub fn take(
        &self,
        address: &Address,
        network: Option<ClientNetwork>,
        now: Timestamp,
    ) -> Result<Form, Rejection> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { all, places, addresses, networks } = &mut *inner;
        let place = (address.clone(), network);
        let of_all = all.less(IN_ALL, now).map_err(too_many)?;
        let of_place = bucket(places, &place, now)?.less(PER_PLACE, now).map_err(too_many)?;
        if let Some(network) = network {
            let of_network = bucket(networks, &network, now)?.less(PER_NETWORK, now).map_err(too_many)?;
            networks.insert(network, of_network);
        }
        places.insert(place, of_place);
        *all = of_all;
        let short = bucket(addresses, address, now).ok();
        let short = short.and_then(|bucket| bucket.less(SHORT_PER_ADDRESS, now).ok());
        let Some(of_address) = short else { return Ok(Form::Long) };
        addresses.insert(address.clone(), of_address);
        Ok(Form::Short)
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
    /// The bucket after one take; or the time until there is something to take.
    pub fn less(self, rate: Rate, now: Timestamp) -> Result<Self, Millis> {
        let full_at = self.full_at.max(now).after(rate.every);
        let missing = full_at.since(now);
        let held = Millis(rate.every.0.saturating_mul(rate.burst));
        if missing > held { Err(missing.minus(held)) } else { Ok(Self { full_at }) }
    }

    /// The bucket after giving one back.
    pub fn more(self, rate: Rate) -> Self {
        Self { full_at: Timestamp(self.full_at.0.saturating_sub(rate.every.0)) }
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
    fn an_address_has_ten_codes_and_one_more_each_hour_from_each_place() {
        let limits = CodeLimits::default();
        let (one, other) = (address("a@example.org"), address("b@example.org"));
        let now = Timestamp(1_000_000_000);
        for _ in 0..10 {
            limits.take(&one, None, now).expect("within the burst");
        }
        let refused = limits.take(&one, None, now).expect_err("the eleventh");
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(3_600_000))));
        limits.take(&other, None, now).expect("another address");
        let elsewhere = Some(ClientNetwork::V4([192, 0, 2]));
        limits.take(&one, elsewhere, now).expect("whoever asks here keeps nobody from asking there");
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
    fn whoever_asks_from_everywhere_makes_the_codes_long_and_keeps_nobody_out() {
        let limits = CodeLimits::default();
        let (one, other) = (address("a@example.org"), address("b@example.org"));
        let now = Timestamp(1_000_000_000);
        for n in 0..30 {
            let from = Some(ClientNetwork::V4([192, 0, n]));
            assert_eq!(limits.take(&one, from, now).expect("a place of its own"), Form::Short);
        }
        for n in 30..200 {
            let from = Some(ClientNetwork::V4([192, 0, n]));
            assert_eq!(limits.take(&one, from, now).expect("never refused"), Form::Long);
        }
        assert_eq!(limits.take(&other, None, now), Ok(Form::Short));
        assert_eq!(limits.take(&one, None, now.after(Millis(3_600_000))), Ok(Form::Short));
        assert_eq!(limits.take(&one, None, now.after(Millis(3_600_000))), Ok(Form::Long));
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
