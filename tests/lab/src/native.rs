//! The bench on this machine itself, where its KVM works: in a mount namespace of its own, with the lab's files as its root
//! and the machine's devices.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use omnirun_vmm::probe::Verdict;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change},
    process::{chdir, chroot},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::bench;

/// Measures, or says in a line why not. The directory has what the lab's initramfs has.
pub fn run(root: &Path) -> Result<()> {
    match Verdict::of_this_host() {
        Verdict::Works => {}
        verdict => {
            println!("LAB unmeasured {verdict}");
            return Ok(());
        }
    }
    move_in(root).context("cannot make a root for the bench: run it as root")?;
    bench::run()
}

fn move_in(root: &Path) -> Result<()> {
    // SAFETY: no memory is concerned, and this process has one thread: it alone sees other mounts from here on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // A jail is a mount over a directory, which needs a root that is a mount itself.
    mount_bind_recursive(root, root)?;
    for name in ["dev", "proc", "sys"] {
        let place = root.join(name);
        fs::create_dir_all(&place)?;
        mount_bind_recursive(Path::new("/").join(name), &place)?;
    }
    mount("tmpfs", root.join("tmp"), "tmpfs", MountFlags::empty(), None)?;
    chdir(root)?;
    chroot(".")?;
    Ok(chdir("/")?)
}
