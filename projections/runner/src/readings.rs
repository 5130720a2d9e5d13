//! The last meter reading of one sandbox, from the usage logs themselves: who ends a sandbox whose host cannot tell any more what it used
//! has nothing else.

use omnirun_events::codec;
use omnirun_events::envelope::{Record, Role};
use omnirun_events::event::Event;
use omnirun_events::id::SandboxId;
use omnirun_events::log::{Position, Read, ReadError, Sequence, Stored, read_to_end};
use omnirun_events::subject::{Filter, Log, Slot, SubjectKind};
use omnirun_events::usage::UsageMetered;
use omnirun_projections::Directory;

use crate::live::Live;

/// The reading with the highest number that the sandbox's own host has signed, wherever it is: a host may be away for weeks, so every slot is
/// looked at, and whoever has a worker's access may have filed something after it. None where nothing was metered, and of a sandbox that nobody
/// has claimed.
pub async fn last_reading(
    read: &dyn Read,
    directory: &Live<Directory>,
    id: SandboxId,
) -> Result<Option<UsageMetered>, ReadError> {
    let known = directory.view(|directory, verifier| {
        let known = directory.sandboxes.get(id)?;
        Some((known.account, known.host?, verifier.ring().clone()))
    });
    let Some((account, host, ring)) = known else { return Ok(None) };
    let is_said_by_host = |record: &Record, stored: &Stored| {
        let place = Position { log: stored.subject.log(), sequence: stored.sequence };
        ring.get(record.header.key).is_some_and(|key| {
            let is_hosts = key.role == Role::Worker && key.host == Some(host);
            is_hosts && !key.had_ended(place, record.header.at) && key.public.verify(record).is_ok()
        })
    };
    let mut last: Option<UsageMetered> = None;
    for slot in Slot::all() {
        let subject = Filter::exactly(&SubjectKind::Usage(slot, account, id).into());
        for stored in read_to_end(read, Log::Usage(slot), subject, Sequence::NONE).await? {
            let record = codec::decode(&stored.record).ok();
            // A copy of another sandbox's reading says whose it is.
            let record = record.filter(|record| record.header.subject == stored.subject);
            let record = record.filter(|record| is_said_by_host(record, &stored));
            let events = record.into_iter().flat_map(|record| record.events);
            for event in events {
                let Event::UsageMetered(reading) = event else { continue };
                last = last.filter(|last| last.period >= reading.period).or(Some(reading));
            }
        }
    }
    Ok(last)
}
