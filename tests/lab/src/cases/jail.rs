//! What is left to a guest's process: nothing of the host, no rights, few system calls.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm::kvm::jail::cgroup;
use omnirun_vmm_api::owner::{EndReason, SOCKET};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};

use super::snapshot::{self, from_snapshot};
use crate::{
    limit::wait_until,
    owner::{self, Owner},
};

/// seccomp(2): SIGSYS ends a process that makes a call that is refused; as a shell would say it.
const REFUSED: i32 = 128 + 31;
/// No system tool gives out user ids from here on.
const FIRST_USER: u32 = 1_900_000_000;

const EVERYWHERE: &[&str] = &[
    "open",
    "list",
    "socket",
    "connect",
    "execute",
    "kill",
    "mount",
    "unshare",
    "root",
    "chroot",
    "executable",
];

/// Each in a process of its own; the threads of the guest are refused the same as the owner's.
pub fn refused_calls_end_the_process() -> Result<String> {
    let mut count = 0;
    for list in ["owner", "vcpu", "devices"] {
        for call in EVERYWHERE {
            let Output { status, stdout, stderr } =
                Command::new("/omnirun-bare").args(["refused", list, call]).output()?;
            let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            ensure!(
                status.code() == Some(REFUSED) && said == "sees nothing\n",
                "{call} of {list}: {status}, {said:?}, {complained:?}"
            );
            count += 1;
        }
    }
    Ok(format!("{count} of {count} attempts ended the process"))
}

/// The C library reads no file on its own when threads take and give back much memory.
pub fn memory_comes_and_goes() -> Result<String> {
    let Output { status, stdout, stderr } = Command::new("/omnirun-bare").arg("memory").output()?;
    let complained = String::from_utf8_lossy(&stderr);
    ensure!(status.success() && stdout == b"used memory\n", "{status}, {complained:?}");
    Ok("64 MiB of eight threads".to_owned())
}

struct Process(PathBuf);

impl Process {
    fn new(pid: u32) -> Self {
        Self(Path::new("/proc").join(pid.to_string()))
    }

    fn text(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.0.join(name)).with_context(|| format!("no {name}"))
    }

    fn link(&self, name: &str) -> Result<PathBuf> {
        Ok(fs::read_link(self.0.join(name))?)
    }

    fn names(&self, name: &str) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.0.join(name))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// The rest of a line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or("missing").trim()
}

/// A process with a guest as the host sees it, from every side.
pub fn nothing_of_the_host_is_left() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("jailed", |spec| spec.vcpus.0 = 2).await?;
        let mut other = Owner::start("jailed-too", |_| ()).await?;
        let (pid, other_pid) = (owner.status().await?.owner_pid, other.status().await?.owner_pid);
        ensure!(pid != owner.process.id(), "the owner is its own keeper");
        let process = Process::new(pid);
        // Standard error of its keeper is a file, which it must not have.
        let keepers = Process::new(owner.process.id()).link("fd/2")?;
        ensure!(keepers == Path::new("/tmp/jailed.log"), "the keeper speaks into {}", keepers.display());
        let own = process.link("fd/2")?;
        ensure!(own.to_string_lossy().starts_with("pipe:"), "it speaks into {}", own.display());
        check_sight(&process)?;
        let threads = check_rights(&process)?;
        let user =
            |process: &Process| Ok::<_, anyhow::Error>(field(&process.text("status")?, "Uid").to_owned());
        ensure!(user(&process)? != user(&Process::new(other_pid))?, "two guests have one user");
        check_files(&process)?;
        let cgroup = check_cgroup(&process, "jailed")?;
        // This store is in memory, and its worker says so.
        let missing = cgroup::missing(Path::new(owner::STORE));
        ensure!(missing == ["io"], "{missing:?} cannot be limited");
        owner.kill().await?;
        other.kill().await?;
        ensure!(!cgroup.exists(), "its cgroup is left");
        Ok(format!("{threads} threads under filters"))
    })
}

fn check_sight(process: &Process) -> Result<()> {
    let seen = process.names("root/")?;
    ensure!(seen.is_empty(), "it sees {seen:?}");
    let mounts = process.text("mountinfo")?;
    ensure!(mounts.lines().count() == 1 && mounts.contains(" / / ro,"), "its mounts are {mounts}");
    for space in ["mnt", "pid", "net", "ipc", "uts"] {
        let name = format!("ns/{space}");
        ensure!(process.link(&name)? != Process::new(1).link(&name)?, "it has the host's {space} namespace");
    }
    let interfaces = process.text("net/dev")?;
    ensure!(interfaces.lines().skip(2).all(|line| line.trim().starts_with("lo:")), "{interfaces}");
    Ok(())
}

fn check_rights(process: &Process) -> Result<usize> {
    let status = process.text("status")?;
    for ids in ["Uid", "Gid"] {
        let ids: Vec<u32> = field(&status, ids).split_whitespace().filter_map(|id| id.parse().ok()).collect();
        ensure!(ids.len() == 4 && ids.iter().all(|id| *id >= FIRST_USER), "its ids are {ids:?}");
    }
    ensure!(field(&status, "Groups").is_empty(), "it has groups");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(&status, set) == "0000000000000000", "{set} is {}", field(&status, set));
    }
    let limits = process.text("limits")?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    let core: Vec<_> = core.split_whitespace().collect();
    ensure!(core.ends_with(&["1", "1", "bytes"]), "the limit of core files is {core:?}");
    let threads = process.names("task")?;
    for thread in &threads {
        let status = process.text(&format!("task/{thread}/status"))?;
        let name = field(&status, "Name");
        ensure!(field(&status, "NoNewPrivs") == "1", "{name} can get new privileges");
        ensure!(field(&status, "Seccomp") == "2", "{name} has no filter");
        let own = usize::from(name.starts_with("vcpu-") || name == "devices");
        let filters = field(&status, "Seccomp_filters");
        ensure!(filters == (2 + own).to_string(), "{name} has {filters} filters");
    }
    Ok(threads.len())
}

