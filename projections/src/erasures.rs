//! What was erased: when last, so that whoever holds the master key knows whether its old half must go, and what of it is still to be removed.

use std::collections::BTreeMap;

use omnirun_events::erasure::{Cause, Positions};
use omnirun_events::event::Event;
use omnirun_events::id::ReceiptId;
use omnirun_events::log::Sequence;
use omnirun_events::subject::{Log, SubjectKind};
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// Erasures of accounts. Positions and receipts only: nothing here says whose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasures {
    /// Position in EVENTS and time of the last tombstone of an account.
    last: Option<(Sequence, Timestamp)>,
    /// What tombstones name and nobody has said to be removed.
    unfinished: BTreeMap<ReceiptId, BTreeMap<Log, Positions>>,
}

impl Erasures {
    /// Position in EVENTS and time of the last tombstone of an account; none if no account was ever erased. A master key that was made before it
    /// still opens copies of wrapped keys that were destroyed.
    pub fn last(&self) -> Option<(Sequence, Timestamp)> {
        self.last
    }

    /// The erasures whose records may still be there, and the positions of those.
    pub fn unfinished(&self) -> impl Iterator<Item = (ReceiptId, &BTreeMap<Log, Positions>)> {
        self.unfinished.iter().map(|(receipt, positions)| (*receipt, positions))
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        match (fact.kind, fact.event) {
            (SubjectKind::Erasure, Event::RecordsErased(tombstone)) => {
                let Cause::Account { receipt } = tombstone.cause else { return };
                self.last = Some((fact.sequence, fact.at));
                let positions = self.unfinished.entry(receipt).or_default().entry(tombstone.log).or_default();
                tombstone.positions.iter().for_each(|span| positions.insert(*span));
            }
            (SubjectKind::Erasure, Event::ErasureFinished(finished)) => {
                self.unfinished.remove(&finished.receipt);
            }
            _ => {}
        }
    }
}
