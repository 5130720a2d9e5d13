//! Retention, done: says by tombstones what goes, then removes it. What goes is decided in `projections/retention`.
//!
//! A run that is cut off between the two is finished by the next start ([`CommandService::sweep`]): a tombstone counts at once, and what it
//! names is removed whenever somebody gets to it. Several services may run at a time: what both bury is gone once.

mod keys;
mod lives;
mod sweep;

use std::sync::Arc;

use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::event::Event;
use omnirun_events::log::{Erase, EraseError, ReadError, Sequence, read_to_end};
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_retention::{Burial, EVERY, Removal, Seen, cutoff, usage};

use crate::failure::Failure;
use crate::service::CommandService;
use crate::writer::Appended;

/// Times that one record is appended anew because somebody else was first on its subject.
const CONFLICTS_MAX: usize = 64;

/// Full tombstones that fit into one record.
const TOMBSTONES: usize = 2;

/// Readings at a log's beginning that are looked at: late ones among them do not hide the others.
const FIRST: usize = 64;

/// What one run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Records that are gone.
    pub records: u64,
    /// Sandboxes that are gone.
    pub sandboxes: u64,
    /// Keys of months that are destroyed.
    pub keys: u64,
}

/// A run that could not be finished. The next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A log cannot be read.
    #[error("cannot read what may have expired")]
    Read(#[from] ReadError),
    /// What a tombstone names cannot be removed.
    #[error("cannot remove what has expired")]
    Erase(#[from] EraseError),
    /// A tombstone was not written, so nothing was removed.
    #[error("cannot say what has expired: {0:?}")]
    Write(Failure),
}

impl From<Failure> for RetentionError {
    fn from(failure: Failure) -> Self {
        Self::Write(failure)
    }
}

impl CommandService {
    /// Removes what has expired, every hour, until it is dropped; first what an earlier run was cut off from removing. After a month of being
    /// off, the first run removes a month's worth.
    pub async fn retain(self: Arc<Self>, erase: Arc<dyn Erase>) {
        let mut runs = tokio::time::interval(EVERY.as_duration());
        runs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_swept = false;
        loop {
            runs.tick().await;
            if !is_swept {
                is_swept = self.sweep(&*erase).await.inspect_err(complain).is_ok();
            }
            match self.expire(&*erase).await {
                Ok(expired) => report(&expired, (self.clock)()),
                Err(error) => complain(&error),
            }
        }
    }

    /// Removes what has expired by now, whatever billing has seen of it.
    pub async fn expire(&self, erase: &dyn Erase) -> Result<Expired, RetentionError> {
        let cutoff = cutoff((self.clock)());
        let mut expired = Expired::default();
        for log in Slot::all().map(Log::Usage) {
            if self.begins_before(log, cutoff).await? {
                let readings = self.seen(log, Filter::all()).await?;
                if let Some(burial) = usage::expired(log, &readings, cutoff) {
                    expired.records += self.carry_out(erase, &burial).await?;
                }
            }
        }
        self.expire_lives(erase, cutoff, &mut expired).await?;
        self.expire_keys(&mut expired).await?;
        Ok(expired)
    }

    /// Whether the first reading of a log is from before the cutoff. Readings that came late may be older than those before them, but by two
    /// days at most, so that they go two days after the first ones at the latest.
    async fn begins_before(&self, log: Log, cutoff: Timestamp) -> Result<bool, RetentionError> {
        let mut cursor = self.writer.reader.read(log, Filter::all(), Sequence::NONE).await?;
        let page = cursor.next(FIRST, omnirun_events::log::Tail::Return).await?;
        Ok(page.records.iter().filter_map(Seen::of).any(|seen| seen.at < cutoff))
    }

    async fn seen(&self, log: Log, filter: Filter) -> Result<Vec<Seen>, RetentionError> {
        let stored = read_to_end(&*self.writer.reader, log, filter, Sequence::NONE).await?;
        Ok(stored.iter().filter_map(Seen::of).collect())
    }

    /// Says that these records of one log are gone, and removes them.
    async fn carry_out(&self, erase: &dyn Erase, burial: &Burial) -> Result<u64, RetentionError> {
        let tombstones: Vec<Event> = burial.tombstones().into_iter().map(Event::from).collect();
        for some in tombstones.chunks(TOMBSTONES) {
            self.append_as_system(SubjectKind::Erasure, some.to_vec()).await?;
        }
        remove(erase, burial).await
    }

    /// The same for records of several logs that nobody may see a part of: one record says it of all. They are few enough for that.
    async fn bury_together(&self, erase: &dyn Erase, burials: &[Burial]) -> Result<u64, RetentionError> {
        let tombstones = burials.iter().flat_map(Burial::tombstones).map(Event::from).collect();
        self.append_as_system(SubjectKind::Erasure, tombstones).await?;
        let mut records = 0;
        for burial in burials {
            records += remove(erase, burial).await?;
        }
        Ok(records)
    }

    /// Appends what the system says of its own accord, after whatever is there, and waits until it is seen.
    async fn append_as_system(&self, kind: SubjectKind, events: Vec<Event>) -> Result<(), RetentionError> {
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

async fn remove(erase: &dyn Erase, burial: &Burial) -> Result<u64, RetentionError> {
    let mut records = 0;
    for removal in &burial.removals {
        records += match removal {
            Removal::Through(subject, sequence) => erase.purge_through(subject, *sequence).await?,
            Removal::Log => erase.purge_all(burial.log, Filter::all()).await?,
        };
    }
    Ok(records)
}

fn complain(error: &RetentionError) {
    let error: &dyn std::error::Error = error;
    metrics::counter!("omnirun_retention_failures_total").increment(1);
    tracing::error!(error, "what has expired was not removed; it is tried again within the hour");
}

fn report(expired: &Expired, now: Timestamp) {
    metrics::gauge!("omnirun_retention_last_run_seconds").set((now.0 / 1000) as f64);
    metrics::counter!("omnirun_retention_records_total").increment(expired.records);
    if *expired != Expired::default() {
        let Expired { records, sandboxes, keys } = *expired;
        tracing::info!(records, sandboxes, keys, "what was 90 days old is gone");
    }
}
