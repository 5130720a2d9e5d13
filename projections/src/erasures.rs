//! What was erased: when last, so that whoever holds the master key knows whether its old half must go.

use omnirun_events::erasure::Cause;
use omnirun_events::event::Event;
use omnirun_events::log::Sequence;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// Tombstones of accounts, of which nothing but their number and the last one is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasures {
    /// Position in EVENTS and time of the last tombstone of an account.
    last: Option<(Sequence, Timestamp)>,
}

impl Erasures {
    /// Position in EVENTS and time of the last tombstone of an account; none if no account was ever erased. A master key that was made before it
    /// still opens copies of wrapped keys that were destroyed.
    pub fn last(&self) -> Option<(Sequence, Timestamp)> {
        self.last
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        if let (SubjectKind::Erasure, Event::RecordsErased(tombstone)) = (fact.kind, fact.event)
            && matches!(tombstone.cause, Cause::Account { .. })
        {
            self.last = Some((fact.sequence, fact.at));
        }
    }
}
