//! Checkpoints: state, positions and verifier in one file, replaced whole.
//!
//! A checkpoint that does not decode, or is of another fold version or root key, is absent: the read model starts from the beginning. One
//! that is ahead of its log means that the log lost records, and is refused by [`crate::follow`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use omnirun_events::keys::Digest;
use omnirun_events::log::Sequence;
use omnirun_events::subject::Log;
use omnirun_events::verify::{Verifier, VerifierState};
use omnirun_projections::Fold;
use serde::{Deserialize, Serialize};

use crate::live::Inner;

/// A directory of checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
    /// One writer at a time: the logs of a read model are followed by a task each, and all write the same file.
    writing: Arc<Mutex<()>>,
}

/// A checkpoint that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the checkpoint {}", path.display())]
pub struct CheckpointError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

#[derive(Serialize, Deserialize)]
struct Stored<F> {
    name: String,
    version: u32,
    positions: BTreeMap<Log, Sequence>,
    verifier: VerifierState,
    state: F,
}

impl Checkpoints {
    /// Checkpoints in this directory, which is made when the first one is written.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), writing: Arc::default() }
    }

    fn path<F: Fold>(&self) -> PathBuf {
        self.directory.join(format!("{}-v{}.checkpoint", F::NAME, F::VERSION))
    }

    /// The stored state of this fold under this root key, if there is a good one.
    pub(crate) fn load<F: Fold>(&self, root: &Digest) -> Option<Inner<F>> {
        let bytes = fs::read(self.path::<F>()).ok()?;
        let stored: Stored<F> = rmp_serde::from_slice(&bytes).ok()?;
        if stored.name != F::NAME || stored.version != F::VERSION || stored.verifier.ring.root != *root {
            return None;
        }
        let verifier = Verifier::from_state(stored.verifier).ok()?;
        Some(Inner { state: stored.state, verifier, positions: stored.positions })
    }

    /// Replaces the stored state. After a crash in between, the old one or the new one is there, whole.
    pub(crate) fn store<F: Fold>(&self, inner: &Inner<F>) -> Result<(), CheckpointError> {
        let path = self.path::<F>();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = Stored {
            name: F::NAME.to_owned(),
            version: F::VERSION,
            positions: inner.positions.clone(),
            verifier: inner.verifier.state(),
            state: &inner.state,
        };
        let bytes = rmp_serde::to_vec_named(&stored).map_err(std::io::Error::other);
        bytes
            .and_then(|bytes| replace(&self.directory, &path, &bytes))
            .map_err(|source| CheckpointError { path, source })
    }
}

fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
