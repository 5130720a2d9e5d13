//! Retention, done: says by tombstones what goes, then removes it. What goes is decided in `projections/retention`.
//!
//! A run that is cut off between the two is finished by the next start ([`CommandService::sweep`]): a tombstone counts at once, and what it
//! names is removed whenever somebody gets to it. Several services may run at a time: what both bury is gone once. What fails for one log or
//! one account holds up no other.
//!
//! Reading order: here (a run), [`usage`] (meter readings), [`lives`] (ended sandboxes), [`keys`] (their free text), [`carry`] (tombstones and
//! removals), [`plan`] (the same for an operator who wants to see it first), [`lag`] (whether bills keep up with it).

pub mod lag;

mod carry;
mod keys;
mod lives;
mod plan;
mod sweep;
mod usage;

use std::sync::Arc;

use omnirun_events::log::{Erase, EraseError, ReadError};
use omnirun_events::subject::{Log, Slot};
use omnirun_events::unit::Timestamp;
use omnirun_retention::{EVERY, cutoff};

use crate::failure::Failure;
use crate::service::CommandService;
use usage::Reach;

/// Time between two runs that look through whole logs: others look at the beginnings alone.
const WHOLE_EVERY: omnirun_events::unit::Millis = omnirun_events::unit::Millis(24 * 3600 * 1000);

/// What one run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Records that are gone.
    pub records: u64,
    /// Sandboxes that are gone.
    pub sandboxes: u64,
    /// Keys of free text that are destroyed.
    pub keys: u64,
    /// Logs and accounts of which something that has expired is still there, because it could not be removed. The next run tries again.
    pub failures: u64,
}

/// A part of a run that could not be finished. The next one goes on.
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
        let (mut is_swept, mut whole_at) = (false, None);
        loop {
            runs.tick().await;
            if !is_swept {
                is_swept = self.sweep(&*erase).await.inspect_err(complain).is_ok();
            }
            let now = (self.clock)();
            let is_time = whole_at.is_none_or(|at: Timestamp| now.since(at) >= WHOLE_EVERY);
            let reach = if is_time { Reach::Whole } else { Reach::Beginning };
            let expired = self.expire_within(&*erase, reach).await;
            // What is buried and still there is known to no read model any more: only a sweep finds it.
            is_swept &= expired.failures == 0;
            if is_time && expired.failures == 0 {
                whole_at = Some(now);
            }
            report(&expired, now);
            self.report_unbilled(now);
        }
    }

    /// Removes everything that has expired by now, whatever billing has seen of it. What cannot be removed is logged and counted.
    pub async fn expire(&self, erase: &dyn Erase) -> Expired {
        self.expire_within(erase, Reach::Whole).await
    }

    async fn expire_within(&self, erase: &dyn Erase, reach: Reach) -> Expired {
        let now = (self.clock)();
        let mut expired = Expired::default();
        for log in Slot::all().map(Log::Usage) {
            let removed = self.expire_usage(erase, log, reach, now, &mut expired).await;
            expired.count(removed);
        }
        for account in self.accounts_with_expired(cutoff(now)) {
            let removed = self.expire_account(erase, account, cutoff(now), &mut expired).await;
            expired.count(removed);
        }
        let destroyed = self.expire_keys(now, &mut expired).await;
        expired.count(destroyed);
        expired
    }
}

impl Expired {
    /// Counts a part that could not be finished.
    fn count(&mut self, part: Result<(), RetentionError>) {
        if let Err(error) = part {
            complain(&error);
            self.failures += 1;
        }
    }
}

fn complain(error: &RetentionError) {
    let error: &dyn std::error::Error = error;
    metrics::counter!("omnirun_retention_failures_total").increment(1);
    tracing::error!(error, "some of what has expired was not removed; it is tried again within the hour");
}

fn report(expired: &Expired, now: Timestamp) {
    if expired.failures == 0 {
        metrics::gauge!("omnirun_retention_last_run_seconds").set((now.0 / 1000) as f64);
    }
    metrics::counter!("omnirun_retention_records_total").increment(expired.records);
    let Expired { records, sandboxes, keys, .. } = *expired;
    if records + sandboxes + keys > 0 {
        tracing::info!(records, sandboxes, keys, "what was 90 days old is gone");
    }
}
