//! What is read of the host, from the files in which its kernel says it (proc(5), sysfs(5)) and the places where its
//! packages put programs. Nothing is judged here, and nothing is changed.

use std::{fs, path::Path};

/// Where programs are looked for.
const PROGRAM_FOLDERS: [&str; 5] = ["usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin"];
/// Controllers that limit a guest.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// A program that OmniRun starts, and the package of Debian's that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// Its package.
    pub package: &'static str,
}

/// The monitor where KVM does not work.
pub const QEMU: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };
/// What makes guest images.
pub const IMAGE_PROGRAMS: [Program; 4] = [
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "mksquashfs", package: "squashfs-tools" },
    Program { name: "lz4", package: "lz4" },
    Program { name: "cpio", package: "cpio" },
];

/// What the host says about itself. What cannot be read is none, or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Effective user id of whoever asks.
    pub user: Option<u32>,
    /// Devices and files that memory is swapped to.
    pub swaps: Vec<String>,
    /// What KSM does: 0 nothing, 1 merges, 2 has taken back what it had merged.
    pub ksm: Option<String>,
    /// Whether processors of one core run at once: 1 or 0.
    pub smt: Option<String>,
    /// Where cores of crashed programs go.
    pub core_pattern: Option<String>,
    /// Limits by cgroup v2.
    pub cgroup: Cgroup,
    /// Whether QEMU is where its package puts it.
    pub qemu: Presence,
    /// Programs for images that are missing.
    pub missing: Vec<Program>,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Present,
    /// It is not.
    Absent,
}

/// The host's cgroup v2 hierarchy, as it is seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// None is mounted.
    Absent,
    /// It may not be changed.
    ReadOnly {
        /// Where it is.
        at: String,
    },
    /// It may be changed.
    Writable {
        /// Where it is.
        at: String,
        /// Controllers of those that limit a guest that it does not have.
        lacks: Vec<&'static str>,
        /// How long it takes to move a task into a group, which KVM does for every machine.
        moves: Moves,
    },
}

/// How long it takes to move a task from one cgroup to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    /// At once: mounted with `favordynmods`.
    Quick,
    /// As long as all processors need to pass through the scheduler: milliseconds.
    Slow,
}

impl Facts {
    /// Reads the host whose root directory this is.
    pub fn read(root: &Path) -> Self {
        let line = |path: &str| Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned());
        Self {
            user: line("proc/self/status").and_then(|status| effective_user(&status)),
            swaps: line("proc/swaps").map(|swaps| first_words(&swaps)).unwrap_or_default(),
            ksm: line("sys/kernel/mm/ksm/run"),
            smt: line("sys/devices/system/cpu/smt/active"),
            core_pattern: line("proc/sys/kernel/core_pattern"),
            cgroup: cgroup(root),
            // Its jail shows nothing but /usr, so that no other place will do.
            qemu: if root.join("usr/bin").join(QEMU.name).exists() {
                Presence::Present
            } else {
                Presence::Absent
            },
            missing: IMAGE_PROGRAMS.into_iter().filter(|program| !is_installed(root, program.name)).collect(),
        }
    }
}

fn is_installed(root: &Path, name: &str) -> bool {
    PROGRAM_FOLDERS.iter().any(|folder| root.join(folder).join(name).exists())
}

