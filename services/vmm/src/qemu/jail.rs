//! What a QEMU process sees of the host: namespaces of its own (mount, network, pid, ipc, uts), a root that holds /usr
//! and the guest's three files, all read-only, and a user id that no other process has.
//!
//! Only root can make it. For anybody else QEMU runs with that user's rights, behind its own seccomp filter and the
//! limits of [`super::launch`].

use std::{fs, io, os::unix::fs::symlink, path::Path};

use omnirun_vmm_api::{MonitorError, VmSpec};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount,
        unmount,
    },
    process::{chdir, pivot_root},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::arguments::Paths;

/// The first of the user and group ids for guests; a guest's is this plus the process id of its owner, so that no two
/// living guests share one. Process ids are below 2^22 (proc(5), pid_max). System tools hand out ids far below.
const FIRST_ID: u32 = 1_900_000_000;

/// How a guest's QEMU is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jail {
    /// Everything above, under this user and group id.
    Own(u32),
    /// Started by somebody who is not root.
    SameUser,
}

impl Jail {
    /// The strictest that this process can make.
    pub fn strictest() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Own(FIRST_ID + std::process::id())
        } else {
            Self::SameUser
        }
    }

    /// The guest's files as QEMU will name them.
    pub fn paths(self, spec: &VmSpec) -> Paths {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match self {
            Self::Own(_) => {
                Paths { kernel: "/kernel".into(), initramfs: "/initramfs".into(), root: "/root.sqfs".into() }
            }
            Self::SameUser => Paths {
                kernel: text(&spec.files.kernel),
                initramfs: text(&spec.files.initramfs),
                root: text(&spec.files.root),
            },
        }
    }

    /// Moves the calling thread, and what it starts from now on, into the jail. The thread must do nothing else
    /// afterwards, and the process's other threads stay where they are.
    pub fn enter(self, spec: &VmSpec) -> Result<(), MonitorError> {
        if self == Self::SameUser {
            return Ok(());
        }
        let namespaces = UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWPID
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS;
        // SAFETY: without CLONE_FILES the descriptor table stays shared with the other threads, and no memory is
        // concerned: these flags change only what this thread and its children see.
        step("make namespaces", unsafe { unshare_unsafe(namespaces) })?;
        step("set the host name", rustix::system::sethostname(b"guest"))?;
        let root = spec.state_dir.join("jail");
        match fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => step("make the root", Err(error))?,
            _ => {}
        }
        // Nothing mounted from here on may reach the host's own mount namespace.
        let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        step("separate the mounts", mount_change("/", apart))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        step(
            "make the root",
            mount("jail", &root, "tmpfs", flags, Some(c"size=64k,nr_inodes=64,mode=0755")),
        )?;
        fill(&root, spec)?;
        step("seal the root", mount_remount(&root, flags | MountFlags::RDONLY, c""))?;
        step("enter the root", chdir(&root))?;
        step("change the root", pivot_root(".", "."))?;
        step("leave the host's root", unmount(".", UnmountFlags::DETACH))?;
        step("enter the root", chdir("/"))
    }
}

fn step<T>(step: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, MonitorError> {
    result.map_err(|source| MonitorError::Jail { step, source: source.into() })
}

fn fill(root: &Path, spec: &VmSpec) -> Result<(), MonitorError> {
    step("make /usr", fs::create_dir(root.join("usr")))?;
    show(Path::new("/usr"), &root.join("usr"))?;
    // Where /lib is a link into /usr, as in every Debian since 12, the link is enough.
    for name in ["lib", "lib64"] {
        let host = Path::new("/").join(name);
        match fs::read_link(&host) {
            Ok(target) => step("make /lib", symlink(target, root.join(name)))?,
            Err(_) if host.is_dir() => {
                step("make /lib", fs::create_dir(root.join(name)))?;
                show(&host, &root.join(name))?;
            }
            Err(_) => {}
        }
    }
    step("make /dev", fs::create_dir(root.join("dev")))?;
    for (host, name) in [
        (spec.files.kernel.as_path(), "kernel"),
        (spec.files.initramfs.as_path(), "initramfs"),
        (spec.files.root.as_path(), "root.sqfs"),
        (Path::new("/dev/null"), "dev/null"),
        (Path::new("/dev/urandom"), "dev/urandom"),
    ] {
        let at = root.join(name);
        step("make a file", fs::File::create(&at))?;
        if name.starts_with("dev/") {
            step("show a device", mount_bind(host, &at))?;
        } else {
            show(host, &at)?;
        }
    }
    Ok(())
}

/// Shows a file or directory of the host read-only.
fn show(host: &Path, at: &Path) -> Result<(), MonitorError> {
    step("show a file", mount_bind(host, at))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    step("seal a file", mount_remount(at, flags, c""))
}
