//! What a subject holds, as everybody has it who reads the log: its chain, and what of it this host has said.
//!
//! Any worker's access can file anything on every host's subjects. Were the last record there taken for the end of the chain, one record of rubbish, or
//! a copy of an honest one, would have the next record of the honest host believed by nobody.

use omnirun_events::envelope::{Head, Record};
use omnirun_events::event::Event;
use omnirun_events::id::{CommitId, HostId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::log::Stored;
use omnirun_events::subject::Subject;
use omnirun_events::verify::{Depth, Ignored, Verdict, Verifier};

/// What a subject holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The end of its chain, at the position of its last record, whoever filed that.
    pub head: Head,
    /// The commits of this host in it, but those of readings, which are known by their numbers.
    pub commits: Vec<CommitId>,
    /// The highest number of a reading of this host in it.
    pub period: Option<u32>,
}

impl History {
    /// Of a subject without records.
    pub const EMPTY: Self = Self { head: Head::EMPTY, commits: Vec::new(), period: None };

    /// Of all records of a subject, by a verifier that knows the keys and the tombstones that there are.
    pub fn of(subject: &Subject, records: &[Stored], mut verifier: Verifier, host: Option<HostId>) -> Self {
        let mut history = Self::EMPTY;
        for stored in records {
            match verifier.check(subject.log(), stored, Depth::Signatures) {
                // Part of the chain, and whoever still has that key does not speak for this host.
                Ok(Verdict::Ignored(_, Ignored::Retired)) => {}
                Ok(Verdict::Believed(record) | Verdict::Ignored(record, _)) => {
                    if is_of(verifier.ring(), &record, host) {
                        history.add(record.header.commit, &record.events);
                    }
                }
                Ok(Verdict::Erased) => {}
                // It is not part of the chain, but its position counts.
                Err(_) => _ = verifier.pass(subject.log(), stored),
            }
        }
        history.head = verifier.head(subject);
        history
    }

    /// The same with one more record of this host at its end.
    pub fn then(mut self, head: Head, commit: CommitId, events: &[Event]) -> Self {
        self.add(commit, events);
        Self { head, ..self }
    }

    fn add(&mut self, commit: CommitId, events: &[Event]) {
        match period(events) {
            Some(period) => self.period = self.period.max(Some(period)),
            None => self.commits.push(commit),
        }
    }
}

fn is_of(ring: &KeyRing, record: &Record, host: Option<HostId>) -> bool {
    ring.get(record.header.key).is_some_and(|key| key.host.is_some() && key.host == host)
}

/// The highest number of a reading in a commit.
pub fn period(events: &[Event]) -> Option<u32> {
    events
        .iter()
        .filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.period) } else { None })
        .max()
}