/// proc_pid_status(5): `Uid:` with the real, effective, saved and file system id.
fn effective_user(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// proc_swaps(5): a head, and a line for each, which begins with its path.
fn first_words(swaps: &str) -> Vec<String> {
    swaps.lines().skip(1).filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// Linux' Documentation/admin-guide/cgroup-v2.rst: `cgroup.controllers` has what is there and not held by version 1.
fn cgroup(root: &Path) -> Cgroup {
    let mounts = fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let Some(mount) = mounts.find(|fields| fields.get(2) == Some(&"cgroup2")) else { return Cgroup::Absent };
    let at = mount[1].to_owned();
    let here = root.join(at.trim_start_matches('/'));
    // access(2) also knows of mounts that nobody may write to.
    if rustix::fs::access(here.join("cgroup.subtree_control"), rustix::fs::Access::WRITE_OK).is_err() {
        return Cgroup::ReadOnly { at };
    }
    let options = mount.get(3).copied().unwrap_or_default();
    let is_quick = options.split(',').any(|option| option == "favordynmods");
    let moves = if is_quick { Moves::Quick } else { Moves::Slow };
    let offered = fs::read_to_string(here.join("cgroup.controllers")).unwrap_or_default();
    let lacks = CONTROLLERS.into_iter().filter(|name| !offered.split_whitespace().any(|word| word == *name));
    Cgroup::Writable { at, lacks: lacks.collect(), moves }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with these files.
    fn host(files: &[(&str, &str)]) -> Facts {
        let root = tempfile::tempdir().expect("a directory for the test");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it is below the root")).expect("it is ours");
            fs::write(path, text).expect("it is ours");
        }
        Facts::read(root.path())
    }

    #[test]
    fn a_host_is_read_from_the_files_of_its_kernel() {
        let facts = host(&[
            ("proc/self/status", "Name:\tx\nUid:\t1000\t0\t0\t0\n"),
            ("proc/swaps", "Filename\tType\n/dev/sda2   partition 1\n/swap\\040file file 2\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("proc/sys/kernel/core_pattern", "|/usr/lib/collect %p\n"),
            ("proc/mounts", "proc /proc proc rw 0 0\nnone /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n"),
            ("sys/fs/cgroup/cgroup.subtree_control", ""),
            ("usr/bin/qemu-system-x86_64", ""),
            ("usr/bin/mmdebstrap", ""),
            ("usr/local/bin/lz4", ""),
            ("bin/cpio", ""),
        ]);
        let expected = Facts {
            user: Some(0),
            swaps: vec!["/dev/sda2".to_owned(), "/swap\\040file".to_owned()],
            ksm: Some("1".to_owned()),
            smt: Some("1".to_owned()),
            core_pattern: Some("|/usr/lib/collect %p".to_owned()),
            cgroup: Cgroup::Writable {
                at: "/sys/fs/cgroup".to_owned(),
                lacks: vec!["pids"],
                moves: Moves::Slow,
            },
            qemu: Presence::Present,
            missing: vec![IMAGE_PROGRAMS[1]],
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_cannot_be_read_is_none_and_no_reason_to_stop() {
        let facts = host(&[("proc/self/status", "nonsense"), ("proc/swaps", ""), ("proc/mounts", "a b\n\n")]);
        let expected = Facts {
            user: None,
            swaps: Vec::new(),
            ksm: None,
            smt: None,
            core_pattern: None,
            cgroup: Cgroup::Absent,
            qemu: Presence::Absent,
            missing: IMAGE_PROGRAMS.to_vec(),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_hierarchy_that_cannot_be_changed_is_told_from_one_that_can() {
        let facts = host(&[("proc/mounts", "c /sys/fs/cgroup/unified cgroup2 ro 0 0\n")]);
        assert_eq!(facts.cgroup, Cgroup::ReadOnly { at: "/sys/fs/cgroup/unified".to_owned() });
    }

    #[test]
    fn a_hierarchy_that_favours_moves_is_told_from_one_that_does_not() {
        let facts = host(&[
            ("proc/mounts", "c /sys/fs/cgroup cgroup2 rw,nsdelegate,favordynmods 0 0\n"),
            ("sys/fs/cgroup/cgroup.subtree_control", ""),
        ]);
        assert!(matches!(facts.cgroup, Cgroup::Writable { moves: Moves::Quick, .. }), "{:?}", facts.cgroup);
    }

    #[test]
    fn this_host_can_be_read() {
        let facts = Facts::read(Path::new("/"));
        assert_eq!(facts.user, Some(rustix::process::geteuid().as_raw()));
        assert!(facts.core_pattern.is_some(), "every Linux has one");
    }
}
