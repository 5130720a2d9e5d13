//! A guest's process 1 that goes around every driver and writes nonsense into a device's registers.

use std::{fs, ptr};

use anyhow::{Context as _, Result};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap},
    mount::{MountFlags, mount},
};

/// An entry of this name in the initramfs makes process 1 hostile.
pub const MARK: &str = "/hostile";
/// The first device's registers, and the one that says which queue has something in it.
const DEVICE: u64 = 0xd000_0000;
const QUEUE_NOTIFY: usize = 0x50;

/// Notifies a queue that does not exist. Returns only when nobody minds.
pub fn break_the_rules() -> Result<()> {
    fs::create_dir_all("/dev").context("no /dev")?;
    mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None).context("no devices")?;
    let memory = fs::File::options().read(true).write(true).open("/dev/mem").context("no memory")?;
    // SAFETY: a page of a device's registers at an address of the kernel's choice; no code refers to it.
    let registers = unsafe {
        mmap(ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &memory, DEVICE)
    }
    .context("no registers")?;
    // SAFETY: the register is in the page that was just mapped, and aligned.
    unsafe { registers.cast::<u32>().byte_add(QUEUE_NOTIFY).write_volatile(99) };
    anyhow::bail!("nobody minds")
}
