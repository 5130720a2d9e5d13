//! What an inmate sees of the host: an empty directory, read-only, as its root, and another host name. The namespaces
//! have been made with the process.

use std::path::Path;

use omnirun_vmm_api::MonitorError;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, pivot_root},
};

use super::step;

/// Leaves the host's files for good. The empty root is mounted over the directory `covered`, which is only where a
/// mount can be made: in the namespace of the inmate alone, and gone from there when this returns.
pub fn leave_host(covered: &Path) -> Result<(), MonitorError> {
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
