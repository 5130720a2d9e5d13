//! Meter readings: each goes before it is 90 days old; a log in which all have goes whole, which is before its week comes again.

use std::collections::BTreeMap;

use omnirun_events::erasure::{Positions, Span};
use omnirun_events::subject::{Log, Subject};
use omnirun_events::unit::Timestamp;

use crate::seen::{Burial, GoesOn, Removal, Seen};

/// What goes of the readings of one usage log, given in order. `None` if none does.
pub fn expired(log: Log, records: &[Seen], cutoff: Timestamp) -> Option<Burial> {
    let mut burial = Burial::none(log);
    if records.iter().all(|record| record.at < cutoff) {
        let (first, last) = (records.first()?.sequence, records.last()?.sequence);
        // Positions between them that hold nothing went before.
        let mut positions = Positions::default();
        positions.insert(Span(first, last.0.saturating_sub(first.0).saturating_add(1)));
        return Some(Burial { positions, removals: vec![Removal::Log], ..burial });
    }
    let mut subjects: BTreeMap<&Subject, Vec<Seen>> = BTreeMap::new();
    for record in records {
        subjects.entry(&record.subject).or_default().push(record.clone());
    }
    for readings in subjects.values() {
        // Those of one sandbox are in the order in which they were made.
        let count = readings.iter().take_while(|reading| reading.at < cutoff).count();
        let goes_on = if count < readings.len() { GoesOn::After } else { GoesOn::Never };
        burial.bury(&readings[..count], goes_on);
    }
    (!burial.positions.is_empty()).then_some(burial)
}

#[cfg(test)]
mod tests {
    use omnirun_events::envelope::RecordHash;
    use omnirun_events::erasure::ChainStart;
    use omnirun_events::id::{AccountId, SandboxId};
    use omnirun_events::log::Sequence;
    use omnirun_events::subject::{Slot, SubjectKind};

    use super::*;

    fn log() -> Log {
        Log::Usage(Slot::of(Timestamp(0)))
    }

    /// Readings of sandboxes, each at some time, in the order of the log.
    fn readings(list: &[(u8, u64)]) -> Vec<Seen> {
        let mut versions = [0; 256];
        let reading = |(position, (sandbox, at)): (usize, &(u8, u64))| {
            let version = &mut versions[usize::from(*sandbox)];
            *version += 1;
            let (a, s) = (AccountId::from_bytes([1; 16]), SandboxId::from_bytes([*sandbox; 16]));
            Seen {
                subject: SubjectKind::Usage(Slot::of(Timestamp(0)), a, s).into(),
                sequence: Sequence(position as u64 + 1),
                version: *version,
                hash: RecordHash([*sandbox; 32]),
                at: Timestamp(*at),
                about: None,
            }
        };
        list.iter().enumerate().map(reading).collect()
    }

    #[test]
    fn a_log_whose_readings_are_all_too_old_goes_whole() {
        let burial = expired(log(), &readings(&[(1, 5), (2, 6), (1, 9)]), Timestamp(10)).expect("all");
        assert_eq!((burial.positions.count(), burial.removals), (3, vec![Removal::Log]));
        assert!(burial.starts.is_empty());
        assert_eq!(expired(log(), &[], Timestamp(10)), None);
    }

    #[test]
    fn of_a_log_with_younger_readings_every_chain_loses_its_old_beginning() {
        let records = readings(&[(1, 5), (2, 6), (3, 20), (1, 12), (2, 7)]);
        let burial = expired(log(), &records, Timestamp(10)).expect("some");
        let spans: Vec<_> = burial.positions.spans().collect();
        assert_eq!(spans, [Span(Sequence(1), 2), Span(Sequence(5), 1)]);
        assert_eq!(burial.starts, [ChainStart(1, RecordHash([1; 32]))]);
        let through: Vec<_> = burial
            .removals
            .iter()
            .map(|removal| match removal {
                Removal::Through(_, sequence) => sequence.0,
                Removal::Log => 0,
            })
            .collect();
        assert_eq!(through, [1, 5]);
        assert_eq!(expired(log(), &records, Timestamp(5)), None);
    }
}
