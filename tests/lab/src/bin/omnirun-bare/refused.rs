//! A process in its jail that tries what is refused to it. It says what it sees of the host first; the attempt ends it. And
//! one that does what must not be refused.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    ptr,
    sync::{Arc, Barrier},
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm::kvm::jail::{
    filter::{self, Filter},
    lists,
    process::Door,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous},
    mount::{MountFlags, mount},
    process::{Signal, Uid, chroot, getpid, kill_process},
    thread::{UnshareFlags, set_thread_uid, unshare_unsafe},
};

/// What is tried: a name, and how; it answers whether it could be done.
type Attempt = (&'static str, fn() -> bool);

const ATTEMPTS: &[Attempt] = &[
    ("open", || fs::File::open("/images/initramfs.cpio").is_ok()),
    ("list", || fs::read_dir("/").is_ok()),
    ("socket", || UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("connect", || UnixStream::connect("/owner.sock").is_ok()),
    ("execute", || Command::new("/omnirun-bare").spawn().is_ok()),
    ("kill", || kill_process(getpid(), Signal::TERM).is_ok()),
    ("mount", || mount("proc", "/", "proc", MountFlags::empty(), None).is_ok()),
    ("unshare", || {
        // SAFETY: no memory is concerned.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.is_ok()
    }),
    ("root", || set_thread_uid(Uid::ROOT).is_ok()),
    ("chroot", || chroot("/").is_ok()),
    ("executable", || {
        let all = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        // SAFETY: a new mapping anywhere, that no code refers to.
        unsafe { mmap_anonymous(ptr::null_mut(), 4096, all, MapFlags::PRIVATE) }.is_ok()
    }),
];

/// Threads that take memory, more than the C library's heaps have at first, in pieces that it gives back in part.
const TAKERS: usize = 8;
const TAKEN_BYTES: usize = 8 << 20;
const PIECE_BYTES: usize = 1 << 10;

/// Closes the door and takes and gives back memory from several threads at a time, which nobody minds.
pub fn use_memory(door: Door) -> Result<()> {
    door.close(Path::new(super::STORE))?;
    filter::seal()?;
    let together = Arc::new(Barrier::new(TAKERS));
    let take = |_| {
        let together = together.clone();
        std::thread::spawn(move || {
            let pieces: Vec<_> = (0..TAKEN_BYTES / PIECE_BYTES).map(|_| vec![1_u8; PIECE_BYTES]).collect();
            together.wait();
            pieces.len()
        })
    };
    let threads: Vec<_> = (0..TAKERS).map(take).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
    }
    super::say("used memory")
}

/// Closes the door and tries it as a thread with that list. Returns only when nobody minds.
pub fn attempt(door: Door, list: &str, call: &str) -> Result<()> {
    let (_, attempt) = *ATTEMPTS.iter().find(|(name, _)| *name == call).context("no such attempt")?;
    door.close(Path::new(super::STORE))?;
    let seen: Vec<_> = fs::read_dir("/")?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(seen.is_empty(), "it sees {seen:?}");
    for path in ["/proc", "/dev/kvm", "/images", "..", "../../proc/1/root"] {
        ensure!(path == ".." || !Path::new(path).exists(), "it sees {path}");
    }
    ensure!(fs::File::create("/file").is_err(), "it can write to its root");
    super::say("sees nothing")?;
    filter::seal()?;
    let was_done = match list {
        "owner" => attempt(),
        "vcpu" => within(lists::VCPU, attempt)?,
        "devices" => within(lists::DEVICES, attempt)?,
        _ => anyhow::bail!("no such list"),
    };
    anyhow::bail!("nobody minds: {was_done}")
}

fn within(list: &'static [lists::Rule], attempt: fn() -> bool) -> Result<bool> {
    let thread = std::thread::spawn(move || Filter::of(list)?.apply().map(|()| attempt()));
    Ok(thread.join().map_err(|_| anyhow::anyhow!("it panicked"))??)
}
