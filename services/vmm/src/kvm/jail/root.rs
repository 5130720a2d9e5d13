//! What an inmate sees of the host: an empty directory, read-only, as its root, and namespaces of its own. That of
//! process ids has been made with the process; the others, of which the network's takes longest, are made here, while a
//! machine may be being made in another thread.

use std::path::Path;

use omnirun_vmm_api::MonitorError;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, pivot_root},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::step;

/// Leaves the host's files for good. The empty root is mounted over the directory `covered`, which is only where a
/// mount can be made: in the namespace of the inmate alone, and gone from there when this returns.
pub fn leave_host(covered: &Path) -> Result<(), MonitorError> {
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: without CLONE_FILES the descriptor table stays shared with other threads, and no memory is concerned:
    // these flags change only what this thread and those that it starts see.
    step("make namespaces", unsafe { unshare_unsafe(namespaces) })?;
    step("set the host name", rustix::system::sethostname(b"guest"))?;
    // Nothing mounted from here on may reach the host's own mount namespace.
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("separate the mounts", mount_change("/", apart))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    let options = Some(c"size=4k,nr_inodes=1,mode=0555");
    step("make the root", mount("jail", covered, "tmpfs", flags, options))?;
    step("enter the root", chdir(covered))?;
    // The old root lies over the new one afterwards, at the same place (pivot_root(2)).
    step("change the root", pivot_root(".", "."))?;
    step("leave the host's root", unmount(".", UnmountFlags::DETACH))?;
    step("enter the root", chdir("/"))
}
