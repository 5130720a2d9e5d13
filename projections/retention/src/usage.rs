//! Meter readings: each goes before it is 90 days old; a log in which all have goes whole, which is before its week comes again.

use std::collections::BTreeMap;

use omnirun_events::erasure::{Positions, Span};
use omnirun_events::log::Sequence;
use omnirun_events::subject::{Log, Slot, Subject};
use omnirun_events::unit::{Millis, Timestamp};

use crate::seen::{Burial, GoesOn, Removal, Seen};

/// Around now, in which a host may make a reading: clocks differ.
const MARGIN: Millis = Millis(24 * 3600 * 1000);

/// How long after its request a sandbox may be read: a session is a week at most, and clocks differ. A reading that says to be younger than
/// that was made by a clock that was far ahead, and is taken to be as old as that.
pub const READ_WITHIN: Millis = Millis(8 * 24 * 3600 * 1000);

/// A log's readings, as far as they were looked at. Add them in order.
#[derive(Debug)]
pub struct Scan {
    log: Log,
    cutoff: Timestamp,
    /// Readings that are remembered, at most.
    most: usize,
    span: Option<(Sequence, Sequence)>,
    are_all_old: bool,
    found: usize,
    chains: BTreeMap<Subject, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// What goes of its beginning.
    old: Vec<Seen>,
    /// A chain loses its beginning and never its middle: after a reading that stays, all do.
    stays: bool,
}

impl Scan {
    /// A scan that remembers at most `most` readings of those that go: others are found by the next one.
    pub fn new(log: Log, cutoff: Timestamp, most: usize) -> Self {
        Self { log, cutoff, most, span: None, are_all_old: true, found: 0, chains: BTreeMap::new() }
    }

    /// Takes the log's next reading in.
    pub fn add(&mut self, reading: Seen) {
        let first = self.span.map_or(reading.sequence, |(first, _)| first);
        self.span = Some((first, reading.sequence));
        let is_old = reading.at < self.cutoff;
        self.are_all_old &= is_old;
        let chain = self.chains.entry(reading.subject.clone()).or_default();
        if !is_old || chain.stays || self.found == self.most {
            chain.stays = true;
            return;
        }
        self.found += 1;
        chain.old.push(reading);
    }

    /// How many readings were found that go.
    pub fn found(&self) -> usize {
        self.found
    }

    /// Whether looking further finds nothing more to remember. A log that may go whole is looked at to its end.
    pub fn is_full(&self) -> bool {
        self.found == self.most && !self.are_all_old
    }

    /// The whole log, once all of it was looked at: if all of it is too old, and nobody adds to it now.
    pub fn whole(&self, now: Timestamp) -> Option<Burial> {
        let is_near = [now.0.saturating_sub(MARGIN.0), now.0, now.after(MARGIN).0]
            .into_iter()
            .any(|at| Log::Usage(Slot::of(Timestamp(at))) == self.log);
        let (first, last) = self.span.filter(|_| self.are_all_old && !is_near)?;
        // Positions between them that hold nothing went before.
        let mut positions = Positions::default();
        positions.insert(Span(first, last.0.saturating_sub(first.0).saturating_add(1)));
        Some(Burial { positions, removals: vec![Removal::Log(last)], ..Burial::none(self.log) })
    }

    /// The subjects of which something goes.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.chains.iter().filter(|(_, chain)| !chain.old.is_empty()).map(|(subject, _)| subject)
    }

    /// What goes one by one, given the last position of each of [`Self::subjects`]. `None` if nothing does.
    pub fn partly(&self, ends: &BTreeMap<Subject, Sequence>) -> Option<Burial> {
        let mut burial = Burial::none(self.log);
        for (subject, chain) in &self.chains {
            let end = ends.get(subject).copied().unwrap_or_default();
            let goes_on = match chain.old.last() {
                Some(last) if end > last.sequence => GoesOn::After,
                _ => GoesOn::Never,
            };
            burial.bury(&chain.old, goes_on);
        }
        (!burial.positions.is_empty()).then_some(burial)
    }
}

#[cfg(test)]
mod tests {
    use omnirun_events::envelope::RecordHash;
    use omnirun_events::erasure::ChainStart;
    use omnirun_events::id::{AccountId, SandboxId};
    use omnirun_events::subject::SubjectKind;

