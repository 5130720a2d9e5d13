//! How much of the host a guest's process may take: processor time, memory, threads, reads from the disk. One cgroup
//! (version 2) for each guest, below one of ours, where the host lets us make it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use omnirun_vmm_api::Purpose;

use super::{Shape, rights};

/// Where the only hierarchy is mounted (cgroups(7)).
const ROOT: &str = "/sys/fs/cgroup";
/// Ours in it. Guests outlive the worker that started them, so theirs are not below the worker's own.
const OURS: &str = "omnirun";
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Time is given out in parts of this many microseconds, which is the kernel's default.
const PERIOD_US: u64 = 100_000;
/// Memory of the monitor, of the kernel on its behalf, and pages of the root that are worth keeping.
const MEMORY_EXTRA: u64 = 64 << 20;
/// Tables that map the guest's memory are counted too: 8 bytes for each page in two sets, doubled.
const MEMORY_PER_TABLES: u64 = 128;
/// From the disk that holds the templates, in a second.
const READ_BYTES_MAX: u64 = 256 << 20;
const READS_MAX: u64 = 20_000;
/// The file of that limit.
const READS: &str = "io.max";

/// A guest's cgroup. Dropping it removes it, which needs its process to be gone.
pub struct Cgroup {
    /// None in the process whose cgroup it is: another one removes it.
    path: Option<PathBuf>,
    directory: File,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Which kinds of limits this host cannot set, in the order of their names; all of them where it has no hierarchy of
/// version 2 that can be written to. Reads are limited only where the template store `disk` is on a disk that can be, which is
/// tried in a cgroup of its own.
pub fn missing(disk: &Path) -> Vec<&'static str> {
    let is_writable = || rustix::fs::access(ROOT, rustix::fs::Access::WRITE_OK).is_ok();
    let offered = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers")).unwrap_or_default();
    let offered = if is_writable() { offered } else { String::new() };
    let is_offered = |name: &str| offered.split_whitespace().any(|other| other == name);
    let is_had = |name: &&str| is_offered(name) && (*name != "io" || limits_reads(disk));
    CONTROLLERS.into_iter().filter(|name| !is_had(name)).collect()
}

/// Whether reads from this disk can be limited.
fn limits_reads(disk: &Path) -> bool {
    let tried = || {
        let limit = read_limit(&whole_disk(disk)?);
        let ours = Path::new(ROOT).join(OURS);
        prepare(&ours).ok()?;
        let path = ours.join(format!("trial-{}", std::process::id()));
        make_directory(&path).ok()?;
        let written = write(&path.join(READS), &limit);
        fs::remove_dir(path).and(written).ok()
    };
    tried().is_some()
}

