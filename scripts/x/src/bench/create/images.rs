//! A template store of the bench's own: a copy of one template, whose snapshot comes and goes without touching the real one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

const TEMPLATE: &str = "templates/python-3.11";
const FILES: [&str; 4] = [
    "kernel/vmlinux",
    "initramfs.cpio",
    "templates/python-3.11/root.sqfs",
    "templates/python-3.11/template.json",
];

/// Whether the worker can keep a snapshot of the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    Possible,
    Impossible,
}

/// The store. Dropping it removes it.
pub struct Images(TempDir);

impl Images {
    /// Copies the template without its snapshot.
    pub fn copy() -> Result<Self> {
        let (from, to) = (omnirun_test_support::images(), tempfile::tempdir()?);
        fs::create_dir(to.path().join("kernel"))?;
        fs::create_dir_all(to.path().join(TEMPLATE))?;
        for file in FILES {
            let failed =
                || format!("cannot copy {file} of the template store: make it with scripts/guest-image");
            fs::copy(from.join(file), to.path().join(file)).with_context(failed)?;
        }
        // Guests run as users of their own and read these files.
        make_readable(to.path())?;
        Ok(Self(to))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn snapshots(&self) -> PathBuf {
        self.path().join(TEMPLATE).join("snapshot")
    }

    /// Allows snapshots, or puts a file where their directory would be.
    pub fn set(&self, snapshot: Snapshot) -> Result<()> {
        let path = self.snapshots();
        match snapshot {
            Snapshot::Impossible if path.is_dir() => fs::remove_dir_all(&path)?,
            Snapshot::Possible if path.is_file() => fs::remove_file(&path)?,
            _ => {}
        }
        if snapshot == Snapshot::Impossible {
            fs::write(path, "")?;
        }
        Ok(())
    }

    /// Whether there is a whole snapshot.
    pub fn has_snapshot(&self) -> bool {
        let entries = fs::read_dir(self.snapshots()).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let is_temporary = entry.file_name().to_string_lossy().contains('.');
            !is_temporary && entry.path().join("meta.json").exists()
        })
    }
}

fn make_readable(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}
