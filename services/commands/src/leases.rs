//! Leases of hosts: who has said nothing for so long that its sandboxes are given up.
//!
//! Pure. A host needs no message of its own for this: it signs a reading of each of its sandboxes every minute, so a host that has sandboxes and
//! says nothing new about any of them is silent. Time here is that of one process since its start, never a clock's: a lease runs only while
//! this process itself has seen the log, and a host whose silence nobody can vouch for is given a whole lease again.

use std::collections::BTreeMap;

use omnirun_events::id::{HostId, SandboxId};
use omnirun_events::log::Sequence;
use omnirun_events::unit::{Millis, Timestamp};

/// Time between two looks, at most: after a longer one this process may have been away itself.
pub const GAP_MAX: Millis = Millis(3 * 60 * 1000);

/// All that there is of a host by now which says that it lives. Anything else the next time is a sign of life. Who signed it is not asked: whoever
/// has a worker's access may file rubbish after a reading, and with that shall have no host given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// When it last joined.
    pub joined_at: Timestamp,
    /// Its sandboxes that are not final, with the last positions of their readings.
    pub filed: BTreeMap<SandboxId, Vec<Option<Sequence>>>,
}

/// The leases of the hosts that have sandboxes.
#[derive(Debug)]
pub struct Leases {
    lease: Millis,
    looked_at: Option<Millis>,
    heard: BTreeMap<HostId, Heard>,
}

#[derive(Debug)]
struct Heard {
    word: Word,
    at: Millis,
}

impl Leases {
    /// None has been looked at yet.
    pub fn of(lease: Millis) -> Self {
        Self { lease, looked_at: None, heard: BTreeMap::new() }
    }

    /// Takes what the log says at `now` of every host that has sandboxes; answers with those whose leases are over. They are answered again
    /// each time until they have no sandboxes any more, or are heard.
    pub fn look(&mut self, now: Millis, words: BTreeMap<HostId, Word>) -> Vec<HostId> {
        let is_whole = self.looked_at.is_some_and(|before| now.0.saturating_sub(before.0) <= GAP_MAX.0);
        self.looked_at = Some(now);
        let mut before = std::mem::take(&mut self.heard);
        self.heard = words
            .into_iter()
            .map(|(host, word)| {
                let same = before.remove(&host).filter(|heard| is_whole && heard.word == word);
                (host, same.unwrap_or(Heard { word, at: now }))
            })
            .collect();
        let silent = self.heard.iter().filter(|(_, heard)| now.0.saturating_sub(heard.at.0) >= self.lease.0);
        silent.map(|(host, _)| *host).collect()
    }

    /// The log could not be seen: whatever hosts have said since the look before, every one of them gets a whole lease.
    pub fn could_not_look(&mut self) {
        self.looked_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Millis = Millis(20 * MINUTE);
    const MINUTE: u64 = 60_000;
    const HOST: HostId = HostId::from_bytes([1; 16]);
    const OTHER: HostId = HostId::from_bytes([2; 16]);

    fn word(sandbox: u8, position: u32) -> Word {
        let filed = vec![None, Some(Sequence(position.into()))];
        Word {
            joined_at: Timestamp(1),
            filed: BTreeMap::from([(SandboxId::from_bytes([sandbox; 16]), filed)]),
        }
    }

    /// The minutes at which the host was given up, when it says `said(minute)` and is looked at in `minutes`.
    fn given_up(minutes: impl IntoIterator<Item = u64>, said: impl Fn(u64) -> Word) -> Vec<u64> {
        let mut leases = Leases::of(LEASE);
        let is_over = |minute: &u64| {
            let words = BTreeMap::from([(HOST, said(*minute)), (OTHER, word(9, *minute as u32))]);
            let over = leases.look(Millis(minute * MINUTE), words);
            assert!(!over.contains(&OTHER), "it is heard every minute");
            over.contains(&HOST)
        };
        minutes.into_iter().filter(is_over).collect()
    }

    #[test]
    fn a_host_that_says_nothing_new_for_a_lease_is_given_up() {
        assert_eq!(given_up(0..22, |_| word(1, 7)), [20, 21]);
    }

    #[test]
    fn a_reading_a_sandbox_and_a_start_are_signs_of_life() {
        assert_eq!(given_up(0..22, |minute| word(1, u32::from(minute > 2))), [] as [u64; 0]);
        assert_eq!(given_up(0..22, |minute| word(1 + u8::from(minute > 2), 0)), [] as [u64; 0]);
        let joined = |minute| Word { joined_at: Timestamp(1 + u64::from(minute > 2)), ..word(1, 0) };
        assert_eq!(given_up(0..22, joined), [] as [u64; 0]);
        assert_eq!(given_up(0..24, |minute| word(1, u32::from(minute > 2))), [23]);
    }

    #[test]
    fn after_a_gap_every_host_has_a_whole_lease() {
        let asleep = (0..10).chain(14..40);
        assert_eq!(given_up(asleep, |_| word(1, 7)), [34, 35, 36, 37, 38, 39]);
        let slow = (0..24).step_by(3);
        assert_eq!(given_up(slow, |_| word(1, 7)), [21]);
    }

    #[test]
    fn after_an_outage_every_host_has_a_whole_lease() {
        let mut leases = Leases::of(LEASE);
        assert!((0..20).all(|minute| look(&mut leases, minute).is_empty()));
        leases.could_not_look();
        assert!((20..40).all(|minute| look(&mut leases, minute).is_empty()));
        assert_eq!(look(&mut leases, 40), [HOST]);
    }

    fn look(leases: &mut Leases, minute: u64) -> Vec<HostId> {
        leases.look(Millis(minute * MINUTE), BTreeMap::from([(HOST, word(1, 7))]))
    }

    #[test]
    fn a_host_without_sandboxes_has_no_lease() {
        let mut leases = Leases::of(LEASE);
        assert!(leases.look(Millis(0), BTreeMap::from([(HOST, word(1, 7))])).is_empty());
        for minute in 1..30 {
            assert!(leases.look(Millis(minute * MINUTE), BTreeMap::new()).is_empty());
        }
        assert!(look(&mut leases, 30).is_empty(), "its sandbox is new to it");
    }
}
