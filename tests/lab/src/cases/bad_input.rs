//! What the monitor cannot use: named with its path and what to do, and nothing is left behind.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm::{Settled, probe::Verdict};
use omnirun_vmm_api::{
    MonitorChoice,
    owner::{FINAL, OwnerSpec},
};

use crate::owner::{self, STORE};

/// A user who may do nothing.
const NOBODY: u32 = 65_534;

/// The trial of KVM finds that it works, and that is what a host without a wish gets.
pub fn kvm_works() -> Result<String> {
    let since = Instant::now();
    let verdict = Verdict::of_this_host();
    let took = since.elapsed().as_millis();
    ensure!(*verdict == Verdict::Works, "{verdict}");
    ensure!(omnirun_vmm::settle(MonitorChoice::Auto)? == Settled::Kvm, "auto is another monitor");
    Ok(format!("{verdict}, as the trial found in {took} ms"))
}

/// What an owner that ends by itself says, and how.
pub fn refusal(user: Option<u32>, change: impl FnOnce(&mut OwnerSpec)) -> Result<(Option<i32>, String)> {
    let mut spec = owner::spec("bad-input");
    change(&mut spec);
    let mut command = Command::new(owner::PROGRAM);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    user.map(|user| command.uid(user).gid(user));
    let mut process = command.spawn().context("cannot start the owner")?;
    process.stdin.take().context("no standard input")?.write_all(&serde_json::to_vec(&spec)?)?;
    let ended = process.wait_with_output()?;
    let left: Vec<_> = fs::read_dir(&spec.state_dir).into_iter().flatten().flatten().collect();
    let is_clean = left.iter().all(|entry| entry.file_name() == FINAL);
    ensure!(is_clean, "{left:?} is left behind");
    let _ = fs::remove_dir_all(&spec.state_dir);
    Ok((ended.status.code(), String::from_utf8(ended.stderr)?.trim().to_owned()))
}

/// Files of the wrong kind, or cut.
pub fn files_are_refused() -> Result<String> {
    let whole = |name: &str| fs::read(Path::new(STORE).join(name));
    let (kernel, root) = (whole("kernel/vmlinux")?, whole("templates/base/root.sqfs")?);
    let program = fs::read("/omnirun-owner")?;
    let cases: [(&str, &[u8], &str); 7] = [
        ("kernel/vmlinux", b"#!/bin/sh\n", "it is no kernel"),
        // By its entry or by what it lacks, depending on how it was linked.
        ("kernel/vmlinux", &program, "no kernel"),
        ("kernel/vmlinux", &kernel[..kernel.len() / 2], "it is cut short"),
        ("kernel/vmlinux", b"", "it is empty"),
        ("initramfs.cpio", &root, "it is no cpio archive"),
        ("templates/base/root.sqfs", &kernel[..1 << 20], "it is no squashfs image"),
        ("templates/base/root.sqfs", &root[..1 << 20], "it is cut short"),
    ];
    for (name, bytes, reason) in &cases {
        let store = owner::store_with(name, bytes)?;
        let (code, said) = refusal(None, |spec| spec.store = store)?;
        let is_told = said.contains(&format!("cannot use /tmp/other-store/{name}: "))
            && said.contains(reason)
            && said.contains("make it again with scripts/guest-image");
        ensure!(code == Some(1) && is_told && said.lines().count() == 1, "{code:?} {said}");
    }
    fs::remove_dir_all("/tmp/other-store")?;
    Ok(format!("{0} of {0}", cases.len()))
}

/// Less memory than any guest needs, and more processors than any has.
pub fn shapes_are_refused() -> Result<String> {
    let (code, small) = refusal(None, |spec| spec.memory.0 = 64)?;
    ensure!(code == Some(2) && small.contains("128 to") && small.lines().count() == 1, "{code:?} {small}");
    let (code, said) = refusal(None, |spec| spec.vcpus.0 = 9)?;
    let is_told = said.contains("9 vCPUs and 128 MiB is not possible: ask for 1 to 8 vCPUs");
    ensure!(code == Some(1) && is_told && said.lines().count() == 1, "{code:?} {said}");
    Ok(said)
}

/// A user who may not open the device is told so.
pub fn permission_is_asked_for() -> Result<String> {
    let (code, said) = refusal(Some(NOBODY), |_| ())?;
    let is_told = said.contains("this user may not open /dev/kvm: let this user read and write it");
    ensure!(code == Some(2) && is_told && said.lines().count() == 1, "{code:?} {said}");
    Ok(said)
}
