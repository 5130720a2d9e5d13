//! Rebuilding: the same state from the log alone, up to given positions. There is no sender in it.

use std::collections::BTreeMap;

use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Cursor, Read, ReadError, Sequence, Tail};
use omnirun_events::signing::WeakKey;
use omnirun_events::subject::{Filter, Log};
use omnirun_events::verify::{Depth, Fault, Opened, TombstonesError, Verifier, tombstones};
use omnirun_projections::Fold;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::folding::{pass, take};
use crate::follow::Source;
use crate::live::Inner;

/// Records that are read, opened and folded together: few enough that they are still in the processor's cache when the next one handles them.
const PAGE_RECORDS: usize = 512;

/// Pages that are read ahead of the fold: enough that nobody waits for the other, little memory.
const PAGES_AHEAD: usize = 8;

/// A rebuilt state.
#[derive(Debug, Clone)]
pub struct Rebuilt<F> {
    /// The state.
    pub state: F,
    /// The last position read of each log.
    pub positions: BTreeMap<Log, Sequence>,
    /// Records that were read.
    pub records: u64,
    /// The verifier after the last of them.
    pub verifier: Verifier,
}

/// Why a state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
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
    /// What was erased is not known.
    #[error(transparent)]
    Tombstones(#[from] TombstonesError),
    /// A record cannot be believed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Folds every record of `source` up to `through`, or to the end where it names no position. EVENTS comes first, whole, so that every
/// claim is known before a meter is read.
pub async fn rebuild<F: Fold>(
    reader: &dyn Read,
    root: &Digest,
    source: Source,
    through: &BTreeMap<Log, Sequence>,
    depth: Depth,
) -> Result<Rebuilt<F>, RebuildError> {
    let ring = KeyRing::rooted_in(root).map_err(RebuildError::Root)?;
    let mut erased = tombstones(reader, ring.clone()).await?;
    loop {
        let mut verifier = Verifier::new(ring.clone());
        verifier.learn(&erased);
        let mut inner = Inner { state: F::default(), verifier, positions: BTreeMap::new() };
        match fold_logs(reader, &mut inner, source, through, depth).await {
            Ok(records) => {
                let Inner { state, verifier, positions } = inner;
                return Ok(Rebuilt { state, positions, records, verifier });
            }
            Err(RebuildError::Fault(fault)) if fault.may_be_erasure() => {
                // Records may have been removed between those that were read. Where the tombstones say nothing new, it is a fault.
                let now = tombstones(reader, ring.clone()).await?;
                if erased.includes(&now) {
                    return Err(fault.into());
                }
                erased = now;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn fold_logs<F: Fold>(
    reader: &dyn Read,
    inner: &mut Inner<F>,
    source: Source,
    through: &BTreeMap<Log, Sequence>,
    depth: Depth,
) -> Result<u64, RebuildError> {
    let mut records = 0;
    for log in source.logs() {
        let through = through.get(&log).copied().unwrap_or(Sequence(u64::MAX));
        records += fold_log(reader, inner, log, through, depth).await?;
    }
    Ok(records)
}

async fn fold_log<F: Fold>(
    reader: &dyn Read,
    inner: &mut Inner<F>,
    log: Log,
    through: Sequence,
    depth: Depth,
) -> Result<u64, RebuildError> {
    let failed = |source| RebuildError::Read { log, source };
    let cursor = reader.read(log, Filter::all(), Sequence::NONE).await.map_err(failed)?;
    let (pages, mut read) = mpsc::channel(PAGES_AHEAD);
    // A thread of its own: an embedded store reads without waiting, and its cache allocates and frees on the thread that reads.
    let runtime = Handle::current();
    let reading = tokio::task::spawn_blocking(move || runtime.block_on(read_ahead(cursor, pages)));
    let mut records = 0;
    while let Some(page) = read.recv().await {
        for opened in page.await.expect("opening does not panic") {
            if opened.sequence() > through {
                return Ok(records);
            }
            match inner.verifier.check_opened(log, opened, depth) {
                (stored, Ok(verdict)) => take(inner, log, &stored, verdict),
                (_, Err(fault)) if fault.may_be_erasure() && has_news(reader, inner).await? => {
                    return Err(fault.into());
                }
                (stored, Err(fault)) => pass(inner, log, &stored, fault)?,
            }
            records += 1;
        }
        // Folding a page takes milliseconds and never waits.
        tokio::task::yield_now().await;
    }
    reading.await.expect("a cursor does not panic").map_err(failed)?;
    Ok(records)
}

/// Whether the tombstones say more than the verifier knows.
async fn has_news<F: Fold>(reader: &dyn Read, inner: &Inner<F>) -> Result<bool, TombstonesError> {
    let now = tombstones(reader, inner.verifier.ring().clone()).await?;
    Ok(!inner.verifier.erased().includes(&now))
}

/// A page whose records are being opened.
type Opening = JoinHandle<Vec<Opened>>;

/// Reads to the end while others open and fold what was read, until nobody wants more.
async fn read_ahead(mut cursor: Box<dyn Cursor>, pages: mpsc::Sender<Opening>) -> Result<(), ReadError> {
    loop {
        let page = cursor.next(PAGE_RECORDS, Tail::Return).await?;
        if page.records.is_empty() {
            return Ok(());
        }
        let opening = tokio::spawn(async move { page.records.into_iter().map(Opened::open).collect() });
        if pages.send(opening).await.is_err() {
            return Ok(());
        }
    }
}
