//! Whether KVM of this host runs guests. That `/dev/kvm` opens and answers says nothing: where it only emulates, which
//! happens in virtual machines, every call succeeds and a stock kernel dies at its first instruction that the emulator
//! lacks. So a throw-away guest executes such instructions and halts.
//!
//! [`program`] has its instructions, [`trial`] its life.

mod program;

mod trial;

use std::{
    ffi::CStr,
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use omnirun_vmm_api::MonitorError;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use crate::kvm::vcpu;

/// How long the throw-away guest may run. Where KVM works it takes a millisecond, and in the KVM lab some ten.
const TRIAL_MAX: Duration = Duration::from_secs(2);
/// How long a processor may take to leave the guest once it is told to.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// How often it is told: a signal that comes before KVM_RUN interrupts nothing.
const TELL_EVERY: Duration = Duration::from_millis(10);

/// What KVM of this host can do. As text it is half a sentence with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It runs guests.
    Works,
    /// There is none.
    Absent,
    /// This user may not use it.
    Forbidden,
    /// Its calls work, and it executes ordinary code by emulating it, badly.
    Emulates {
        /// The instruction that it does not execute.
        stops_at: &'static str,
    },
    /// It is there and does not do what it should.
    Broken {
        /// What went wrong.
        why: String,
    },
}

impl Verdict {
    /// Tries this host's KVM the first time, and answers the same ever after. Takes some milliseconds, of which making a
    /// machine is most, and never more than a few seconds.
    pub fn of_this_host() -> &'static Self {
        static TRIED: OnceLock<Verdict> = OnceLock::new();
        TRIED.get_or_init(|| of_device(c"/dev/kvm"))
    }

    /// What it means that the device cannot be opened.
    pub fn of_refused_open(error: io::Error) -> Self {
        match rustix::io::Errno::from_io_error(&error) {
            // A device without its module is there and leads nowhere.
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => {
                Self::Absent
            }
            Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Self::Forbidden,
            _ => Self::Broken { why: format!("it cannot be opened ({error})") },
        }
    }

    /// What to do about it, as an order; nothing where it works.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Works => None,
            Self::Absent => Some(
                "load the module kvm_amd or kvm_intel; in a virtual machine, turn on nested virtualisation",
            ),
            Self::Forbidden => Some("let this user read and write it, or run as root"),
            Self::Emulates { .. } => Some("use a host that has AMD's SVM or Intel's VMX"),
            Self::Broken { .. } => Some("see what the kernel says about kvm in dmesg"),
        }
    }

    /// As the reason why the kvm monitor cannot be had.
    pub fn refusal(&self) -> MonitorError {
        let remedy = self.remedy().unwrap_or("try again");
        let reason = format!("{self}: {remedy}, or use the qemu monitor");
        MonitorError::Unavailable { monitor: "kvm", reason }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => write!(out, "/dev/kvm runs guests"),
            Self::Absent => write!(out, "there is no /dev/kvm, or no KVM behind it"),
            Self::Forbidden => write!(out, "this user may not open /dev/kvm"),
            Self::Emulates { stops_at } => {
                write!(out, "/dev/kvm only emulates, and cannot emulate {stops_at}")
            }
            Self::Broken { why } => write!(out, "/dev/kvm does not work: {why}"),
        }
    }
}

fn of_device(path: &CStr) -> Verdict {
    match kvm_ioctls::Kvm::new_with_path(path) {
        Ok(device) => bounded(move |give_up| trial::run(&device, &program::code(), give_up), TRIAL_MAX),
        Err(error) => Verdict::of_refused_open(error.into()),
    }
}

/// Runs a trial in a thread of its own, so that a KVM that never returns does not stop the caller as well. The trial
/// looks at what it is given whenever a signal interrupts it.
fn bounded(trial: impl FnOnce(&AtomicBool) -> Verdict + Send + 'static, limit: Duration) -> Verdict {
    let broken = |why: &str| Verdict::Broken { why: why.to_owned() };
    if vcpu::prepare_signal().is_err() {
        return broken("its processor could not be interrupted");
    }
    let give_up = Arc::new(AtomicBool::new(false));
    let (tell, told) = channel();
    let seen = give_up.clone();
    let spawned = thread::Builder::new()
        .name("kvm-trial".to_owned())
        .stack_size(vcpu::STACK_BYTES)
        .spawn(move || drop(tell.send(trial(&seen))));
    let Ok(thread) = spawned else { return broken("there is no thread for the trial") };
    match told.recv_timeout(limit) {
        Ok(verdict) => verdict,
        Err(RecvTimeoutError::Disconnected) => broken("the trial panicked"),
        Err(RecvTimeoutError::Timeout) => {
            give_up.store(true, Ordering::SeqCst);
            stop(&thread, &told);
            broken("a guest of six instructions did not end")
        }
    }
}

