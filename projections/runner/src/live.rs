//! A read model that is being followed: reading it, waiting for it, and where it is.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use omnirun_events::keys::Digest;
use omnirun_events::log::{Read, ReadError, Sequence};
use omnirun_events::subject::Log;
use omnirun_events::verify::Verifier;
use omnirun_projections::Fold;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A handle on a followed read model. Clones share it.
pub struct Live<F> {
    shared: Arc<Shared<F>>,
}

impl<F> Clone for Live<F> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<F> {
    inner: RwLock<Inner<F>>,
    progress: watch::Sender<Progress>,
}

/// State, verifier and positions belong together: they are changed, read and stored as one.
#[derive(Clone)]
pub(crate) struct Inner<F> {
    pub state: F,
    pub verifier: Verifier,
    pub positions: BTreeMap<Log, Sequence>,
}

/// How far a read model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here in EVENTS is folded.
    pub events: Sequence,
    /// Counted up with every change, in whichever log.
    pub changes: u64,
    /// Whether it goes on.
    pub status: Status,
}

/// Whether a read model goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It reads what was there when it started.
    CatchingUp,
    /// It has read that and follows.
    Following,
    /// A record cannot be believed, or the store is damaged: it serves what it has and goes no further. The text is for operators.
    Stopped(String),
}

/// Why a position was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReached {
    /// Not in time.
    #[error("the read model is behind")]
    Behind,
    /// It never will.
    #[error("the read model has stopped: {0}")]
    Stopped(String),
}

/// Why it is not known that a read model has everything.
#[derive(Debug, thiserror::Error)]
pub enum NotCaughtUp {
    /// The end of a log cannot be found out.
    #[error("cannot read the end of {log}")]
    Read {
        /// Which log.
        log: Log,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// It was not reached.
    #[error(transparent)]
    NotReached(#[from] NotReached),
}

/// Positions and the digest of the state at them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last folded position of each log.
    pub positions: BTreeMap<Log, Sequence>,
    /// SHA-256 of the state's canonical form.
    pub digest: Digest,
}

impl<F: Fold> Live<F> {
    pub(crate) fn new(inner: Inner<F>) -> Self {
        let events = inner.positions.get(&Log::Events).copied().unwrap_or_default();
        let progress = Progress { events, changes: 0, status: Status::CatchingUp };
        Self {
            shared: Arc::new(Shared { inner: RwLock::new(inner), progress: watch::Sender::new(progress) }),
        }
    }

    /// Reads the state, and the verifier for heads and keys, at one position. Readers do not wait for each other; keep it short.
    pub fn view<R>(&self, read: impl FnOnce(&F, &Verifier) -> R) -> R {
        let inner = self.shared.inner.read().unwrap_or_else(PoisonError::into_inner);
        read(&inner.state, &inner.verifier)
    }

    /// Reads the state and the last folded position of each log, taken together.
    pub fn view_at<R>(&self, read: impl FnOnce(&F, &BTreeMap<Log, Sequence>) -> R) -> R {
        let inner = self.shared.inner.read().unwrap_or_else(PoisonError::into_inner);
        read(&inner.state, &inner.positions)
    }

    /// Where the read model is now.
    pub fn progress(&self) -> Progress {
        self.shared.progress.borrow().clone()
    }

    /// A receiver that changes whenever the read model does.
    pub fn changes(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Waits until everything up to `sequence` of EVENTS is folded.
    pub async fn reached(&self, sequence: Sequence, within: Duration) -> Result<(), NotReached> {
        self.wait(within, |_, events| (events >= sequence).then_some(())).await
    }

    /// Waits until everything is folded that was in `logs` when this was called.
    pub async fn has_all(
        &self,
        reader: &dyn Read,
        logs: &[Log],
        within: Duration,
    ) -> Result<(), NotCaughtUp> {
        let mut heads = BTreeMap::new();
        for log in logs.iter().copied() {
            heads.insert(log, reader.head(log).await.map_err(|source| NotCaughtUp::Read { log, source })?);
        }
        let has = |live: &Self| heads.iter().all(|(log, head)| live.copy_position(*log) >= *head);
        Ok(self.wait(within, |live, _| has(live).then_some(())).await?)
    }

    /// Waits until `find` finds something in the state.
    pub async fn until<T>(
        &self,
        within: Duration,
        mut find: impl FnMut(&F) -> Option<T>,
    ) -> Result<T, NotReached> {
        self.wait(within, |live, _| live.view(|state, _| find(state))).await
    }

    async fn wait<T>(
        &self,
        within: Duration,
        mut find: impl FnMut(&Self, Sequence) -> Option<T>,
    ) -> Result<T, NotReached> {
        let mut changes = self.changes();
        let look = async {
            loop {
                let progress = changes.borrow_and_update().clone();
                if let Some(found) = find(self, progress.events) {
                    return Ok(found);
                }
                if let Status::Stopped(why) = progress.status {
                    return Err(NotReached::Stopped(why));
                }
                if changes.changed().await.is_err() {
                    return Err(NotReached::Stopped("its follower has ended".to_owned()));
                }
            }
        };
        tokio::time::timeout(within, look).await.unwrap_or(Err(NotReached::Behind))
    }

    /// Positions and digest of the state, taken together.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.shared.inner.read().unwrap_or_else(PoisonError::into_inner);
        Snapshot { positions: inner.positions.clone(), digest: inner.state.digest() }
    }

    /// Changes the state in place. For proving that `ops replay` notices a flipped row; nothing else calls it.
    pub fn tamper(&self, change: impl FnOnce(&mut F)) {
        self.update(|inner| change(&mut inner.state));
    }

    pub(crate) fn copy(&self) -> Inner<F> {
        self.shared.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn copy_position(&self, log: Log) -> Sequence {
        let inner = self.shared.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.positions.get(&log).copied().unwrap_or_default()
    }

    /// Changes state, verifier and positions together and tells everybody who waits.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Inner<F>) -> R) -> R {
        let mut inner = self.shared.inner.write().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut inner);
        let events = inner.positions.get(&Log::Events).copied().unwrap_or_default();
        drop(inner);
        self.shared.progress.send_modify(|progress| {
            progress.events = events;
            progress.changes = progress.changes.wrapping_add(1);
        });
        answer
    }

    /// Sets the status. A read model that has stopped stays so, whatever its other logs do.
    pub(crate) fn set_status(&self, status: Status) {
        self.shared.progress.send_modify(|progress| {
            if !matches!(progress.status, Status::Stopped(_)) {
                progress.status = status;
            }
            let is_following = progress.status == Status::Following;
            metrics::gauge!("omnirun_view_following", "view" => F::NAME)
                .set(f64::from(u8::from(is_following)));
        });
    }
}
