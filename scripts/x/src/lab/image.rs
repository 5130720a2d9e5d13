//! The lab's initramfs: `omnirun-lab` as process 1, KVM's modules, the owner's program, and the template store with the
//! one template that the cases use.

use std::{
    collections::HashSet,
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::archive::{Archive, Folder, Tree};

/// The one target for which static programs are built; naming it keeps build scripts and macros dynamic.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Of the lab's disk; what nobody writes takes no place.
const DISK_SIZE: &str = "512M";

/// Whether the whole program is in the lab too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    With,
    Without,
}

/// Builds the programs and packs them with the images. Answers where.
pub fn make(root: &Path, server: Server) -> Result<PathBuf> {
    let place = root.join("target/lab");
    fs::create_dir_all(&place)?;
    let path = place.join("initramfs.cpio");
    let mut archive = Archive::new(BufWriter::new(fs::File::create(&path)?));
    fill(&mut archive, root, &place)?;
    if server == Server::With {
        add_server(&mut archive, root)?;
    }
    archive.finish()?;
    Ok(path)
}

/// Puts the same into a directory, but for the whole program. Answers where.
pub fn make_directory(root: &Path) -> Result<PathBuf> {
    let place = root.join("target/lab");
    let path = place.join("root");
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    fill(&mut Folder(path.clone()), root, &place)?;
    Ok(path)
}

fn fill(archive: &mut impl Tree, root: &Path, place: &Path) -> Result<()> {
    let built = build(root)?;
    for name in ["dev", "proc", "sys", "tmp", "modules", "bench", "disk"] {
        archive.directory(name)?;
    }
    archive.file("init", &built.join("omnirun-lab"))?;
    archive.file("bench/initramfs.cpio", &make_small(&place.join("bench.cpio"), &built)?)?;
    archive.file("omnirun-bare", &built.join("omnirun-bare"))?;
    archive.file("omnirun-owner", &built.join("omnirun-owner"))?;
    let modules = root.join(".data/lab/modules");
    for entry in fs::read_dir(&modules).context("no modules: use scripts/kvm-lab")? {
        let entry = entry?;
        archive.file(&format!("modules/{}", entry.file_name().to_string_lossy()), &entry.path())?;
    }
    add_store(archive, root)
}

/// The template store, with one template.
fn add_store(tree: &mut impl Tree, root: &Path) -> Result<()> {
    for name in ["images", "images/kernel", "images/templates", "images/templates/base"] {
        tree.directory(name)?;
    }
    for name in
        ["kernel/vmlinux", "initramfs.cpio", "templates/base/root.sqfs", "templates/base/template.json"]
    {
        tree.file(&format!("images/{name}"), &root.join(".data/images").join(name))?;
    }
    Ok(())
}

/// A disk with the same store on it: what is read from memory cannot be limited. Answers where.
pub fn make_disk(root: &Path) -> Result<PathBuf> {
    let place = root.join("target/lab");
    let (files, disk) = (place.join("disk"), place.join("disk.ext4"));
    for old in [&files, &disk] {
        drop(fs::remove_dir_all(old).or_else(|_| fs::remove_file(old)));
    }
    fs::create_dir_all(&files)?;
    add_store(&mut Folder(files.clone()), root)?;
    let mut format = Command::new("mkfs.ext4");
    crate::output(format.args(["-q", "-d"]).args([&files, &disk]).arg(DISK_SIZE))
        .context("cannot format a disk: install the package e2fsprogs")?;
    Ok(disk)
}

/// The program as it is released, with the libraries that it is linked with, where it looks for them.
fn add_server(archive: &mut impl Tree, root: &Path) -> Result<()> {
    // Of the whole workspace, so that what it shares with the tests is built once.
    let mut cargo = Command::new("cargo");
    crate::output(
        cargo.args(["build", "--quiet", "--release", "--workspace", "--bin", "omnirun"]).current_dir(root),
    )?;
    let program = target(root).join("release/omnirun");
    archive.file("omnirun", &program)?;
    let linked = crate::output(Command::new("ldd").arg(&program))?;
    // A line for each: its name, an arrow, its path and where it was mapped; or the last two alone.
    let libraries =
        linked.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut made = HashSet::new();
    for library in libraries.map(Path::new) {
        let above: Vec<_> =
            library.ancestors().skip(1).filter_map(|path| path.strip_prefix("/").ok()).collect();
        for directory in above.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
            if made.insert(directory.to_owned()) {
                archive.directory(&directory.to_string_lossy())?;
            }
        }
        archive.file(library.strip_prefix("/")?.to_str().context("a library without a name")?, library)?;
    }
    Ok(())
}

/// An initramfs of a guest that is not booted for an agent: the same program, which finds no images there. The cases append
/// to it what it is for.
fn make_small(path: &Path, built: &Path) -> Result<PathBuf> {
    let mut archive = Archive::new(BufWriter::new(fs::File::create(path)?));
    archive.file("init", &built.join("omnirun-lab"))?;
    archive.finish()?;
    Ok(path.to_owned())
}

/// The kernel that the guests boot, and the lab too: its package, the version of that, and its digest.
pub fn kernel(root: &Path) -> Result<String> {
    let text = fs::read(root.join(".data/images/templates/base/template.json"))?;
    let described: serde_json::Value = serde_json::from_slice(&text)?;
    let digest = described["kernel"].as_str().context("the template names no kernel")?;
    let package = fs::read_to_string(root.join(".data/images/kernel/version"))?;
    // Its third word is the digest of the package.
    let named: Vec<_> = package.split_whitespace().take(2).collect();
    Ok(format!("{}, sha256 {digest}", named.join(" ")))
}

fn build(root: &Path) -> Result<PathBuf> {
    crate::output(
        Command::new("cargo")
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(["--package", "omnirun-lab", "--package", "omnirun-owner"])
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(root),
    )?;
    Ok(target(root).join(TARGET).join("release"))
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
