//! Following: one task per log, one loop for catching up and following.
//!
//! EVENTS says who may speak for a sandbox, so a page of a usage log is folded only after EVENTS has been followed at least as far as it
//! was when the page was read.

mod task;

use std::sync::Arc;

use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Read, ReadError, Sequence};
use omnirun_events::signing::WeakKey;
use omnirun_events::subject::{Log, Slot};
use omnirun_events::verify::{TombstonesError, Verifier};
use omnirun_projections::Fold;
use tokio::task::JoinHandle;

use self::task::Task;
use crate::checkpoint::Checkpoints;
use crate::live::{Inner, Live, Status};

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
