//! A template store of the bench's own: a copy of one template, whose snapshot is made and removed without touching the real one.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

const TEMPLATE: &str = "templates/python-3.11";
const FILES: [&str; 4] = [
    "kernel/vmlinux",
    "initramfs.cpio",
    "templates/python-3.11/root.sqfs",
    "templates/python-3.11/template.json",
];

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

    /// Whether there is a whole snapshot.
    pub fn has_snapshot(&self) -> bool {
        let entries =
            fs::read_dir(self.path().join(TEMPLATE).join("snapshot")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| {
            // One that is still being written is named after its writer, too.
            path.to_string_lossy().ends_with("-m512") && path.join("meta.json").exists()
        })
    }
}

fn make_readable(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}
