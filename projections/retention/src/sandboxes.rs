//! Sandboxes that have ended: their lives go whole, and with them their requests from the beginning of the account's admission subject.
//!
//! A chain loses its beginning and never its middle, so a sandbox goes with every one that was requested before it. Those have ended
//! too, at most one session earlier or later; if one has not, everything from its request on waits.

use std::collections::BTreeSet;

use omnirun_events::id::SandboxId;
use omnirun_events::unit::Timestamp;

use crate::seen::Seen;

/// Sandboxes that go in one round, at most, so that their tombstone fits into a record.
pub const ROUND: usize = 256;

/// Records of the admission subject that go in one round, at most, for the same reason.
pub const ROUND_RECORDS: usize = 4096;

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It can still say something.
    Alive,
    /// It ended then.
    Ended(Timestamp),
    /// It went before.
    Gone,
}

/// What goes of an account in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The sandboxes.
    pub sandboxes: BTreeSet<SandboxId>,
    /// Records from the beginning of the admission subject.
    pub records: usize,
    /// Whether there are others: the last record of a subject that may still be appended to never goes.
    pub last_goes: LastGoes,
}

/// Whether the last record of the admission subject is among those that go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastGoes {
    /// Another record has to be appended first.
    Yes,
    /// Others stay.
    No,
}

/// What goes in one round of at most `most` sandboxes, of the records of an account's admission subject in order. `None` if nothing does.
pub fn expired(
    records: &[Seen],
    life: impl Fn(SandboxId) -> Life,
    cutoff: Timestamp,
    most: usize,
) -> Option<Trim> {
    let mut sandboxes = BTreeSet::new();
    let mut trim = None;
    for (index, record) in records.iter().enumerate().take(ROUND_RECORDS) {
        let life = record.about.map(|sandbox| (sandbox, life(sandbox)));
        match life {
            Some((_, Life::Alive)) => break,
            Some((sandbox, Life::Ended(_))) if !sandboxes.contains(&sandbox) => {
                if sandboxes.len() == most {
                    break;
                }
                sandboxes.insert(sandbox);
            }
            _ => {}
        }
        let is_due = match life {
            Some((_, Life::Ended(at))) => at < cutoff,
            Some((_, Life::Gone)) => true,
            _ => false,
        };
        if is_due {
            let last_goes = if index + 1 == records.len() { LastGoes::Yes } else { LastGoes::No };
            trim = Some(Trim { sandboxes: sandboxes.clone(), records: index + 1, last_goes });
        }
    }
    trim
}

#[cfg(test)]
mod tests {
    use omnirun_events::envelope::RecordHash;
    use omnirun_events::id::AccountId;
    use omnirun_events::log::Sequence;
    use omnirun_events::subject::SubjectKind;
    use proptest::prelude::*;

    use super::*;

    fn sandbox(n: u8) -> SandboxId {
        SandboxId::from_bytes([n; 16])
    }

    fn records(about: &[u8]) -> Vec<Seen> {
        let record = |(index, n): (usize, &u8)| Seen {
            subject: SubjectKind::Admission(AccountId::from_bytes([1; 16])).into(),
            sequence: Sequence(index as u64 + 1),
            version: index as u64 + 1,
            hash: RecordHash([0; 32]),
            at: Timestamp(0),
            about: (*n > 0).then(|| sandbox(*n)),
        };
        about.iter().enumerate().map(record).collect()
    }

    /// Lives by number: 0 is alive, others ended then.
    fn trim(about: &[u8], lives: &[u64]) -> Option<(Vec<u8>, usize, LastGoes)> {
        let life = |id: SandboxId| match lives[usize::from(id.as_bytes()[0]) - 1] {
            0 => Life::Alive,
            u64::MAX => Life::Gone,
            at => Life::Ended(Timestamp(at)),
        };
        let trim = expired(&records(about), life, Timestamp(10), ROUND)?;
        Some((trim.sandboxes.iter().map(|id| id.as_bytes()[0]).collect(), trim.records, trim.last_goes))
    }

    #[test]
    fn what_ended_long_ago_goes_with_its_request_and_its_extensions() {
        assert_eq!(trim(&[1, 1, 2], &[5, 20]), Some((vec![1], 2, LastGoes::No)));
        assert_eq!(trim(&[1, 2, 1], &[5, 6]), Some((vec![1, 2], 3, LastGoes::Yes)));
        assert_eq!(trim(&[1, 2], &[20, 20]), None);
        assert_eq!(trim(&[], &[]), None);
    }

    #[test]
    fn one_that_was_requested_earlier_goes_too_and_one_that_lives_holds_up_what_is_after_it() {
        assert_eq!(trim(&[1, 2, 3], &[12, 5, 20]), Some((vec![1, 2], 2, LastGoes::No)));
        assert_eq!(trim(&[1, 2, 3], &[5, 0, 5]), Some((vec![1], 1, LastGoes::No)));
        assert_eq!(trim(&[1, 2], &[0, 5]), None);
    }

    #[test]
    fn a_record_that_keeps_the_subject_alive_stays_until_others_follow_it() {
        // 0 is about no sandbox.
        assert_eq!(trim(&[0], &[]), None);
        assert_eq!(trim(&[0, 1], &[5]), Some((vec![1], 2, LastGoes::Yes)));
        assert_eq!(trim(&[1, 0], &[u64::MAX]), Some((vec![], 1, LastGoes::No)));
    }

    proptest! {
        #[test]
        fn nothing_that_lives_goes_and_everything_before_what_goes_does(
            about in prop::collection::vec(0..9_u8, 0..30), lives in prop::collection::vec(0..20_u64, 9),
        ) {
            if let Some((sandboxes, count, _)) = trim(&about, &lives) {
                prop_assert!(sandboxes.iter().all(|n| lives[usize::from(*n) - 1] > 0));
                let gone = about[..count].iter().filter(|n| **n > 0);
                prop_assert!(gone.clone().all(|n| sandboxes.contains(n)));
                prop_assert!(sandboxes.iter().all(|n| about[..count].contains(n)));
            }
        }
    }
}
