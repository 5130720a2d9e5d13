//! What retention sees of a stored record, and what it wants done.

use omnirun_events::codec;
use omnirun_events::envelope::RecordHash;
use omnirun_events::erasure::{Cause, ChainStart, Positions, RecordsErased};
use omnirun_events::event::Event;
use omnirun_events::id::SandboxId;
use omnirun_events::log::{Sequence, Stored};
use omnirun_events::subject::{Log, Subject};
use omnirun_events::unit::Timestamp;

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it is filed.
    pub subject: Subject,
    /// Its position.
    pub sequence: Sequence,
    /// Its number within the subject.
    pub version: u64,
    /// Its hash.
    pub hash: RecordHash,
    /// When it happened: for a reading that was written down later than it was made, when it was made.
    pub at: Timestamp,
    /// The sandbox that it requests or extends, on an admission subject.
    pub about: Option<SandboxId>,
}

impl Seen {
    /// What is to be seen of it; nothing of bytes that are no record, which verify reports.
    pub fn of(stored: &Stored) -> Option<Self> {
        let record = codec::decode(&stored.record).ok()?;
        let about = record.events.iter().find_map(|event| match event {
            Event::SandboxRequested(requested) => Some(requested.sandbox),
            Event::TimeoutExtended(extended) => Some(extended.sandbox),
            Event::SandboxResumed(resumed) => Some(resumed.sandbox),
            _ => None,
        });
        let made = record.events.iter().filter_map(|event| match event {
            Event::UsageMetered(metered) => Some(metered.observed_at),
            _ => None,
        });
        Some(Self {
            subject: stored.subject.clone(),
            sequence: stored.sequence,
            version: record.header.version,
            hash: record.hash(),
            at: made.fold(record.header.at, Timestamp::min),
            about,
        })
    }

    /// Bytes among a host's readings that are no record. They expire with the last reading that there can be.
    pub fn rubbish(stored: &Stored) -> Self {
        Self {
            subject: stored.subject.clone(),
            sequence: stored.sequence,
            version: 0,
            hash: RecordHash::NONE,
            at: Timestamp(u64::MAX),
            about: None,
        }
    }

    /// Where its chain goes on once it is gone.
    pub fn start(&self) -> ChainStart {
        ChainStart(self.version, self.hash)
    }
}

/// One thing to remove once its tombstone stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The records of a subject up to this position.
    Through(Subject, Sequence),
    /// Everything of a log, files and all; it ends at this position.
    Log(Sequence),
}

/// Records of one log that go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burial {
    /// Which log.
    pub log: Log,
    /// Which records.
    pub positions: Positions,
    /// Where the chains go on of which something stays.
    pub starts: Vec<ChainStart>,
    /// How they are removed.
    pub removals: Vec<Removal>,
}

impl Burial {
    /// Nothing of this log.
    pub fn none(log: Log) -> Self {
        Self { log, positions: Positions::default(), starts: Vec::new(), removals: Vec::new() }
    }

    /// The records of one subject, in order: all of them, or its beginning with the chain going on.
    pub fn bury(&mut self, records: &[Seen], goes_on: GoesOn) {
        let Some(last) = records.last() else { return };
        for record in records {
            self.positions.insert(omnirun_events::erasure::Span(record.sequence, 1));
        }
        if goes_on == GoesOn::After {
            // The chain does not go through rubbish.
            self.starts.extend(records.iter().rfind(|record| record.version > 0).map(Seen::start));
        }
        self.removals.push(Removal::Through(last.subject.clone(), last.sequence));
    }

    /// All there is of a subject that nobody may append to any more, whatever it is: what others file there goes too.
    pub fn bury_whole(&mut self, stored: &[Stored]) {
        let Some(last) = stored.last() else { return };
        for one in stored {
            self.positions.insert(omnirun_events::erasure::Span(one.sequence, 1));
        }
        self.removals.push(Removal::Through(last.subject.clone(), last.sequence));
    }

    /// What is to be said before anything is removed.
    pub fn tombstones(&self) -> Vec<RecordsErased> {
        RecordsErased::split(Cause::Retention, self.log, &self.positions, &self.starts)
    }
}

/// Whether something of a subject stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesOn {
    /// Nothing does.
    Never,
    /// There are records after those that go.
    After,
}
