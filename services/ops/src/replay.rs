//! `omnirun ops replay`: a read model made again from the log alone, beside the live one at the same positions.
//!
//! "Live" is the state in the memory of a running `omnirun up`, asked through its socket; without one it is the stored checkpoint and
//! what followed it. Both sides are the `believed` list.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use omnirun_billing::Billing;
use omnirun_events::keys::Digest;
use omnirun_events::log::Sequence;
use omnirun_events::subject::Log;
use omnirun_events::subject::SubjectKind;
use omnirun_events::verify::{Depth, TombstonesError};
use omnirun_projections::{Directory, Fold, Usage};
use omnirun_runner::{Checkpoints, RebuildError, Snapshot, Source as Logs, follow, rebuild};
use serde_json::json;

use crate::context::Source;
use crate::dispatch::Form;
use crate::exit::Exit;

/// How long a stored read model may take to catch up with the log.
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

/// Two digests of one read model.
pub(crate) struct Replayed {
    view: &'static str,
    live_is: &'static str,
    live: Snapshot,
    rebuilt: Digest,
    records: u64,
}

pub(crate) async fn run(
    source: &Source,
    view: &str,
    root: Digest,
    checkpoints: Option<PathBuf>,
) -> anyhow::Result<Replayed> {
    match view {
        Directory::NAME => compare::<Directory>(source, Logs::Events, root, checkpoints).await,
        Usage::NAME => compare::<Usage>(source, Logs::EventsAndUsage, root, checkpoints).await,
        Billing::NAME => compare::<Billing>(source, Logs::EventsAndUsage, root, checkpoints).await,
        _ => bail!(
            "there is no read model {view}; there are {}, {} and {}",
            Directory::NAME,
            Usage::NAME,
            Billing::NAME
        ),
    }
}

/// Times that both sides are taken anew because something was erased between them.
const TRIES_MAX: usize = 5;

async fn compare<F: Fold>(
    source: &Source,
    logs: Logs,
    root: Digest,
    checkpoints: Option<PathBuf>,
) -> anyhow::Result<Replayed> {
    let mut tries = 1;
    loop {
        let replayed = compare_once::<F>(source, logs, root, checkpoints.clone()).await?;
        let last = source.read.last(&SubjectKind::Erasure.into()).await?;
        let seen = replayed.live.positions.get(&Log::Events).copied().unwrap_or_default();
        // What a tombstone names is gone for the rebuild, but not yet for a live one that has not come to it.
        if tries == TRIES_MAX || last.is_none_or(|tombstone| tombstone.sequence <= seen) {
            return Ok(replayed);
        }
        tries += 1;
    }
}

async fn compare_once<F: Fold>(
    source: &Source,
    logs: Logs,
    root: Digest,
    checkpoints: Option<PathBuf>,
) -> anyhow::Result<Replayed> {
    let (live_is, live) = match &source.live {
        Some(live) => {
            let snapshot = live.snapshot(F::NAME).await?;
            let snapshot = snapshot.with_context(|| format!("the running process keeps no {}", F::NAME))?;
            ("memory of the running process", snapshot)
        }
        None => (
            "stored checkpoint and the records after it",
            stored::<F>(source, logs, root, checkpoints).await?,
        ),
    };
    // A log that the live one has not read from is not read here either.
    let through: BTreeMap<Log, Sequence> = logs
        .logs()
        .into_iter()
        .map(|log| (log, live.positions.get(&log).copied().unwrap_or_default()))
        .collect();
    let rebuilt = rebuild::<F>(source.read.as_ref(), &root, logs, &through, Depth::Signatures).await;
    let rebuilt = rebuilt.map_err(flat)?;
    Ok(Replayed { view: F::NAME, live_is, live, rebuilt: rebuilt.state.digest(), records: rebuilt.records })
}

/// The exit code follows from what went wrong, which is looked for in the chain of causes.
fn flat(error: RebuildError) -> anyhow::Error {
    match error {
        RebuildError::Read { source, log } => {
            anyhow::Error::new(source).context(format!("cannot read {log}"))
        }
        RebuildError::Fault(fault) => fault.into(),
        RebuildError::Tombstones(error) => flat_tombstones(error),
        RebuildError::Root(weak) => weak.into(),
    }
}

/// The same for what is known of tombstones.
pub(crate) fn flat_tombstones(error: TombstonesError) -> anyhow::Error {
    match error {
        TombstonesError::Read(source) => anyhow::Error::new(source).context("cannot read the tombstones"),
        TombstonesError::Fault(fault) => fault.into(),
    }
}

/// What a process that started now would have: the checkpoint, if there is a good one, and the records after it.
async fn stored<F: Fold>(
    source: &Source,
    logs: Logs,
    root: Digest,
    checkpoints: Option<PathBuf>,
) -> anyhow::Result<Snapshot> {
    let directory = checkpoints.context("nothing runs and no directory of checkpoints is known, so there is nothing to compare with; start `omnirun up` and try again")?;
    let checkpoints = Checkpoints::in_directory(directory);
    let head = source.read.head(Log::Events).await?;
    let follower = follow::<F>(source.read.clone(), root, logs, Some(checkpoints)).await?;
    follower.live().reached(head, CATCH_UP_MAX).await?;
    Ok(follower.live().snapshot())
}

impl Replayed {
    pub(crate) fn print(&self, form: Form, out: &mut impl Write) -> anyhow::Result<Exit> {
        let is_same = self.live.digest == self.rebuilt;
        let positions: BTreeMap<_, _> = self
            .live
            .positions
            .iter()
            .filter(|(_, sequence)| **sequence > Sequence::NONE)
            .map(|(log, sequence)| (log.to_string(), sequence.0))
            .collect();
        if form == Form::Json {
            let report = json!({
                "list": "believed",
                "view": self.view,
                "live_is": self.live_is,
                "positions": positions,
                "records": self.records,
                "live": self.live.digest.to_string(),
                "rebuilt": self.rebuilt.to_string(),
                "same": is_same,
            });
            writeln!(out, "{report:#}")?;
        } else {
            writeln!(out, "list: believed records, as {} folds them", self.view)?;
            writeln!(out, "live is: {}", self.live_is)?;
            for (log, position) in &positions {
                writeln!(out, "at: {log} {position}")?;
            }
            writeln!(out, "records: {}", self.records)?;
            writeln!(out, "live:    {}", self.live.digest)?;
            writeln!(out, "rebuilt: {}", self.rebuilt)?;
            writeln!(
                out,
                "{}",
                if is_same {
                    "same"
                } else {
                    "DIFFERENT: the live one is not what the log says; stop, keep a copy, and start again without the checkpoint"
                }
            )?;
        }
        Ok(if is_same { Exit::Good } else { Exit::Bad })
    }
}
