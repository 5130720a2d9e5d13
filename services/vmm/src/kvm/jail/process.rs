//! One process becomes two: the keeper, which stays outside, and the inmate, which begins as process 1 of a namespace of
//! its own, in its cgroup, and closes the door behind itself.

#[cfg(test)]
mod tests;

use std::{
    cell::OnceCell,
    io::{self, Read, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use omnirun_vmm_api::MonitorError;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid},
};
use vmm_sys_util::signal::register_signal_handler;

use super::{Shape, User, cgroup::Cgroup, filter, rights, root, step};

/// Which of the two a caller has become.
pub enum Side {
    /// The process that was there before.
    Outside(Inmate),
    /// The new one: process 1 of its namespace, with the door still open.
    Inside(Door),
}

/// The inmate, as its keeper sees it. Dropping it leaves it alone; it dies with its keeper.
pub struct Inmate {
    process: OwnedFd,
    channel: UnixStream,
    /// When it was first asked to end.
    asked: OnceCell<Instant>,
    /// Removed with the inmate.
    _cgroup: Option<Cgroup>,
}

/// The way to the host, for whoever is inside and has not closed it yet.
pub struct Door {
    user: User,
    channel: UnixStream,
}

/// What an inmate has of the outside.
pub struct Inside {
    /// Its process id as the host counts.
    pub pid: u32,
    /// To its keeper.
    pub channel: UnixStream,
}

/// What a keeper hears.
#[derive(Debug)]
pub enum Event {
    /// The inmate has written, or closed its end.
    Said,
    /// It has ended and been reaped; with this exit code.
    Exited(u8),
    /// It has been ended by this signal, and reaped.
    Killed(i32),
    /// Nothing yet.
    Nothing,
}

/// How long an inmate that was asked to end may take: as long as it may wait for the last thing that its keeper does for it.
const END_WAIT_MAX: Duration = Duration::from_secs(30);

/// clone3(2), linux/sched.h: the new process begins in the cgroup whose directory is handed along.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Somebody wants this process to end, and so its inmate.
static IS_TO_END: AtomicBool = AtomicBool::new(false);

/// Makes the inmate. The name is one that no other guest of the host has; where the host lets it, a cgroup gets it. The
/// guest reads from the disk that `disk` is on.
///
/// The calling process must have one thread; one that has more is refused.
pub fn divide(name: &str, shape: Shape, disk: &Path) -> Result<Side, MonitorError> {
    step("be alone", is_alone())?;
    let user = User::strictest();
    let (ours, theirs) = step("make a channel", UnixStream::pair())?;
    let cgroup = match user {
        User::Own(_) => step("make a cgroup", Cgroup::make(name, shape, disk))?,
        User::Same => None,
    };
    let Some(born) = step("make a process", clone(user, cgroup.as_ref()))? else {
        drop(ours);
        filter::share_one_heap();
        // The keeper has its own, and removes it.
        cgroup.into_iter().for_each(Cgroup::leave);
        return Ok(Side::Inside(Door { user, channel: theirs }));
    };
    drop(theirs);
    let inmate = Inmate { process: born.process, channel: ours, asked: OnceCell::new(), _cgroup: cgroup };
    step("hear of an end", register_signal_handler(libc::SIGTERM, note_end).map_err(io::Error::from))?;
    // Whoever cannot read this has ended, which is heard of soon enough.
    let _ = (&inmate.channel).write_all(&born.pid.to_ne_bytes());
    Ok(Side::Outside(inmate))
}

extern "C" fn note_end<T>(_: i32, _: *mut T, _: *mut std::ffi::c_void) {
    IS_TO_END.store(true, Ordering::SeqCst);
}

/// unshare(2): with CLONE_THREAD it changes nothing, and fails where the process has other threads.
fn is_alone() -> io::Result<()> {
    // SAFETY: no memory is concerned.
    match unsafe { libc::unshare(libc::CLONE_THREAD) } {
        0 => Ok(()),
        _ => Err(io::Error::other("other threads run already")),
    }
}

struct Born {
    pid: u32,
    process: OwnedFd,
}

