//! Small disks that run full for real.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A tmpfs of its own size; unmounted when it goes out of scope.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size` (such as `12m`) at `at`, which is made. Needs root, as the guest image does.
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
        let data = std::ffi::CString::new(format!("size={size}"))?;
        mount("omnirun-test", at, "tmpfs", MountFlags::empty(), data.as_c_str())
            .with_context(|| format!("cannot mount a tmpfs at {}; run the tests as root", at.display()))?;
        Ok(Self(at.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached: files that are still open keep it until they are closed.
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}
