//! The monitor: what runs virtual machines. Two kinds are foreseen behind it, QEMU as a child process and our own on
//! KVM inside the owner process; callers cannot tell them apart. Every call blocks.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
};

use crate::{Bytes, Millis, NetworkSpec, VmSpec, owner::EndReason};

/// Starts guests.
pub trait Monitor: Send + Sync {
    /// Names the exact program that restores snapshots: its kind and version. A snapshot is good for this one only.
    fn identity(&self) -> Result<String, MonitorError>;

    /// Names the kind of processor that snapshots are good on; where it does not matter, every processor is of one kind.
    fn processor(&self) -> String {
        "any".to_owned()
    }

    /// Where guests run.
    fn place(&self) -> Place {
        Place::Child
    }

    /// Gives every guest that is booted from now on a network device. Before [`Monitor::enclose`], where the host's interfaces have names.
    fn attach(&mut self, _network: &NetworkSpec) -> Result<(), MonitorError> {
        let reason = "this monitor has no network device: choose kvm".to_owned();
        Err(MonitorError::Refused { command: "attach a network", reason })
    }

    /// Opens everything of the host that guests like this one will need, so that this process can go into its jail. From
    /// now on all guests have these files, and the monitor's own threads confine themselves. A snapshot that a guest will
    /// be restored from is read already; what is wrong with it is said by [`Monitor::restore`].
    ///
    /// Only for [`Place::ThisProcess`]; the process that calls is the one that runs the guests.
    fn enclose(&mut self, _spec: &VmSpec, _snapshot: Option<&SnapshotFiles>) -> Result<(), MonitorError> {
        Ok(())
    }

    /// Boots a guest; it runs when this returns.
    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Guest>, MonitorError>;

    /// Restores a guest from a snapshot that a guest with the same files and shape made; it runs when this returns. Where
    /// [`Monitor::enclose`] was given a snapshot, it is that one.
    /// Its clock, entropy and ids are those of the snapshot until it has been personalised.
    fn restore(&self, spec: &VmSpec, files: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError>;
}

/// Where guests run, and so which process belongs into a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In children of the monitor's making, which it jails.
    Child,
    /// In threads of the process that has the monitor, which must go into a jail itself: only it knows what it needs.
    ThisProcess,
}

/// The two open files of a snapshot. A monitor that keeps everything in one leaves the other empty.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// The guest's memory. It must not change while a guest that was restored from it lives.
    pub memory: File,
    /// Everything else.
    pub state: File,
    /// The directory that they are in, for messages.
    pub directory: PathBuf,
}

/// One guest. Dropping it kills it, so that no guest outlives its owner.
pub trait Guest: Send {
    /// The host's end of the agent port, connected: what is written before the agent listens waits. `None` once it has
    /// been taken. Closing it tells the guest that the host has gone; it cannot be opened again.
    fn take_port(&mut self) -> Option<UnixStream>;

    /// A descriptor that becomes readable when the guest has ended, for whatever reason.
    fn ended(&self) -> Result<OwnedFd, MonitorError>;

    /// Why the guest has ended, in a sentence, where the monitor knows; it names nothing of what ran in it.
    fn why_ended(&self) -> Option<String> {
        None
    }

    /// The same for whoever reports it, once it has ended: by itself, unless the monitor knows better.
    fn end_reason(&self) -> EndReason {
        EndReason::GuestExited
    }

    /// Process id of the monitor where it is a process of its own.
    fn process_id(&self) -> Option<u32>;

    /// Stops the vCPUs; memory stays. Twice is once.
    fn pause(&mut self) -> Result<(), MonitorError>;

    /// Lets the vCPUs run again. Twice is once.
    fn resume(&mut self) -> Result<(), MonitorError>;

    /// Pauses and writes the whole state into empty files. The guest stays paused. Only a guest started for
    /// [`crate::Purpose::Snapshot`] may.
    fn snapshot(&mut self, files: SnapshotFiles) -> Result<(), MonitorError>;

    /// What it has used since it was started. After its end: in all.
    fn stats(&mut self) -> Result<Stats, MonitorError>;

    /// Ends it at once and returns when its process has been reaped. Twice is once.
    fn kill(&mut self) -> Result<Stats, MonitorError>;
}

/// What a guest has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Processor time of the monitor with all its threads, as the host's kernel counts it.
    pub vcpu: Millis,
    /// Host memory that it has now.
    pub resident: Bytes,
    /// Network bytes from the guest.
    pub tx: Bytes,
    /// Network bytes to the guest.
    pub rx: Bytes,
}

/// An operation of a monitor that failed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The wanted monitor cannot run on this host.
    #[error("the {monitor} monitor is not available: {reason}")]
    Unavailable {
        /// Its name.
        monitor: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// The jail around the monitor could not be made.
    #[error("cannot {step} for the guest's jail")]
    Jail {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The monitor's process could not be started, or ended at once.
    #[error("cannot start the monitor: {said}")]
    Start {
        /// What it printed, shortened.
        said: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The monitor's control channel broke or was too slow.
    #[error("cannot {command} the guest")]
    Control {
        /// What it was told.
        command: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The monitor said no.
    #[error("the monitor refused to {command}: {reason}")]
    Refused {
        /// What it was told.
        command: &'static str,
        /// Its own words.
        reason: String,
    },
    /// A file cannot be used: it is missing, of another kind, too large, or damaged.
    #[error("cannot use {path}: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A tap interface of the host cannot be used.
    #[error("cannot use the tap {name}: {reason}")]
    BadTap {
        /// As the host calls it.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The host's kernel refused a step of the monitor that runs inside the owner process.
    #[error("cannot {step} the guest")]
    Kvm {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The monitor's process could not be watched, counted or waited for.
    #[error("cannot {what} the monitor's process")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