/// Removes the cgroups without a process that keepers which were killed have left. One that is younger than `age` stays: a guest may be about
/// to be put into it. Answers how many went; none where there are no cgroups of ours.
pub fn tidy(age: Duration) -> io::Result<usize> {
    let entries = match fs::read_dir(Path::new(ROOT).join(OURS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        // One that went meanwhile needs nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        // Its time is that of its making, or later: the kernel keeps it with the inode.
        let is_old = metadata.modified()?.elapsed().is_ok_and(|elapsed| elapsed >= age);
        // The kernel refuses to remove one with a process.
        if metadata.is_dir() && is_old && fs::remove_dir(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

impl Cgroup {
    /// Makes one with its limits; none where the host does not let us. The directory is of the disk that it reads.
    pub fn make(name: &str, shape: Shape, disk: &Path) -> io::Result<Option<Self>> {
        let ours = Path::new(ROOT).join(OURS);
        let path = ours.join(name);
        let limits = limits(shape, whole_disk(disk).as_deref());
        match make_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_denied(&error) => return Ok(None),
            Err(error) => return Err(error),
            Ok(()) if path.join("pids.max").exists() => return Self::limited(path, &limits).map(Some),
            Ok(()) => {}
        }
        match prepare(&ours).and_then(|()| make_directory(&path)) {
            Err(error) if is_denied(&error) || error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Self::limited(path, &limits).map(Some),
        }
    }

    /// Leaves it to the process that made this one.
    pub fn leave(mut self) {
        self.path = None;
    }

    fn limited(path: PathBuf, limits: &[(&str, String)]) -> io::Result<Self> {
        let made = Self { directory: File::open(&path)?, path: Some(path.clone()) };
        for (file, value) in limits {
            match write(&path.join(file), value) {
                // Of a controller that this host does not have, or a disk that cannot be limited: see [`missing`].
                Err(error) if error.kind() == io::ErrorKind::NotFound || *file == READS => {}
                other => other?,
            }
        }
        Ok(made)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// One that a keeper that was killed has left is as good as a new one.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Makes ours, and has limits below it. Twice is once.
fn prepare(ours: &Path) -> io::Result<()> {
    let root = Path::new(ROOT);
    let offered = fs::read_to_string(root.join("cgroup.controllers"))?;
    let wanted =
        CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|other| other == *name));
    let wanted: Vec<_> = wanted.map(|name| format!("+{name}")).collect();
    make_directory(ours)?;
    for place in [root, ours] {
        write(&place.join("cgroup.subtree_control"), &wanted.join(" "))?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// Files and what is written to them (Linux' Documentation/admin-guide/cgroup-v2.rst).
fn limits(shape: Shape, disk: Option<&str>) -> Vec<(&'static str, String)> {
    let memory = shape.memory.bytes().0;
    // Where the template store is in memory, a snapshot stays there.
    let written = if shape.purpose == Purpose::Snapshot { memory } else { 0 };
    let mut limits = vec![
        ("cpu.max", format!("{} {PERIOD_US}", u64::from(shape.vcpus.0) * PERIOD_US)),
        ("memory.max", (memory + written + memory / MEMORY_PER_TABLES + MEMORY_EXTRA).to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", rights::THREADS_MAX.to_string()),
    ];
    if let Some(disk) = disk {
        limits.push((READS, read_limit(disk)));
    }
    limits
}

fn read_limit(disk: &str) -> String {
    format!("{disk} rbps={READ_BYTES_MAX} riops={READS_MAX}")
}

/// The numbers of the disk that a path is on. None where it is on none, as in memory, or on several.
fn whole_disk(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    whole_disk_of(Path::new("/sys/dev/block"), numbers)
}

/// As sysfs has them; a partition's own cannot be limited.
fn whole_disk_of(blocks: &Path, numbers: String) -> Option<String> {
    let described = blocks.join(&numbers);
    if described.join("partition").exists() {
        return Some(fs::read_to_string(described.join("../dev")).ok()?.trim().to_owned());
    }
    described.exists().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use omnirun_vmm_api::{MemoryMib, Vcpus};

    use super::*;

    #[test]
    fn a_guest_gets_its_processors_its_memory_and_a_little_more() {
        let shape = Shape { vcpus: Vcpus(2), memory: MemoryMib(128), purpose: Purpose::Sandbox };
        let limits = limits(shape, Some("8:0"));
        let value = |name: &str| {
            limits.iter().find(|(file, _)| *file == name).map_or("", |(_, value)| value.as_str())
        };
        assert_eq!(value("cpu.max"), "200000 100000");
        assert_eq!(value("memory.max"), ((128 + 1 + 64) << 20).to_string());
        assert_eq!((value("memory.swap.max"), value("pids.max")), ("0", "128"));
        assert!(value("io.max").starts_with("8:0 rbps="));
    }

    /// Files of sysfs are found through links to the devices' own directories.
    #[test]
    fn a_partition_is_limited_as_its_disk_and_what_is_no_disk_is_not() {
        let sys = tempfile::tempdir().expect("a directory for the test");
        let (blocks, disk) = (sys.path().join("dev/block"), sys.path().join("devices/sda"));
        fs::create_dir_all(&blocks).expect("writable");
        fs::create_dir_all(disk.join("sda1")).expect("writable");
        fs::write(disk.join("dev"), "8:0\n").expect("writable");
        fs::write(disk.join("sda1/partition"), "1\n").expect("writable");
        for (numbers, device) in [("8:0", "sda"), ("8:1", "sda/sda1")] {
            let target = Path::new("../../devices").join(device);
            std::os::unix::fs::symlink(target, blocks.join(numbers)).expect("writable");
        }
        let found = |numbers: &str| whole_disk_of(&blocks, numbers.to_owned());
        assert_eq!(found("8:0").as_deref(), Some("8:0"));
        assert_eq!(found("8:1").as_deref(), Some("8:0"));
        assert_eq!(found("0:35"), None, "a file system in memory, or one on several disks");
    }
}
