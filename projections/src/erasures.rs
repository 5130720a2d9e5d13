//! What was erased and when the master key was rotated: whether copies of destroyed keys could still be unwrapped; and what of it is still to be
//! removed.

use std::collections::BTreeMap;

use omnirun_events::erasure::{Cause, Positions};
use omnirun_events::event::Event;
use omnirun_events::id::ReceiptId;
use omnirun_events::log::Sequence;
use omnirun_events::subject::{Log, SubjectKind};
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// The last of each, and what is under way. Positions and receipts only: nothing here says whose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasures {
    /// Position in EVENTS and time of the last tombstone of an account, change of an address, or destruction of keys.
    last: Option<(Sequence, Timestamp)>,
    /// Of the last rotation that made something final: through which position, when, and the epoch.
    rotated: Option<(Sequence, Timestamp, u32)>,
    /// What tombstones name and nobody has said to be removed.
    unfinished: BTreeMap<ReceiptId, BTreeMap<Log, Positions>>,
}

impl Erasures {
    /// Position in EVENTS and time of the last record after which keys were destroyed: the tombstone of an account, a changed
    /// address, or keys of free text that has become too old.
    pub fn last(&self) -> Option<(Sequence, Timestamp)> {
        self.last
    }

    /// The erasures whose records may still be there, and the positions of those.
    pub fn unfinished(&self) -> impl Iterator<Item = (ReceiptId, &BTreeMap<Log, Positions>)> {
        self.unfinished.iter().map(|(receipt, positions)| (*receipt, positions))
    }

    /// The epoch of the master key and since when, as of the last rotation that made something final.
    pub fn rotated(&self) -> Option<(u32, Timestamp)> {
        self.rotated.map(|(_, at, epoch)| (epoch, at))
    }

    /// Whether keys were destroyed that the current epoch of the master key may have wrapped: it opens copies of them until it ends.
    pub fn are_open(&self) -> bool {
        self.last.is_some_and(|(last, _)| last > self.final_through())
    }

    fn final_through(&self) -> Sequence {
        self.rotated.map(|(through, ..)| through).unwrap_or_default()
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
            (SubjectKind::Account(_), Event::EmailChanged(_))
            | (SubjectKind::Erasure, Event::DataKeysDestroyed(_)) => {
                self.last = Some((fact.sequence, fact.at))
            }
            (SubjectKind::Erasure, Event::MasterKeyRotated(rotated))
                if rotated.final_through > self.final_through() =>
            {
                self.rotated = Some((rotated.final_through, fact.at, rotated.epoch));
            }
            _ => {}
        }
    }
}
