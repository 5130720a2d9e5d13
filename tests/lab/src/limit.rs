//! Limits: a case that hangs is a failure that is said quickly, with what every process was doing; and so is a process that
//! is waited for.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::init;

/// How long a case may take. The longest takes half of it where the machine does something else too.
const CASE_MAX: Duration = Duration::from_secs(300);
/// How long a process that is on its way out may take.
const EXIT_MAX: Duration = Duration::from_secs(60);
/// Lines of the kernel's log that are shown.
const LOG_LINES: usize = 40;

/// Does something that must not hang: a lab in which it does ends there, with a line that says so.
pub fn within<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    let name = name.to_owned();
    let watchdog = thread::spawn(move || {
        if waiting.recv_timeout(CASE_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("LAB fail {name} it hangs: not done after {CASE_MAX:?}");
            print_processes();
            print_cgroups();
            print_log();
            init::end_machine();
        }
    });
    let value = work();
    drop(done);
    // It has nothing left to do but to see that.
    let _ = watchdog.join();
    value
}

/// Waits for the end of a process that is about to end.
pub fn wait_for_exit(process: &mut Child) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(process.id())?).context("no process")?;
    if let Some(status) = process.try_wait()? {
        return Ok(status);
    }
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: EXIT_MAX.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)], Some(&limit))?;
    if ended == 0 {
        print_processes();
        print_cgroups();
    }
    ensure!(ended == 1, "process {} has not ended after {EXIT_MAX:?}", process.id());
    Ok(process.wait()?)
}

/// Waits until something is so which nothing tells, looking this often.
pub fn wait_until(
    otherwise: &'static str,
    look_every: Duration,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let since = Instant::now();
    while !is_so() {
        ensure!(since.elapsed() < EXIT_MAX, otherwise);
        thread::sleep(look_every);
    }
    Ok(())
}

/// What every thread of every program is doing (proc(5)); the kernel's own threads are left out.
fn print_processes() {
    for process in numbered(Path::new("/proc")) {
        if fs::read(process.join("cmdline")).unwrap_or_default().is_empty() && state(&process).1 != "Z" {
            continue;
        }
        for thread in numbered(&process.join("task")) {
            let (name, state) = state(&thread);
            let text = |file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
            let stack: Vec<_> = text("stack").lines().map(|line| line.trim().to_owned()).collect();
            println!(
                "LAB state {} {name} {state} in {} call {} stack {}",
                thread.display(),
                text("wchan"),
                text("syscall").split_whitespace().next().unwrap_or_default(),
                stack.join(", ")
            );
        }
    }
}

/// What the threads of a process are called.
pub fn thread_names(process: u32) -> Vec<String> {
    let threads = numbered(&Path::new("/proc").join(process.to_string()).join("task"));
    threads.iter().map(|thread| state(thread).0).collect()
}

/// What the programs are called that run, or have ended and were waited for by nobody.
pub fn program_names() -> Vec<String> {
    numbered(Path::new("/proc"))
        .iter()
        .map(|process| state(process))
        .filter(|(_, state)| state != "Z")
        .map(|(name, _)| name)
        .collect()
}

/// Name and state of a process or thread.
fn state(place: &Path) -> (String, String) {
    let status = fs::read_to_string(place.join("status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    (field("Name"), field("State").chars().take(1).collect())
}

fn numbered(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .map(|entry| entry.path())
        .collect()
}

/// What the guests' cgroups have used and whether they were made to wait.
fn print_cgroups() {
    for group in fs::read_dir("/sys/fs/cgroup/omnirun").into_iter().flatten().flatten() {
        for file in ["cgroup.procs", "cgroup.events", "cpu.stat", "memory.events"] {
            let text = fs::read_to_string(group.path().join(file)).unwrap_or_default();
            println!("LAB state {} {file} {}", group.path().display(), text.trim().replace('\n', ", "));
        }
    }
}

fn print_log() {
    let lines = crate::owner::kernel_log();
    for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
        println!("LAB log {line}");
    }
}
