//! The directory that one running role has to itself, `<data>/<role>/`, with its checkpoints and `ops.sock`.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where the read models of a data directory, or of a role's state, keep their checkpoints.
pub fn views_of(directory: &Path) -> PathBuf {
    directory.join("views")
}

/// Makes a directory for its owner alone if it is missing and answers its absolute path.
pub fn make_directory(path: &Path) -> Result<PathBuf> {
    let failed = || format!("cannot make the directory {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(failed)?;
    path.canonicalize().with_context(failed)
}

/// A role's directory, locked for as long as this lives.
pub struct State {
    path: PathBuf,
    _lock: File,
}

impl State {
    /// Takes the directory of `role` in `data`; refused while another process has it.
    pub fn take(data: &Path, role: &str) -> Result<Self> {
        let path = make_directory(&data.join(role))?;
        let file = path.join("lock");
        let lock = File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another omnirun {role} works in {}; give each its own --data with its own copies of the keys",
                data.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", file.display()))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
