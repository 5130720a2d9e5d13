//! Following: one task per log, one loop for catching up and following.
//!
//! EVENTS says who may speak for a sandbox, so a page of a usage log is folded only after EVENTS has been followed at least as far as it
//! was when the page was read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use omnirun_events::erasure::Erased;
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Page, Read, ReadError, Sequence, Stored, Tail};
use omnirun_events::signing::WeakKey;
use omnirun_events::subject::{Filter, Log, Slot};
use omnirun_events::verify::{Depth, Fault, TombstonesError, Verdict, Verifier, tombstones};
use omnirun_projections::Fold;
use tokio::task::JoinHandle;

use crate::checkpoint::Checkpoints;
use crate::live::{Inner, Live, NotReached, Status};

/// Records that are folded under one lock, so that readers get in between.
const PAGE_RECORDS: usize = 256;

/// Time between two checkpoints while records come in.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);

/// How long a usage page waits for EVENTS before it looks again.
const EVENTS_PATIENCE: Duration = Duration::from_secs(5);

/// Time between two tries to reach a store that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Which logs a read model follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// EVENTS alone.
    Events,
    /// EVENTS and every usage log.
    EventsAndUsage,
}

impl Source {
    /// The logs, EVENTS first.
    pub fn logs(self) -> Vec<Log> {
        match self {
            Self::Events => vec![Log::Events],
            Self::EventsAndUsage => [Log::Events].into_iter().chain(Slot::all().map(Log::Usage)).collect(),
        }
    }
}

/// Why a read model cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pinned root key is none.
    #[error("the pinned root key cannot be used")]
    Root(#[source] WeakKey),
    /// The store cannot be read.
    #[error("cannot read {log}")]
    Read {
        /// Which log.
        log: Log,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// What was erased is not known, so nothing can be told from damage.
    #[error(transparent)]
    Tombstones(#[from] TombstonesError),
    /// The checkpoint has seen records that the log does not have any more.
    #[error(
        "{log} ends at {head}, but {view} has seen {seen}: the log lost records; restore it, do not delete the checkpoint"
    )]
    LogIsShorter {
        /// Which log.
        log: Log,
        /// Its last position.
        head: Sequence,
        /// The read model.
        view: &'static str,
        /// The position in its checkpoint.
        seen: Sequence,
    },
}

/// The tasks behind a [`Live`]; dropping it ends them without a checkpoint.
pub struct Follower<F: Fold> {
    live: Live<F>,
    checkpoints: Option<Checkpoints>,
    tasks: Vec<JoinHandle<()>>,
}

impl<F: Fold> Drop for Follower<F> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl<F: Fold> Follower<F> {
    /// The read model.
    pub fn live(&self) -> Live<F> {
        self.live.clone()
    }

    /// Ends following and writes a last checkpoint.
    pub async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // An aborted task answers with an error that says so; nothing else can be in it.
            drop(task.await);
        }
        store(self.checkpoints.as_ref(), &self.live);
    }
}

/// Starts to follow `source` for a fold, from its checkpoint if there is a good one. Records that cannot be believed stop the read model,
/// except where a host may have put them; those, and those that are ignored, are reported.
pub async fn follow<F: Fold>(
    reader: Arc<dyn Read>,
    root: Digest,
    source: Source,
    checkpoints: Option<Checkpoints>,
) -> Result<Follower<F>, StartError> {
    let stored = checkpoints.as_ref().and_then(|checkpoints| checkpoints.load::<F>(&root));
    let mut inner = match stored {
        Some(inner) => inner,
        None => {
            let ring = KeyRing::rooted_in(&root).map_err(StartError::Root)?;
            Inner { state: F::default(), verifier: Verifier::new(ring), positions: Default::default() }
        }
    };
    for log in source.logs() {
        let head = reader.head(log).await.map_err(|source| StartError::Read { log, source })?;
        let seen = inner.positions.get(&log).copied().unwrap_or_default();
        if seen > head {
            return Err(StartError::LogIsShorter { log, head, view: F::NAME, seen });
        }
    }
    inner.learn_tombstones(reader.as_ref()).await?;
    let live = Live::new(inner);
    live.set_status(Status::CatchingUp);
    let tasks = source
        .logs()
        .into_iter()
        .map(|log| {
            let task =
                Task { reader: reader.clone(), live: live.clone(), log, checkpoints: checkpoints.clone() };
            tokio::spawn(task.run())
        })
        .collect();
    Ok(Follower { live, checkpoints, tasks })
}

