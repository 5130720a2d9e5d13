//! Where guests are on this host's disk, and whether their processes live.
//!
//! ```text
//! guests/<vm>/        state directory of one owner process: owner.sock, later final.json
//! guests/<vm>.lock    locked by the owner process and its monitor for as long as one of them lives
//! sandboxes/<id>      symbolic link whose target is the name of the sandbox's guest
//! ```
//!
//! The lock is how a worker that did not start a guest knows whether it lives: the kernel releases it with the last process that
//! holds it, however that ended, and no process number can be taken for another one. Nothing of a tenant is in any of these files.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use omnirun_events::id::SandboxId;
use omnirun_vmm_api::owner::{FINAL, Final, SOCKET};
use rustix::fs::{FlockOperation, flock};

/// How the names of pool guests begin.
const POOL_PREFIX: &str = "pool-";

/// Why a guest was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// To wait in the pool.
    Pool,
    /// For a sandbox that waited for it, or for a snapshot.
    Demand,
}

/// Name of a guest, as its owner process knows it; also of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(String);

impl VmId {
    /// The guest with this name.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A new name with 64 random bits, of a guest that waits in the pool or of another one.
    pub(crate) fn random(origin: Origin) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        let prefix = if origin == Origin::Pool { POOL_PREFIX } else { "vm-" };
        Ok(Self(format!("{prefix}{}", HEXLOWER.encode(&bytes))))
    }

    /// Where the guest came from, which a restarted worker must know too.
    pub(crate) fn origin(&self) -> Origin {
        if self.0.starts_with(POOL_PREFIX) { Origin::Pool } else { Origin::Demand }
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directories of one worker.
#[derive(Debug, Clone)]
pub struct Places {
    guests: PathBuf,
    sandboxes: PathBuf,
}

impl Places {
    /// The directories below `state`, made if missing, readable by this user alone.
    pub fn open(state: &Path) -> io::Result<Self> {
        let places = Self { guests: state.join("guests"), sandboxes: state.join("sandboxes") };
        for directory in [&places.guests, &places.sandboxes] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(places)
    }

    /// The state directory of a guest.
    pub fn state_dir(&self, vm: &VmId) -> PathBuf {
        self.guests.join(&vm.0)
    }

    /// The socket of a guest's owner process.
    pub fn socket(&self, vm: &VmId) -> PathBuf {
        self.state_dir(vm).join(SOCKET)
    }

    fn lock_path(&self, vm: &VmId) -> PathBuf {
        self.guests.join(format!("{vm}.lock"))
    }

    /// The lock of a new guest, held; to be inherited by its owner process. Opened for reading only, so that nothing can be written to it.
    pub fn lock(&self, vm: &VmId) -> io::Result<File> {
        let path = self.lock_path(vm);
        fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        let file = File::open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Whether a process of the guest lives.
    pub fn is_alive(&self, vm: &VmId) -> bool {
        match File::open(self.lock_path(vm)) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
            Err(_) => false,
        }
    }

    /// What a guest that has ended left; none where its owner process could not say it.
    pub fn read_final(&self, vm: &VmId) -> Option<Final> {
        serde_json::from_slice(&fs::read(self.state_dir(vm).join(FINAL)).ok()?).ok()
    }

    /// Every guest that has left a trace.
    pub fn guests(&self) -> io::Result<Vec<VmId>> {
        let mut found: Vec<VmId> = names(&self.guests)?
            .into_iter()
            .map(|name| VmId(name.strip_suffix(".lock").unwrap_or(&name).to_owned()))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Which sandbox has which guest. A name that is no sandbox's is passed over.
    pub fn bindings(&self) -> io::Result<Vec<(SandboxId, VmId)>> {
        let bound = names(&self.sandboxes)?.into_iter().filter_map(|name| {
            let target = fs::read_link(self.sandboxes.join(&name)).ok()?;
            Some((name.parse().ok()?, VmId(target.to_str()?.to_owned())))
        });
        Ok(bound.collect())
    }

    /// Notes that a sandbox has this guest, before the guest hears of it. Another note of the same sandbox is replaced.
    pub fn bind(&self, sandbox: SandboxId, vm: &VmId) -> io::Result<()> {
        let path = self.sandboxes.join(sandbox.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => symlink(&vm.0, path),
        }
    }

    /// Removes the last traces of a guest that has ended, and the note of its sandbox. Twice is once.
    pub fn remove(&self, vm: &VmId, sandbox: Option<SandboxId>) -> io::Result<()> {
        let absent_is_fine = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        absent_is_fine(fs::remove_dir_all(self.state_dir(vm)))?;
        if let Some(sandbox) = sandbox {
            self.unbind(sandbox, vm)?;
        }
        absent_is_fine(fs::remove_file(self.lock_path(vm)))
    }

    /// Removes the note of a sandbox if it still names this guest.
    fn unbind(&self, sandbox: SandboxId, vm: &VmId) -> io::Result<()> {
        let path = self.sandboxes.join(sandbox.to_string());
        match fs::read_link(&path) {
            Ok(target) if target.as_os_str() == vm.0.as_str() => fs::remove_file(path),
            _ => Ok(()),
        }
    }

    /// Removes notes whose guest has left no trace.
    pub fn remove_dangling(&self) -> io::Result<()> {
        let guests = self.guests()?;
        for (sandbox, vm) in self.bindings()? {
            if !guests.contains(&vm) {
                self.unbind(sandbox, &vm)?;
            }
        }
        Ok(())
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_lives_as_long_as_a_process_holds_its_lock() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let places = Places::open(directory.path()).expect("writable");
        let vm = VmId::new("one");
        assert!(!places.is_alive(&vm));
        let mut command = std::process::Command::new("cat");
        command.stdin(std::process::Stdio::piped()).stdout(places.lock(&vm).expect("a new guest"));
        let mut child = command.spawn().expect("cat is there");
        drop(command);
        assert!(places.is_alive(&vm));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert!(!places.is_alive(&vm));
    }

    #[test]
    fn removing_a_guest_leaves_nothing_and_twice_is_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let places = Places::open(directory.path()).expect("writable");
        let (vm, sandbox) = (VmId::new("one"), SandboxId::from_bytes([1; 16]));
        drop(places.lock(&vm).expect("a new guest"));
        fs::create_dir(places.state_dir(&vm)).expect("writable");
        places.bind(sandbox, &vm).expect("writable");
        assert_eq!(places.bindings().expect("readable"), [(sandbox, vm.clone())]);
        assert_eq!(places.guests().expect("readable"), std::slice::from_ref(&vm));
        for _ in 0..2 {
            places.remove(&vm, Some(sandbox)).expect("writable");
            assert!(places.guests().expect("readable").is_empty());
            assert!(places.bindings().expect("readable").is_empty());
        }
    }
}