    use super::*;

    /// Far from the log's own weeks.
    const NOW: Timestamp = Timestamp(95 * 24 * 3_600_000);

    fn log() -> Log {
        Log::Usage(Slot::of(Timestamp(0)))
    }

    fn subject(sandbox: u8) -> Subject {
        let (a, s) = (AccountId::from_bytes([1; 16]), SandboxId::from_bytes([sandbox; 16]));
        SubjectKind::Usage(Slot::of(Timestamp(0)), a, s).into()
    }

    /// A scan over readings of sandboxes, each at some time, in the order of the log, and the last position of each sandbox.
    fn scan(list: &[(u8, u64)], most: usize) -> (Scan, BTreeMap<Subject, Sequence>) {
        let (mut scan, mut versions, mut ends) =
            (Scan::new(log(), Timestamp(10), most), [0; 256], BTreeMap::new());
        for (position, (sandbox, at)) in list.iter().enumerate() {
            let version = &mut versions[usize::from(*sandbox)];
            *version += 1;
            let sequence = Sequence(position as u64 + 1);
            ends.insert(subject(*sandbox), sequence);
            scan.add(Seen {
                subject: subject(*sandbox),
                sequence,
                version: *version,
                hash: RecordHash([*sandbox; 32]),
                at: Timestamp(*at),
                about: None,
            });
        }
        (scan, ends)
    }

    #[test]
    fn a_log_whose_readings_are_all_too_old_goes_whole() {
        let (all, _) = scan(&[(1, 5), (2, 6), (1, 9)], 2);
        let burial = all.whole(NOW).expect("all");
        assert_eq!((burial.positions.count(), burial.removals), (3, vec![Removal::Log(Sequence(3))]));
        assert!(burial.starts.is_empty() && !all.is_full());
        assert_eq!(scan(&[], 9).0.whole(NOW), None);
        assert_eq!(scan(&[(1, 5), (2, 10)], 9).0.whole(NOW), None);
    }

    #[test]
    fn a_log_that_somebody_may_be_adding_to_never_goes_whole() {
        let week = 7 * MARGIN.0;
        let (all, ends) = scan(&[(1, 5)], 9);
        for (now, goes) in [
            (14 * week - MARGIN.0 - 1, true),
            (14 * week - MARGIN.0, false),
            (14 * week, false),
            (15 * week + MARGIN.0 - 1, false),
            (15 * week + MARGIN.0, true),
        ] {
            assert_eq!(all.whole(Timestamp(now)).is_some(), goes, "{now}");
        }
        assert!(all.partly(&ends).is_some());
    }

    #[test]
    fn of_a_log_with_younger_readings_every_chain_loses_its_old_beginning() {
        let (some, ends) = scan(&[(1, 5), (2, 6), (3, 20), (1, 12), (2, 7)], 9);
        let burial = some.partly(&ends).expect("some");
        let spans: Vec<_> = burial.positions.spans().collect();
        assert_eq!(spans, [Span(Sequence(1), 2), Span(Sequence(5), 1)]);
        assert_eq!(burial.starts, [ChainStart(1, RecordHash([1; 32]))]);
        let through: Vec<_> = burial
            .removals
            .iter()
            .map(|removal| match removal {
                Removal::Through(_, sequence) => sequence.0,
                Removal::Log(_) => 0,
            })
            .collect();
        assert_eq!(through, [1, 5]);
        assert_eq!(some.subjects().count(), 2);
    }

    #[test]
    fn a_late_reading_waits_for_the_one_before_it() {
        let (late, ends) = scan(&[(1, 20), (1, 5)], 9);
        assert_eq!((late.partly(&ends), late.whole(NOW)), (None, None));
    }

    #[test]
    fn of_more_than_it_remembers_a_scan_finds_the_first_and_keeps_the_chains() {
        let (full, ends) = scan(&[(1, 5), (2, 6), (1, 7), (2, 8), (3, 20)], 3);
        assert!(full.is_full());
        let burial = full.partly(&ends).expect("three");
        assert_eq!((burial.positions.count(), burial.starts), (3, vec![ChainStart(1, RecordHash([2; 32]))]));
    }
}
