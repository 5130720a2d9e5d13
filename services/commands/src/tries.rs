//! Wrong codes per network: a stranger cannot use up the tries of a code that is on its way to somebody else. In memory, never stored; a restart
//! forgives.
//!
//! A try counts as wrong until it has proved right, so that many at once count as many. Requests of this machine itself come from no network
//! and are not counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use omnirun_commands_api::command::ClientNetwork;
use omnirun_commands_api::{Code, Rejection};
use omnirun_events::id::ChallengeId;
use omnirun_events::unit::{Millis, Timestamp};

use crate::codes::{TRIES, VALID_FOR};
use crate::decide::sign_in::refused;
use crate::limits::{Bucket, Rate};

/// Wrong tries that one network has at one challenge: one of the five is left for its owner.
const AT_ONE_CHALLENGE: u64 = TRIES - 1;

/// Wrong tries that one network has at all challenges together.
const PER_NETWORK: Rate = Rate { burst: 20, every: Millis(60 * 1000) };

/// Networks, and challenges tried from one, that are remembered, at most. Beyond that they are not counted: whoever has so many networks could
/// use up any challenge with five of them.
const REMEMBERED_MAX: usize = 50_000;

/// Who tried how often.
#[derive(Default)]
pub struct WrongTries {
    inner: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    networks: HashMap<ClientNetwork, Bucket>,
    /// Tries, and when the challenge is over at the latest.
    challenges: HashMap<(ChallengeId, ClientNetwork), (u64, Timestamp)>,
}

impl WrongTries {
    /// Counts one wrong try, or refuses it: with the answer to a wrong code where the network had its tries at this challenge, and for a while where
    /// it had too many altogether.
    pub fn take(
        &self,
        challenge: ChallengeId,
        network: Option<ClientNetwork>,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        let Some(network) = network else { return Ok(()) };
        let mut known = self.lock();
        let Known { networks, challenges } = &mut *known;
        let of_network = networks.get(&network).copied().unwrap_or_default();
        let of_network = of_network.less(PER_NETWORK, now).map_err(too_many)?;
        let place = (challenge, network);
        let (tries, until) = challenges.get(&place).copied().unwrap_or((0, now.after(VALID_FOR)));
        if tries >= AT_ONE_CHALLENGE {
            return Err(refused());
        }
        if challenges.len() >= REMEMBERED_MAX {
            challenges.retain(|_, (_, until)| now < *until);
        }
        if networks.len() >= REMEMBERED_MAX {
            networks.retain(|_, bucket| now < bucket.full_at);
        }
        if challenges.len() < REMEMBERED_MAX {
            challenges.insert(place, (tries + 1, until));
        }
        if networks.len() < REMEMBERED_MAX {
            networks.insert(network, of_network);
        }
        Ok(())
    }

    /// The try was right: it does not count.
    pub fn give_back(&self, challenge: ChallengeId, network: Option<ClientNetwork>) {
        let Some(network) = network else { return };
        let mut known = self.lock();
        if let Some((tries, _)) = known.challenges.get_mut(&(challenge, network)) {
            *tries = tries.saturating_sub(1);
        }
        if let Some(bucket) = known.networks.get_mut(&network) {
            *bucket = bucket.more(PER_NETWORK);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many(after: Millis) -> Rejection {
    let message = "Too many wrong codes came from this network; wait before trying again.";
    Rejection::retryable(Code::RateLimited, message, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn challenge(n: u8) -> ChallengeId {
        ChallengeId::from_bytes([n; 16])
    }

    fn network(n: u8) -> Option<ClientNetwork> {
        Some(ClientNetwork::V4([192, 0, n]))
    }

    fn code(taken: Result<(), Rejection>) -> Option<Code> {
        taken.err().map(|rejection| rejection.code)
    }

    #[test]
    fn a_network_has_four_tries_at_a_challenge_and_leaves_the_others_theirs() {
        let tries = WrongTries::default();
        for _ in 0..4 {
            tries.take(challenge(1), network(1), NOW).expect("one of four");
        }
        assert_eq!(code(tries.take(challenge(1), network(1), NOW)), Some(Code::InvalidOrExpiredCode));
        assert_eq!(code(tries.take(challenge(1), network(2), NOW)), None, "another network");
        assert_eq!(code(tries.take(challenge(2), network(1), NOW)), None, "another challenge");
        assert_eq!(code(tries.take(challenge(1), None, NOW)), None, "this machine");
    }

    #[test]
    fn a_network_has_twenty_wrong_tries_and_one_more_each_minute() {
        let tries = WrongTries::default();
        for n in 0..20 {
            tries.take(challenge(n), network(1), NOW).expect("one of twenty");
        }
        let refused = tries.take(challenge(20), network(1), NOW).expect_err("the next");
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(60_000))));
        assert_eq!(code(tries.take(challenge(20), network(2), NOW)), None, "another network");
        assert_eq!(code(tries.take(challenge(20), network(1), NOW.after(Millis(60_000)))), None);
    }

    #[test]
    fn what_was_right_does_not_count() {
        let tries = WrongTries::default();
        for _ in 0..100 {
            tries.take(challenge(1), network(1), NOW).expect("none was wrong");
            tries.give_back(challenge(1), network(1));
        }
    }
}
