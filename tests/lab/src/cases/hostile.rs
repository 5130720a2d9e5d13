//! Guests that lie to their devices, each run by a real owner in its jail: it ends its own monitor with a named reason, and
//! nobody else notices.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use omnirun_vmm_api::owner::{EndReason, FINAL};

use crate::{
    hostile::{LIES, MARK},
    owner::{self, Owner},
};

/// The initramfs whose process 1 is this program.
const INITRAMFS: &str = "/bench/initramfs.cpio";

/// Each of them beside one guest that lives through all.
pub fn each_lie_ends_its_own_guest_and_no_other() -> Result<String> {
    owner::block_on(async {
        let mut bystander = Owner::start("bystander", |_| ()).await?;
        bystander.claim("bystander").await?;
        for lie in LIES {
            let store = store_of(lie.name)?;
            let mut owner = Owner::begin("hostile", |spec| spec.store = store.clone()).await?;
            let status = owner.wait()?;
            let said = owner.complaints();
            let expected = format!("omnirun vmm: hostile: {}\n", lie.reason);
            ensure!(status.code() == Some(1) && said == expected, "{}: {status}, {said:?}", lie.name);
            ensure!(owner.left()?.reason == EndReason::RuleBroken, "{}: another reason", lie.name);
            let files: Vec<_> =
                fs::read_dir(&owner.state)?.flatten().map(|entry| entry.file_name()).collect();
            ensure!(files == [FINAL], "{}: {files:?} are left", lie.name);
            ensure!(!fs::exists("/sys/fs/cgroup/omnirun/hostile")?, "{}: its cgroup is left", lie.name);
            ensure!(bystander.run("echo alive").await? == "alive\n", "{}: the other guest is gone", lie.name);
            fs::remove_dir_all(store)?;
        }
        bystander.kill().await?;
        Ok(format!("{0} of {0} lies", LIES.len()))
    })
}

/// A store whose guests tell this lie.
fn store_of(lie: &str) -> Result<PathBuf> {
    let mut initramfs = fs::read(INITRAMFS)?;
    for directory in [MARK.to_owned(), format!("{MARK}/{lie}")] {
        initramfs.extend(archived(directory.trim_start_matches('/')));
    }
    initramfs.extend(archived("TRAILER!!!"));
    owner::store_with("initramfs.cpio", &initramfs)
}

/// A directory in an archive of the "newc" form, of which one may follow the other (Linux'
/// Documentation/driver-api/early-userspace/buffer-format.rst).
fn archived(name: &str) -> Vec<u8> {
    let length = name.len() + 1;
    // inode, mode, uid, gid, links, time, size, device and special device (major and minor), name's size, check.
    let fields = [1, 0o040_755, 0, 0, 2, 0, 0, 0, 0, 0, 0, length, 0];
    let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    let mut bytes = format!("070701{fields}{name}\0").into_bytes();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
