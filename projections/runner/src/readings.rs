//! The last meter reading of one sandbox, from the usage logs themselves: who ends a sandbox whose host cannot tell any more what it used
//! has nothing else.

use omnirun_events::codec;
use omnirun_events::envelope::{Record, Role};
use omnirun_events::event::Event;
use omnirun_events::id::SandboxId;
use omnirun_events::log::{Read, ReadError};
use omnirun_events::subject::{Slot, Subject, SubjectKind};
use omnirun_events::usage::UsageMetered;
use omnirun_projections::Directory;

use crate::live::Live;

/// The reading with the highest number that the sandbox's own host has signed, wherever it is: a host may be away for weeks, so every
/// slot is looked at. None where nothing was metered, and of a sandbox that nobody has claimed.
pub async fn last_reading(
    read: &dyn Read,
    directory: &Live<Directory>,
    id: SandboxId,
) -> Result<Option<UsageMetered>, ReadError> {
    last_reading_in(read, directory, id, Slot::all()).await
}

/// The same in these slots alone.
pub async fn last_reading_in(
    read: &dyn Read,
    directory: &Live<Directory>,
    id: SandboxId,
    slots: impl IntoIterator<Item = Slot>,
) -> Result<Option<UsageMetered>, ReadError> {
    let account = directory.view(|directory, _| directory.sandboxes.get(id).map(|known| known.account));
    let Some(account) = account else { return Ok(None) };
    let mut records = Vec::new();
    for slot in slots {
        let subject = Subject::from(SubjectKind::Usage(slot, account, id));
        let last = read.last(&subject).await?;
        records.extend(last.and_then(|stored| codec::decode(&stored.record).ok()));
    }
    let readings = directory.view(|directory, verifier| {
        let host = directory.sandboxes.get(id).and_then(|known| known.host);
        let is_said_by_host = |record: &Record| {
            verifier.ring().get(record.header.key).is_some_and(|key| {
                key.role == Role::Worker && key.host == host && key.public.verify(record).is_ok()
            })
        };
        records.into_iter().filter(|record| host.is_some() && is_said_by_host(record)).collect::<Vec<_>>()
    });
    let events = readings.into_iter().flat_map(|record| record.events);
    let metered = events.filter_map(|event| if let Event::UsageMetered(m) = event { Some(m) } else { None });
    Ok(metered.max_by_key(|reading| reading.period))
}
