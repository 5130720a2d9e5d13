//! Carrying out: a tombstone first, then the removal.

use std::collections::BTreeMap;

use omnirun_events::codec;
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::erasure::{Cause, ChainStart, RecordsErased, STARTS_MAX};
use omnirun_events::event::Event;
use omnirun_events::log::{Erase, PAGE_RECORDS_MAX, Sequence, Stored, Tail, read_to_end};
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_retention::{Burial, Removal};

use super::RetentionError;
use crate::service::CommandService;
use crate::writer::Appended;

/// Times that one record is appended anew because somebody else was first on its subject.
const CONFLICTS_MAX: usize = 64;

/// Full tombstones that fit into one record.
pub(super) const TOMBSTONES: usize = 2;

impl CommandService {
    /// Says that these records of one log are gone, and removes them; answers how many there were.
    pub(super) async fn carry_out(&self, erase: &dyn Erase, burial: &Burial) -> Result<u64, RetentionError> {
        let tombstones: Vec<Event> = burial.tombstones().into_iter().map(Event::from).collect();
        for some in tombstones.chunks(TOMBSTONES) {
            self.append_as_system(SubjectKind::Erasure, some.to_vec()).await?;
        }
        let mut records = 0;
        for removal in &burial.removals {
            records += match removal {
                Removal::Through(subject, sequence) => erase.purge_through(subject, *sequence).await?,
                Removal::Log(last) => self.remove_log(erase, burial.log, *last).await?,
            };
        }
        Ok(records)
    }

    /// Removes a log that ended at `last` when it was looked at. What was added since stays, and its chains go on where they were.
    async fn remove_log(&self, erase: &dyn Erase, log: Log, last: Sequence) -> Result<u64, RetentionError> {
        let later = read_to_end(&*self.writer.reader, log, Filter::all(), last).await?;
        if later.is_empty() {
            return Ok(erase.purge_all(log, Filter::all()).await?);
        }
        let starts: Vec<ChainStart> = later.iter().filter_map(before).collect();
        for some in starts.chunks(STARTS_MAX) {
            let (cause, positions) = (Cause::Retention, Vec::new());
            let goes_on = RecordsErased { cause, log, positions, starts: some.to_vec() };
            self.append_as_system(SubjectKind::Erasure, vec![goes_on.into()]).await?;
        }
        let mut ends: BTreeMap<Subject, Sequence> = BTreeMap::new();
        let mut cursor = self.writer.reader.read(log, Filter::all(), Sequence::NONE).await?;
        'pages: loop {
            let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
            if page.records.is_empty() {
                break;
            }
            for stored in page.records {
                if stored.sequence > last {
                    break 'pages;
                }
                ends.insert(stored.subject, stored.sequence);
            }
        }
        let mut records = 0;
        for (subject, end) in ends {
            records += erase.purge_through(&subject, end).await?;
        }
        Ok(records)
    }

    /// Appends what the system says of its own accord, after whatever is there, and waits until it is seen.
    pub(super) async fn append_as_system(
        &self,
        kind: SubjectKind,
        events: Vec<Event>,
    ) -> Result<(), RetentionError> {
        let (subject, commit) = (Subject::from(kind), self.fresh_commit());
        let (at, actor) = ((self.clock)(), Actor::System(Role::Commands));
        let draft = Draft { commit, subject: subject.clone(), at, actor, cause: None, events };
        let subjects = [subject];
        for _ in 0..CONFLICTS_MAX {
            self.writer.reach(&subjects).await?;
            let head = self.writer.directory.view(|_, verifier| verifier.head(&subjects[0]));
            if let Appended::At(_) = self.writer.append(std::slice::from_ref(&draft), &[head]).await? {
                return Ok(self.writer.reach(&subjects).await?);
            }
        }
        Err(crate::failure::busy("Too many changes at once.").into())
    }
}

/// The end of the chain that a record follows, if it is not the first of its subject.
fn before(stored: &Stored) -> Option<ChainStart> {
    let header = codec::decode(&stored.record).ok()?.header;
    (header.version > 1).then(|| ChainStart(header.version - 1, header.previous))
}
