//! Meter readings: read in pages, so that a week of them is never in memory at once.

use std::collections::BTreeMap;

use omnirun_events::log::{Erase, PAGE_RECORDS_MAX, Sequence, Tail};
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_projections::Directory;
use omnirun_retention::usage::{READ_WITHIN, Scan};
use omnirun_retention::{Burial, Seen, cutoff};

use super::{Expired, RetentionError};
use crate::service::CommandService;

/// Readings of one log that are buried at a time.
const TOGETHER: usize = 1 << 16;

/// How far a log is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// From its beginning up to the first page of which nothing goes: readings are nearly in the order in which they were made.
    Beginning,
    /// All of it: late readings may be anywhere.
    Whole,
}

impl CommandService {
    pub(super) async fn expire_usage(
        &self,
        erase: &dyn Erase,
        log: Log,
        reach: Reach,
        now: Timestamp,
        expired: &mut Expired,
    ) -> Result<(), RetentionError> {
        while let Some(burial) = self.plan_usage(log, reach, now, TOGETHER).await? {
            let count = burial.positions.count();
            expired.records += self.carry_out(erase, &burial).await?;
            if count != TOGETHER as u64 {
                break;
            }
        }
        Ok(())
    }

    /// What goes of the readings of one log: all of them, or at most `most`.
    pub(super) async fn plan_usage(
        &self,
        log: Log,
        reach: Reach,
        now: Timestamp,
        most: usize,
    ) -> Result<Option<Burial>, RetentionError> {
        let reader = &self.writer.reader;
        let mut scan = Scan::new(log, cutoff(now), most);
        let mut cursor = reader.read(log, Filter::all(), Sequence::NONE).await?;
        loop {
            let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
            if page.records.is_empty() {
                if let Some(whole) = scan.whole(now) {
                    return Ok(Some(whole));
                }
                break;
            }
            let found = scan.found();
            // A request was there before its readings.
            self.writer.catch_up().await?;
            self.writer.directory.view(|directory, _| {
                for stored in &page.records {
                    let seen = Seen::of(stored).unwrap_or_else(|| Seen::rubbish(stored));
                    let latest = latest(directory, seen.subject.kind());
                    scan.add(Seen { at: seen.at.min(latest), ..seen });
                }
            });
            if scan.is_full() || reach == Reach::Beginning && scan.found() == found {
                break;
            }
        }
        let mut ends = BTreeMap::new();
        for subject in scan.subjects() {
            let last = reader.last(subject).await?;
            ends.insert(subject.clone(), last.map(|last| last.sequence).unwrap_or_default());
        }
        Ok(scan.partly(&ends))
    }
}

/// The latest moment at which a reading can have been made, whatever its host's clock said. Of a sandbox that has gone, readings are too old.
/// Those of an account that has gone, or is going, are removed with it.
fn latest(directory: &Directory, kind: SubjectKind) -> Timestamp {
    let SubjectKind::Usage(_, account, sandbox) = kind else { return Timestamp(u64::MAX) };
    if directory.accounts.get_open(account).is_none() {
        return Timestamp(u64::MAX);
    }
    let known = directory.sandboxes.get(sandbox);
    known.map_or(Timestamp(0), |known| match known.state.is_final() {
        true => known.requested_at.after(READ_WITHIN),
        false => Timestamp(u64::MAX),
    })
}