/// clone3(2); answers with nothing in the new process. It is a fork: the memory is copied as it is written to.
fn clone(user: User, cgroup: Option<&Cgroup>) -> io::Result<Option<Born>> {
    let mut process = -1_i32;
    // SAFETY: a structure of numbers, of which zeros mean "not asked for".
    let mut wish: libc::clone_args = unsafe { mem::zeroed() };
    wish.flags = libc::CLONE_PIDFD as u64;
    if matches!(user, User::Own(_)) {
        // The other namespaces can be made later: see `root`.
        wish.flags |= libc::CLONE_NEWPID as u64;
    }
    if let Some(cgroup) = cgroup {
        wish.flags |= CLONE_INTO_CGROUP;
        wish.cgroup = u64::try_from(cgroup.as_fd().as_raw_fd()).unwrap_or_default();
    }
    wish.pidfd = ptr::from_mut(&mut process).addr() as u64;
    wish.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the structure is as long as said. This process has one thread, so that the copy finds no lock held by
    // another one; it has the whole of its memory, as after fork(2). The C library does not hear of it, and keeps the
    // old thread's id for the copy, which it uses for nothing that is called here: signals to threads go to others.
    let born = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&wish), mem::size_of_val(&wish)) };
    match born {
        0 => Ok(None),
        // SAFETY: the kernel has stored a new descriptor there, which is nobody else's.
        1.. => Ok(Some(Born { pid: born as u32, process: unsafe { OwnedFd::from_raw_fd(process) } })),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Door {
    /// Gives up the sight of the host and every right. What is open stays open.
    ///
    /// The directory `covered` is where the empty root is mounted, for the inmate alone.
    pub fn close(self, covered: &Path) -> Result<Inside, MonitorError> {
        if let User::Own(_) = self.user {
            root::leave_host(covered)?;
        }
        rights::give_up(self.user)?;
        // A keeper that ended before its end would have been ours has closed this; one that ends later takes us along.
        let mut pid = [0; 4];
        step("hear the keeper", (&self.channel).read_exact(&mut pid))?;
        Ok(Inside { pid: u32::from_ne_bytes(pid), channel: self.channel })
    }
}

impl Inmate {
    /// Where it says what it wants.
    pub fn channel(&self) -> &UnixStream {
        &self.channel
    }

    /// Asks it to end. One that a guest has taken over does not care, so that it is ended when 30 seconds have passed.
    pub fn terminate(&self) {
        self.asked.get_or_init(Instant::now);
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
    }

    /// Ends it.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Waits for something to happen. A wish to end this process is handed on, and one that was not heard is carried out.
    pub fn wait(&self, channel: Watch, limit: Duration) -> io::Result<Event> {
        let mut fds = vec![PollFd::new(&self.process, PollFlags::IN)];
        if channel == Watch::Channel {
            fds.push(PollFd::new(&self.channel, PollFlags::IN));
        }
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // A signal interrupts it; one that comes just before it is seen after the limit.
        let _ = poll(&mut fds, Some(&limit));
        // Again and again: one that does not listen yet ignores it.
        if IS_TO_END.load(Ordering::SeqCst) {
            self.terminate();
        }
        if self.asked.get().is_some_and(|asked| asked.elapsed() >= END_WAIT_MAX) {
            self.kill();
        }
        // What it has said before its end comes first.
        if fds.get(1).is_some_and(|channel| !channel.revents().is_empty()) {
            return Ok(Event::Said);
        }
        if !fds[0].revents().is_empty() {
            let status = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED)?;
            return Ok(status.as_ref().map_or(Event::Killed(0), ended));
        }
        Ok(Event::Nothing)
    }
}

/// Whether what the inmate says is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// It is.
    Channel,
    /// It has closed its end, or is not believed any more.
    EndOnly,
}

fn ended(status: &WaitIdStatus) -> Event {
    match status.exit_status() {
        Some(code) => Event::Exited(u8::try_from(code).unwrap_or(1)),
        None => Event::Killed(status.terminating_signal().unwrap_or(0)),
    }
}
