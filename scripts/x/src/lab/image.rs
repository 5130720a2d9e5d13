//! The lab's initramfs: `omnirun-lab` as process 1, KVM's modules, the owner's program, and the template store with the
//! one template that the cases use.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::archive::Archive;

/// The one target for which static programs are built; naming it keeps build scripts and macros dynamic.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the programs and packs them with the images. Answers where.
pub fn make(root: &Path) -> Result<PathBuf> {
    let built = build(root)?;
    let images = root.join(".data/images");
    let place = root.join("target/lab");
    fs::create_dir_all(&place)?;
    let path = place.join("initramfs.cpio");
    let mut archive = Archive::new(BufWriter::new(fs::File::create(&path)?));
    for name in ["dev", "proc", "sys", "tmp", "modules", "bench", "images", "images/kernel"] {
        archive.directory(name)?;
    }
    archive.directory("images/templates")?;
    archive.directory("images/templates/base")?;
    archive.file("init", &built.join("omnirun-lab"))?;
    archive.file("bench/initramfs.cpio", &make_small(&place.join("bench.cpio"), &built, None)?)?;
    archive.file("bench/hostile.cpio", &make_small(&place.join("hostile.cpio"), &built, Some("hostile"))?)?;
    archive.file("omnirun-bare", &built.join("omnirun-bare"))?;
    archive.file("omnirun-owner", &built.join("omnirun-owner"))?;
    let modules = root.join(".data/lab/modules");
    for entry in fs::read_dir(&modules).context("no modules: use scripts/kvm-lab")? {
        let entry = entry?;
        archive.file(&format!("modules/{}", entry.file_name().to_string_lossy()), &entry.path())?;
    }
    for name in
        ["kernel/vmlinux", "initramfs.cpio", "templates/base/root.sqfs", "templates/base/template.json"]
    {
        archive.file(&format!("images/{name}"), &images.join(name))?;
    }
    archive.finish()?;
    Ok(path)
}

/// An initramfs of a guest that is not booted for an agent: the same program, which finds no images there, and a
/// directory that tells it what it is for.
fn make_small(path: &Path, built: &Path, mark: Option<&str>) -> Result<PathBuf> {
    let mut archive = Archive::new(BufWriter::new(fs::File::create(path)?));
    archive.file("init", &built.join("omnirun-lab"))?;
    mark.map_or(Ok(()), |mark| archive.directory(mark))?;
    archive.finish()?;
    Ok(path.to_owned())
}

/// The digest of the kernel that the guests boot, and the lab too.
pub fn kernel_digest(root: &Path) -> Result<String> {
    let text = fs::read(root.join(".data/images/templates/base/template.json"))?;
    let described: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(described["kernel"].as_str().unwrap_or("unknown").to_owned())
}

fn build(root: &Path) -> Result<PathBuf> {
    crate::output(
        Command::new("cargo")
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(["--package", "omnirun-lab", "--package", "omnirun-owner"])
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(root),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release"))
}
