//! The files of the host that a guest's start reads, opened once: a process in its jail has no paths.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use omnirun_vmm_api::{ImageFiles, MemoryBacking, MonitorError, Purpose, VmSpec};
use rustix::fs::{MemfdFlags, memfd_create};

use super::failed;

/// What to do about a file of the template.
pub const REMEDY: &str = "make it again with scripts/guest-image";

/// A file, and its path for messages.
#[derive(Debug)]
pub struct Named {
    /// Where it is on the host.
    pub path: PathBuf,
    /// It.
    pub file: File,
}

/// A template's files.
#[derive(Debug)]
pub struct Images {
    /// The kernel, unpacked.
    pub kernel: Named,
    /// The initramfs.
    pub initramfs: Named,
    /// The root file system. Its position is shared by all guests of one opening, which live one after the other.
    pub root: Named,
}

/// Everything of the host that a guest's start reads.
#[derive(Debug)]
pub struct Files {
    /// The template's.
    pub images: Images,
    /// What this process has in memory: proc(5), /proc/PID/statm.
    pub statm: Option<File>,
    /// The guest's memory, where that is a file.
    pub memory: Option<File>,
    /// Which pages of it were touched, for a snapshot. Whoever opens it as root sees where they are in the host's
    /// memory too, so no tenant's guest has it.
    pub page_map: Option<File>,
}

impl Images {
    /// Opens all of them.
    pub fn open(files: &ImageFiles) -> Result<Self, MonitorError> {
        Ok(Self {
            kernel: Named::open(&files.kernel)?,
            initramfs: Named::open(&files.initramfs)?,
            root: Named::open(&files.root)?,
        })
    }
}

impl Files {
    /// Opens all that a guest needs. Those about this process are of the process that calls.
    pub fn open(spec: &VmSpec) -> Result<Self, MonitorError> {
        let own = |name| File::open(Path::new("/proc/self").join(name)).ok();
        let memory = match spec.backing {
            MemoryBacking::Anonymous => None,
            MemoryBacking::Memfd => {
                let made = memfd_create("guest", MemfdFlags::CLOEXEC);
                Some(made.map_err(|errno| failed("make the memory of")(errno.into()))?.into())
            }
        };
        Ok(Self {
            images: Images::open(&spec.files)?,
            memory,
            statm: own("statm"),
            page_map: if spec.purpose == Purpose::Snapshot { own("pagemap") } else { None },
        })
    }
}

impl Named {
    fn open(path: &Path) -> Result<Self, MonitorError> {
        let file = File::open(path).map_err(|error| unusable(path, &error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// An operation on it that failed.
    pub fn unusable(&self, error: &io::Error) -> MonitorError {
        unusable(&self.path, error)
    }

    /// It is not what it should be.
    pub fn refused(&self, reason: String) -> MonitorError {
        MonitorError::BadFile { path: self.path.clone(), reason }
    }
}

fn unusable(path: &Path, error: &io::Error) -> MonitorError {
    MonitorError::BadFile { path: path.to_owned(), reason: format!("{error}: {REMEDY}") }
}