/// Nothing that is open leads to the host's files, and nothing but pipes, sockets and KVM can be written to.
fn check_files(process: &Process) -> Result<()> {
    for fd in process.names("fd")? {
        let target = process.link(&format!("fd/{fd}"))?;
        let described = fs::metadata(process.0.join("fd").join(&fd))?;
        ensure!(!described.is_dir(), "{} is open", target.display());
        let flags = process.text(&format!("fdinfo/{fd}"))?;
        let flags = u32::from_str_radix(field(&flags, "flags"), 8)?;
        let is_read_only = flags & 3 == 0;
        ensure!(!described.is_file() || is_read_only, "{} can be written to", target.display());
    }
    Ok(())
}

fn check_cgroup(process: &Process, name: &str) -> Result<PathBuf> {
    let line = process.text("cgroup")?;
    ensure!(line.trim() == format!("0::/omnirun/{name}"), "its cgroup is {line}");
    let path = Path::new("/sys/fs/cgroup/omnirun").join(name);
    for (file, expected) in [
        ("cpu.max", "200000 100000"),
        ("memory.max", "202375168"),
        ("pids.max", "128"),
        ("memory.oom.group", "1"),
    ] {
        let value = fs::read_to_string(path.join(file))?;
        ensure!(value.trim() == expected, "{file} is {value}");
    }
    Ok(path)
}

/// A guest whose template is on a disk reads it at the limit's pace at most.
pub fn reads_are_limited() -> Result<String> {
    const DISK: &str = "/dev/nvme0n1";
    const STORE: &str = "/disk/images";
    wait_until("there is no disk", Duration::from_millis(10), || Path::new(DISK).exists())?;
    mount(DISK, "/disk", "ext4", MountFlags::RDONLY, None).context("cannot mount the disk")?;
    let missing = cgroup::missing(Path::new(STORE));
    ensure!(missing.is_empty(), "{missing:?} cannot be limited");
    let said = owner::block_on(async {
        let owner = Owner::start("reading", |spec| spec.store = STORE.into()).await?;
        let numbers = fs::read_to_string("/sys/block/nvme0n1/dev")?;
        let group = Path::new("/sys/fs/cgroup/omnirun/reading");
        let limits = fs::read_to_string(group.join("io.max"))?;
        let expected = format!("{} rbps=268435456 wbps=max riops=20000 wiops=max", numbers.trim());
        ensure!(limits.trim() == expected, "io.max is {limits}");
        // What its guest has read is counted there, and so are the reads that the limit is for.
        let counted = fs::read_to_string(group.join("io.stat"))?;
        let read = counted.lines().find(|line| line.starts_with(numbers.trim()));
        let read =
            read.and_then(|line| line.split_once("rbytes=")?.1.split_whitespace().next()?.parse().ok());
        let read: u64 = read.with_context(|| format!("no reads were counted: {counted}"))?;
        ensure!(read > 0, "it has read nothing: {counted}");
        owner.kill().await?;
        Ok(format!("{} KiB were read and counted", read / 1024))
    })?;
    unmount("/disk", UnmountFlags::empty()).context("the disk is still in use")?;
    Ok(said)
}

/// However the process ends, its keeper says why and leaves nothing; and the process ends with its keeper.
pub fn a_keeper_and_its_owner_end_together() -> Result<String> {
    owner::block_on(async {
        snapshot::have().await?;
        let mut owner = Owner::start("killed", from_snapshot).await?;
        signal(owner.status().await?.owner_pid, Signal::KILL)?;
        let status = owner.wait()?;
        let said = owner.complaints();
        ensure!(status.code() == Some(1) && said.contains("ended by signal 9"), "{status}, {said}");
        ensure!(fs::read_dir(&owner.state)?.count() == 0, "something is left");

        let mut owner = Owner::start("orphan", from_snapshot).await?;
        let pid = owner.status().await?.owner_pid;
        signal(owner.process.id(), Signal::KILL)?;
        ensure!(owner.wait()?.signal() == Some(9), "the keeper lives");
        let is_gone = || !Path::new(&format!("/proc/{pid}/root")).exists();
        wait_until("the owner outlives its keeper", Duration::from_millis(10), is_gone)?;
        // Nobody was left to remove it; the next worker does.
        let group = Path::new("/sys/fs/cgroup/omnirun/orphan");
        ensure!(group.exists(), "somebody has removed the cgroup");
        wait_until("the cgroup stays", Duration::from_millis(10), || {
            cgroup::tidy(Duration::ZERO).is_ok() && !group.exists()
        })?;

        let mut owner = Owner::start("stopped", from_snapshot).await?;
        signal(owner.process.id(), Signal::TERM)?;
        ensure!(owner.wait()?.success(), "{}", owner.complaints());
        ensure!(reason(&owner)? == EndReason::HostStopped, "another reason");

        let mut owner = Owner::start("lost", from_snapshot).await?;
        fs::remove_file(owner.state.join(SOCKET))?;
        ensure!(owner.wait()?.success(), "{}", owner.complaints());
        ensure!(reason(&owner)? == EndReason::HostStopped, "another reason");
        Ok("4 of 4 ends".to_owned())
    })
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    Ok(kill_process(pid, signal)?)
}

fn reason(owner: &Owner) -> Result<EndReason> {
    Ok(owner.left()?.reason)
}