fn store<F: Fold>(checkpoints: Option<&Checkpoints>, live: &Live<F>) {
    let Some(checkpoints) = checkpoints else { return };
    if let Err(error) = checkpoints.store(&live.copy()) {
        // A lost checkpoint costs time at the next start, never a record.
        tracing::warn!(
            view = F::NAME,
            error = &error as &dyn std::error::Error,
            "a checkpoint was not written"
        );
    }
}

struct Task<F: Fold> {
    reader: Arc<dyn Read>,
    live: Live<F>,
    log: Log,
    checkpoints: Option<Checkpoints>,
}

/// Why the loop of a task ended.
enum End {
    Fault(Fault),
    Read(ReadError),
    Stopped,
}

impl<F: Fold> Task<F> {
    async fn run(self) {
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

impl<F: Fold> Inner<F> {
    /// Reads the tombstones on the log and drops what they name.
    pub(crate) async fn learn_tombstones(&mut self, reader: &dyn Read) -> Result<(), TombstonesError> {
        let erased = tombstones(reader, self.verifier.ring().clone()).await?;
        self.learn(&erased);
        Ok(())
    }

    pub(crate) fn learn(&mut self, erased: &Erased) {
        self.verifier.learn(erased);
        self.forget_erased();
    }

    /// Drops what came of records that a tombstone has taken.
    fn forget_erased(&mut self) {
        for subject in self.verifier.take_forgotten() {
            self.state.forget(subject);
        }
    }
}

/// Checks one record and folds it; the position moves with the state.
fn apply<F: Fold>(inner: &mut Inner<F>, log: Log, stored: &Stored, depth: Depth) -> Result<(), Fault> {
    let verdict = inner.verifier.check(log, stored, depth)?;
    take(inner, log, stored, verdict);
    Ok(())
}

/// Passes and reports a record that cannot be believed, if a host may have put it there; the position moves with the state. Otherwise the fault
/// is the answer.
pub(crate) fn pass<F: Fold>(
    inner: &mut Inner<F>,
    log: Log,
    stored: &Stored,
    fault: Fault,
) -> Result<(), Fault> {
    if !inner.verifier.pass(log, stored) {
        return Err(fault);
    }
    metrics::counter!("omnirun_view_passed_total", "view" => F::NAME).increment(1);
    let position = stored.sequence.0;
    tracing::error!(view = F::NAME, %log, position, reason = %fault.kind, "a record where hosts write cannot be believed");
    inner.positions.insert(log, stored.sequence);
    Ok(())
}

/// Folds or reports a checked record; the position moves with the state.
pub(crate) fn take<F: Fold>(inner: &mut Inner<F>, log: Log, stored: &Stored, verdict: Verdict) {
    match verdict {
        Verdict::Believed(record) => inner.state.apply_record(stored, &record),
        Verdict::Ignored(record, why) => {
            metrics::counter!("omnirun_view_ignored_total", "view" => F::NAME).increment(1);
            let (position, key) = (stored.sequence.0, record.header.key.to_string());
            tracing::warn!(view = F::NAME, %log, position, key, reason = ?why, "a record was ignored");
        }
        Verdict::Erased => {}
    }
    inner.forget_erased();
    inner.positions.insert(log, stored.sequence);
}
