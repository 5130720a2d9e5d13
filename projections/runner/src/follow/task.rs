//! The loop that catches up with one log and follows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use omnirun_events::log::{Page, Read, ReadError, Sequence, Tail};
use omnirun_events::subject::{Filter, Log};
use omnirun_events::verify::{Depth, Fault, TombstonesError, tombstones};
use omnirun_projections::Fold;

use super::store;
use crate::checkpoint::Checkpoints;
use crate::folding::{apply, pass};
use crate::live::{Live, NotReached, Status};

/// Records that are folded under one lock, so that readers get in between.
const PAGE_RECORDS: usize = 256;

/// Time between two checkpoints while records come in.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// How long a usage page waits for EVENTS before it looks again.
const EVENTS_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two tries to reach a store that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Follows one log.
pub(super) struct Task<F: Fold> {
    pub reader: Arc<dyn Read>,
    pub live: Live<F>,
    pub log: Log,
    pub checkpoints: Option<Checkpoints>,
}

/// Why the loop of a task ended.
enum End {
    Fault(Fault),
    Read(ReadError),
    Stopped,
}

impl<F: Fold> Task<F> {
    /// Until it is aborted, or a record cannot be believed.
    pub async fn run(self) {
        loop {
            match self.follow().await {
                End::Read(ReadError::Unavailable { .. }) => {
                    metrics::counter!("omnirun_view_read_errors_total", "view" => F::NAME).increment(1);
                    tokio::time::sleep(RETRY_EVERY).await;
                }
                End::Read(error @ ReadError::Corrupt { .. }) => return self.stop(&error),
                End::Fault(fault) => return self.stop(&fault),
                End::Stopped => return,
            }
        }
    }

    fn stop(&self, why: &dyn std::error::Error) {
        let mut text = why.to_string();
        let mut source = why.source();
        while let Some(next) = source {
            text = format!("{text}: {next}");
            source = next.source();
        }
        tracing::error!(view = F::NAME, log = %self.log, reason = text, "a read model has stopped");
        self.live.set_status(Status::Stopped(text));
    }

    fn position(&self) -> Sequence {
        self.live.copy_position(self.log)
    }

    async fn follow(&self) -> End {
        let mut cursor = match self.reader.read(self.log, Filter::all(), self.position()).await {
            Ok(cursor) => cursor,
            Err(error) => return End::Read(error),
        };
        let mut tail = Tail::Return;
        let mut stored_at = Instant::now();
        loop {
            let page = match cursor.next(PAGE_RECORDS, tail).await {
                Ok(page) => page,
                Err(error) => return End::Read(error),
            };
            if let Err(end) = self.wait_for_events().await {
                return end;
            }
            if let Err(end) = self.fold(&page).await {
                return end;
            }
            if page.records.is_empty() && tail == Tail::Return {
                tail = Tail::Wait;
                if self.log == Log::Events {
                    self.live.set_status(Status::Following);
                }
            }
            self.report_lag(&page).await;
            if stored_at.elapsed() >= CHECKPOINT_EVERY {
                store(self.checkpoints.as_ref(), &self.live);
                stored_at = Instant::now();
            }
        }
    }

    /// For a usage log: waits until EVENTS is folded as far as it reaches now.
    async fn wait_for_events(&self) -> Result<(), End> {
        if self.log == Log::Events {
            return Ok(());
        }
        let head = self.reader.head(Log::Events).await.map_err(End::Read)?;
        loop {
            match self.live.reached(head, EVENTS_PATIENCE).await {
                Ok(()) => return Ok(()),
                Err(NotReached::Behind) => {}
                Err(NotReached::Stopped(_)) => return Err(End::Stopped),
            }
        }
    }

    async fn fold(&self, page: &Page) -> Result<(), End> {
        let mut done = 0;
        while let Err(fault) = self.fold_some(page, &mut done) {
            // Records may have been removed between those that were read. Where the tombstones say nothing new, it is a fault.
            if fault.may_be_erasure() && self.learn_tombstones().await? {
                continue;
            }
            let Some(stored) = page.records.get(done) else { return Err(End::Fault(fault)) };
            self.live.update(|inner| pass(inner, self.log, stored, fault)).map_err(End::Fault)?;
            done += 1;
        }
        Ok(())
    }

    /// Folds the records of a page but the first `done`, and counts them.
    fn fold_some(&self, page: &Page, done: &mut usize) -> Result<(), Fault> {
        self.live.update(|inner| {
            for stored in &page.records[*done..] {
                apply(inner, self.log, stored, Depth::Signatures)?;
                *done += 1;
            }
            inner.positions.insert(self.log, page.through);
            Ok(())
        })
    }

    /// Reads the tombstones ahead of the log; whether one of them was news.
    async fn learn_tombstones(&self) -> Result<bool, End> {
        let ring = self.live.view(|_, verifier| verifier.ring().clone());
        let erased = tombstones(self.reader.as_ref(), ring).await.map_err(|error| match error {
            TombstonesError::Read(error) => End::Read(error),
            TombstonesError::Fault(fault) => End::Fault(fault),
        })?;
        Ok(self.live.update(|inner| {
            let is_news = !inner.verifier.erased().includes(&erased);
            inner.learn(&erased);
            is_news
        }))
    }

    async fn report_lag(&self, page: &Page) {
        let behind = match page.records.len() {
            PAGE_RECORDS => {
                self.reader.head(self.log).await.map_or(0, |head| head.0.saturating_sub(page.through.0))
            }
            _ => 0,
        };
        metrics::gauge!("omnirun_view_lag_records", "view" => F::NAME, "log" => self.log.to_string())
            .set(behind as f64);
        metrics::gauge!("omnirun_view_position", "view" => F::NAME, "log" => self.log.to_string())
            .set(page.through.0 as f64);
    }
}