/// Tells the trial's thread to leave until it has. One that is stuck inside of the kernel stays there: it owns all that
/// it uses, and nobody waits for it.
fn stop(thread: &JoinHandle<()>, told: &Receiver<Verdict>) {
    let since = Instant::now();
    while since.elapsed() < LEAVE_MAX && !thread.is_finished() {
        let _ = thread.kill(SIGRTMIN());
        if !matches!(told.recv_timeout(TELL_EVERY), Err(RecvTimeoutError::Timeout)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn this_hosts_kvm_gets_the_same_verdict_twice_and_one_that_fits_its_device() {
        let there = std::path::Path::new("/dev/kvm").exists();
        let verdict = of_device(c"/dev/kvm");
        assert_eq!(verdict, of_device(c"/dev/kvm"));
        assert_eq!(&verdict, Verdict::of_this_host());
        match &verdict {
            Verdict::Absent => assert!(!there || kvm_ioctls::Kvm::new().is_err(), "{verdict}"),
            _ => assert!(there, "{verdict}"),
        }
        assert_eq!(verdict == Verdict::Works, verdict.remedy().is_none());
    }

    #[test]
    fn a_device_that_is_missing_leads_nowhere_or_is_another_one_is_told_apart() {
        assert_eq!(of_device(c"/nowhere/kvm"), Verdict::Absent);
        let denied = Verdict::of_refused_open(io::ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, Verdict::Broken { .. }), "an error without the system's number: {denied}");
        for (errno, expected) in [
            (rustix::io::Errno::ACCESS, Verdict::Forbidden),
            (rustix::io::Errno::PERM, Verdict::Forbidden),
            (rustix::io::Errno::NXIO, Verdict::Absent),
            (rustix::io::Errno::NODEV, Verdict::Absent),
        ] {
            assert_eq!(Verdict::of_refused_open(errno.into()), expected);
        }
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        let path = CString::new(file.path().as_os_str().as_encoded_bytes()).expect("a path without zeros");
        let other = of_device(&path);
        assert!(matches!(&other, Verdict::Broken { why } if why.contains("version")), "{other}");
    }

    #[test]
    fn a_guest_that_never_ends_is_interrupted_and_one_that_cannot_be_is_left_behind() {
        let (told, gave_up) = channel();
        let spins = move |give_up: &AtomicBool| {
            while !give_up.load(Ordering::SeqCst) {
                // Ends when a signal interrupts it, as KVM_RUN does.
                thread::park_timeout(Duration::from_millis(1));
            }
            let _ = told.send(());
            Verdict::Works
        };
        let verdict = bounded(spins, Duration::from_millis(20));
        assert!(matches!(&verdict, Verdict::Broken { why } if why.contains("did not end")), "{verdict}");
        gave_up.recv_timeout(LEAVE_MAX).expect("its thread ended");

        let (release, held) = channel::<()>();
        let since = Instant::now();
        let stuck = move |_: &AtomicBool| {
            let _ = held.recv();
            Verdict::Works
        };
        assert!(matches!(bounded(stuck, Duration::from_millis(20)), Verdict::Broken { .. }));
        assert!(since.elapsed() < TRIAL_MAX + LEAVE_MAX, "{:?}", since.elapsed());
        drop(release);
    }

    #[test]
    fn a_guest_that_spins_in_kvm_is_made_to_leave_it() {
        let Ok(device) = kvm_ioctls::Kvm::new() else { return };
        let (left, has_left) = channel();
        let spins = move |give_up: &AtomicBool| {
            // jmp to itself.
            let _ = left.send(trial::run(&device, b"\xeb\xfe", give_up));
            Verdict::Works
        };
        let verdict = bounded(spins, Duration::from_millis(100));
        assert!(matches!(&verdict, Verdict::Broken { why } if why.contains("did not end")), "{verdict}");
        let inside = has_left.recv_timeout(LEAVE_MAX).expect("KVM let go of its thread");
        assert_eq!(inside, Verdict::Broken { why: "it was interrupted".to_owned() });
    }

    #[test]
    fn a_refusal_names_the_device_why_and_what_to_do() {
        let all = [
            Verdict::Absent,
            Verdict::Forbidden,
            Verdict::Emulates { stops_at: "PXOR" },
            Verdict::Broken { why: "x".to_owned() },
        ];
        for verdict in all {
            let said = verdict.refusal().to_string();
            assert!(said.starts_with("the kvm monitor is not available: "), "{said}");
            assert!(said.contains("/dev/kvm") && said.ends_with("or use the qemu monitor"), "{said}");
        }
    }
}
