//! Events of a sandbox.
//!
//! [`SandboxRequested`], [`TimeoutExtended`] and [`SandboxResumed`] are appended to the account's `evt.<account>.admission.self`, where
//! plan limits are decided one after the other; everything else is on `evt.<account>.sandbox.<sandbox>`, first of all the claim of
//! exactly one host. What runs inside a sandbox is in no event.

use serde::{Deserialize, Serialize};

use crate::id::{HostId, SandboxId};
use crate::keys::Digest;
use crate::sealing::Sealed;
use crate::unit::{MebibyteSeconds, Millis, Seconds, Shape, StandardMillis, Timestamp};
use crate::usage::Meter;

/// Name of the sealed field that holds the user's metadata as JSON.
pub const METADATA_FIELD: &str = "metadata";

/// Whether a guest has a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// No network device.
    Off,
    /// A network device behind the host's filter.
    Filtered,
}

/// A sandbox was admitted: the plan allows it and its time is reserved. Hosts may claim it until the deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRequested {
    /// The new sandbox.
    pub sandbox: SandboxId,
    /// Name of the template.
    pub template: String,
    /// Vcpus and memory.
    pub shape: Shape,
    /// How long it lives from its start unless extended; already within the plan.
    pub timeout: Seconds,
    /// What was reserved of the plan: the shape's weight times the time-out, in whole seconds.
    pub reserved: StandardMillis,
    /// After this moment no host may claim it and it fails with [`FailReason::NoCapacity`].
    pub deadline: Timestamp,
    /// Whether it has a way out.
    pub network: Network,
    /// The user's metadata, sealed under the account's key of the month.
    pub metadata: Option<Sealed>,
}

/// One host won the sandbox. First record of its subject, appended with expected 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxClaimed {
    /// The winner; from here on only its key may speak for the sandbox.
    pub host: HostId,
}

/// How a guest came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedFrom {
    /// A kernel was booted for it.
    Boot,
    /// It waited in the warm pool.
    Pool,
}

/// The guest is ready to run code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStarted {
    /// When the guest became ready; billing starts here.
    pub started_at: Timestamp,
    /// When it ends unless extended.
    pub end_at: Timestamp,
    /// Where it came from.
    pub from: StartedFrom,
    /// SHA-256 of the template's root image.
    pub root: Digest,
    /// SHA-256 of the guest kernel.
    pub kernel: Digest,
}

/// The end of a sandbox was moved. On the admission subject, where its reservation is decided; the host follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutExtended {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Its new end.
    pub end_at: Timestamp,
    /// All that is reserved for it from now on, the elapsed part included.
    pub reserved: StandardMillis,
}

/// Somebody wants the sandbox paused. The host that owns it pauses its guest and says so with [`SandboxPaused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRequested {}

/// The guest's processors stand still and its memory stays. Its end does not move: it ends then, paused or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPaused {
    /// Since when; the meter was read at this moment.
    pub paused_at: Timestamp,
    /// When it ends unless extended.
    pub end_at: Timestamp,
    /// What was metered so far.
    pub meter: Meter,
}

impl SandboxPaused {
    /// The running time that counts for it by then. Rounded up where the meter says whole MiB seconds alone, so that no later reading has more
    /// than this and [`Shape::paused`] of the time since.
    pub fn used(&self, shape: Shape) -> Millis {
        let memory = self.meter.memory.plus(MebibyteSeconds(1));
        Meter { memory, ..self.meter }.counted(shape)
    }

    /// What stays reserved for it while it is paused: what it has used, and its memory until its end. The rest is given back.
    pub fn reserved(&self, shape: Shape) -> StandardMillis {
        let rest = shape.paused(self.end_at.since(self.paused_at));
        shape.charge(self.used(shape).plus(rest))
    }
}

/// A paused sandbox was admitted anew: its time is reserved again and its host lets its guest go on. On the admission subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxResumed {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// When it ends unless extended.
    pub end_at: Timestamp,
    /// All that is reserved for it from now on, what it has used included.
    pub reserved: StandardMillis,
}

/// What was said about sandboxes before this has expired or is about to. Says nothing: the last record of a subject that may still be
/// appended to never goes, so this one takes that place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionTrimmed {}

/// Somebody wants the sandbox gone. The host that owns it ends it and says so with [`SandboxStopped`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequested {}

/// Why a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Its owner destroyed it.
    Requested,
    /// Its time was over.
    TimedOut,
    /// The guest shut down, crashed or stopped answering.
    GuestDied,
    /// The owner process or the host's worker found it without an owner.
    OwnerDied,
    /// The host is being emptied.
    HostDrained,
    /// Its host was given up with all that was on it, or was cut off from the log for so long that it ended it itself. Since version 2.
    HostLost,
}

/// The guest is gone: its process was reaped and its files removed before this was written. Final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStopped {
    /// Why.
    pub reason: StopReason,
    /// When the guest stopped running; billing ends here.
    pub stopped_at: Timestamp,
    /// All that was metered.
    pub meter: Meter,
    /// From the decision to end it until nothing was left.
    pub teardown: Millis,
}

/// Why a sandbox never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// No host claimed it by its deadline.
    NoCapacity,
    /// Its owner destroyed it before a host claimed it.
    Cancelled,
    /// The host that claimed it could not start its guest.
    BootFailed,
}

/// The sandbox never ran and everything reserved for it is given back. Final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFailed {
    /// Why.
    pub reason: FailReason,
}
