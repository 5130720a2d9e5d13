//! Starting the QEMU process: jail, limits, inherited descriptors, and death together with its owner.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use omnirun_vmm_api::{MonitorError, Purpose, VmSpec};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    thread::set_no_new_privs,
};

use super::{
    PROGRAM,
    arguments::{Inherited, arguments},
    jail::Jail,
};

/// Files and sockets that QEMU may have open.
const OPEN_FILES_MAX: u64 = 128;
/// Threads that it may have: vCPUs, and up to 64 for the disk.
const THREADS_MAX: u64 = 128;
/// What a snapshot has besides the guest's memory, at most.
const SNAPSHOT_EXTRA_BYTES: u64 = 64 << 20;
/// What is kept of its complaints about its own start.
const SAID_BYTES_MAX: u64 = 2048;

/// A QEMU process just started.
pub struct Launched {
    pub pid: u32,
    /// What it prints before it is up; nothing of the guest.
    pub complaints: io::PipeReader,
    /// The thread that started it lives until this is dropped. The kernel sends the parent-death signal when the
    /// *thread* that started a child ends, so a thread of a pool would not do.
    pub keeper: mpsc::Sender<()>,
}

/// Descriptors for QEMU. They are closed on this side when it has been started.
pub struct Handed {
    pub qmp: OwnedFd,
    pub port: OwnedFd,
    pub incoming: Option<OwnedFd>,
}

/// Starts QEMU from a thread of its own.
pub fn launch(spec: &VmSpec, handed: Handed) -> Result<Launched, MonitorError> {
    let (tell, told) = mpsc::channel();
    let (keeper, kept) = mpsc::channel::<()>();
    let spec = spec.clone();
    thread::Builder::new()
        .name("qemu-keeper".into())
        .spawn(move || {
            let started = start_here(&spec, &handed);
            drop(handed);
            if tell.send(started).is_ok() {
                // Nothing is ever sent: this ends when the other side is dropped.
                let _ = kept.recv();
            }
        })
        .map_err(|source| MonitorError::Process { what: "make a thread for", source })?;
    let ended = || MonitorError::Process { what: "start", source: io::ErrorKind::BrokenPipe.into() };
    let (pid, complaints) = told.recv().map_err(|_| ended())??;
    Ok(Launched { pid, complaints, keeper })
}

fn start_here(spec: &VmSpec, handed: &Handed) -> Result<(u32, io::PipeReader), MonitorError> {
    let failed = |source| MonitorError::Start { said: "its process".into(), source };
    let jail = Jail::strictest();
    let (complaints, complain) = io::pipe().map_err(failed)?;
    let inherited = Inherited {
        qmp: handed.qmp.as_raw_fd(),
        port: handed.port.as_raw_fd(),
        incoming: handed.incoming.as_ref().map(AsRawFd::as_raw_fd),
    };
    let mut command = Command::new(PROGRAM);
    command.args(arguments(spec, &jail.paths(spec), inherited)).env_clear();
    // The owner's standard output is the guest's lock, which must be held until the last of the two processes has ended.
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(complain);
    jail.enter(spec)?;
    if let Jail::Own(id) = jail {
        command.uid(id).gid(id);
    }
    confine(&mut command, spec, inherited);
    let child = command.spawn().map_err(failed)?;
    Ok((child.id(), complaints))
}

/// What is done in the child between fork and exec, after its user has been changed.
fn confine(command: &mut Command, spec: &VmSpec, inherited: Inherited) {
    let file_bytes_max = match spec.purpose {
        Purpose::Sandbox => 0,
        Purpose::Snapshot => spec.memory.bytes().0 + SNAPSHOT_EXTRA_BYTES,
    };
    let limits = [
        // Not 0: where core files go to a program, 1 is the only value that the kernel obeys (core(5)).
        (Resource::Core, 1),
        (Resource::Fsize, file_bytes_max),
        (Resource::Nofile, OPEN_FILES_MAX),
        (Resource::Nproc, THREADS_MAX),
    ];
    let is_own_user = rustix::process::geteuid().is_root();
    let prepare = move || -> io::Result<()> {
        for (resource, value) in limits {
            // The number of threads is counted per user, and only a jailed guest has a user of its own.
            if is_own_user || !matches!(resource, Resource::Nproc) {
                setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
            }
        }
        for fd in [Some(inherited.qmp), Some(inherited.port), inherited.incoming].into_iter().flatten() {
            keep_open(fd)?;
        }
        set_no_new_privs(true)?;
        // Last: changing the user would clear it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure runs in the child after fork; it makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

fn keep_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: the number is that of a descriptor that the parent keeps open until the child has been started.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(fcntl_setfd(fd.as_fd(), FdFlags::empty())?)
}

/// What QEMU said before it gave up, in one line.
pub fn said(complaints: io::PipeReader) -> String {
    let mut text = Vec::new();
    let _ = complaints.take(SAID_BYTES_MAX).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it ended without a word".to_owned() } else { line }
}
