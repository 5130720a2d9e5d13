//! Messages of the owner process: the one process per guest that outlives the worker which started it.
//!
//! It is started as `omnirun vmm` with an [`OwnerSpec`] as JSON on its standard input, and serves HTTP/2 without TLS on
//! `<state_dir>/owner.sock`, mode 0600. When its guest has ended it leaves only `<state_dir>/final.json`
//! ([`Final`]) and exits.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Bytes, MemoryBacking, MemoryMib, MibSeconds, Millis, MonitorChoice, NetworkSpec, Purpose,
    TemplateDigests, UnixMillis, Vcpus,
};

/// Name of the socket in the state directory.
pub const SOCKET: &str = "owner.sock";
/// Name of the file that is left in the state directory at the end.
pub const FINAL: &str = "final.json";

/// `GET`: [`Status`].
pub const STATUS: &str = "/owner/status";
/// `POST`: 204, once the guest runs; its agent need not have answered. Only for [`StartWhen::Told`]; twice is once.
pub const START: &str = "/owner/start";
/// `POST` [`Claim`]: [`Claimed`]. The same sandbox again gives the same answer, another one 409 `already_claimed`.
pub const CLAIM: &str = "/owner/claim";
/// `POST` [`NewEnd`]: 204.
pub const END: &str = "/owner/end";
/// `POST`: 204.
pub const PAUSE: &str = "/owner/pause";
/// `POST`: 204.
pub const RESUME: &str = "/owner/resume";
/// `POST` [`Kill`]: [`Final`], once the guest is reaped and its files are gone.
pub const KILL: &str = "/owner/kill";
/// `POST`: [`Snapshotted`]. Only for [`Purpose::Snapshot`]; the guest ends with it.
pub const SNAPSHOT: &str = "/owner/snapshot";
/// What is below this goes to the agent, without the prefix, once the guest is claimed.
pub const AGENT: &str = "/agent";

/// How a guest comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// The template's snapshot where there is a fitting one; else, or when it fails, a boot.
    #[default]
    Auto,
    /// A boot.
    Boot,
    /// The snapshot or nothing.
    Snapshot,
}

/// When a guest comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartWhen {
    /// With its owner process.
    #[default]
    Now,
    /// When its owner process is told [`START`]. Until then that holds all that a guest of this template and shape needs
    /// but its memory, which shortens a restore to a tenth.
    Told,
}

/// What an owner process is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerSpec {
    /// A name for the guest, chosen by the worker: 1 to 64 characters of `[A-Za-z0-9_-]`.
    pub vm_id: String,
    /// The template store, as `scripts/guest-image` makes it.
    pub store: PathBuf,
    /// A template in it.
    pub template: String,
    /// A directory of this guest alone. Made if missing; whatever is in it is removed at the end.
    pub state_dir: PathBuf,
    /// Processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: MemoryMib,
    /// What the memory of a guest that is booted is.
    #[serde(default)]
    pub backing: MemoryBacking,
    /// Which monitor.
    #[serde(default)]
    pub monitor: MonitorChoice,
    /// Boot or restore.
    #[serde(default)]
    pub start_from: StartFrom,
    /// At once or when told.
    #[serde(default)]
    pub start_when: StartWhen,
    /// Sandbox or template snapshot.
    #[serde(default)]
    pub purpose: Purpose,
    /// A network device, for a guest that is booted; none by default.
    #[serde(default)]
    pub network: Option<NetworkSpec>,
    /// How long the agent's first answer may take, for each of two tries. Default [`boot_limit_default`].
    #[serde(default = "boot_limit_default")]
    pub boot_limit: Millis,
    /// How long the guest lives on while no worker is connected. Default [`unattended_limit_default`].
    #[serde(default = "unattended_limit_default")]
    pub unattended_limit: Millis,
}

/// Ten minutes: a worker that is started again is there in seconds.
pub fn unattended_limit_default() -> Millis {
    Millis(10 * 60 * 1000)
}

/// 30 s: fifteen times a boot on an idle two-core machine under TCG; a busy machine needs some of it.
pub fn boot_limit_default() -> Millis {
    Millis(30_000)
}

/// How far a guest has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// There is no guest yet: everything waits for [`START`].
    Spare,
    /// Booting or being restored.
    Starting,
    /// Its agent answers; it belongs to nobody.
    Ready,
    /// It belongs to a sandbox.
    Claimed,
    /// It belongs to a sandbox and its vCPUs are stopped.
    Paused,
    /// It is being torn down.
    Ending,
}

/// What a sandbox has used since it claimed its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Time since the claim that the guest ran, until its end was decided.
    pub wall_ms: Millis,
    /// Time since the claim that it was paused; an owner process of an older version does not say.
    #[serde(default)]
    pub paused_ms: Millis,
    /// Processor time since the claim.
    pub vcpu_ms: Millis,
    /// Memory held since the claim, over both.
    pub memory_mib_s: MibSeconds,
    /// Network bytes to the guest.
    pub rx_bytes: Bytes,
    /// Network bytes from the guest.
    pub tx_bytes: Bytes,
}

/// An owner process about itself and its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How far the guest has come.
    pub stage: Stage,
    /// As in the spec.
    pub vm_id: String,
    /// The template, and what exactly it was when the guest was started.
    pub template: TemplateDigests,
    /// The sandbox that claimed it.
    pub sandbox_id: Option<String>,
    /// When it will be ended; null: never.
    pub end_ms: Option<UnixMillis>,
    /// Whether it was booted or restored: `boot` or `snapshot`; null while it starts.
    pub started_from: Option<StartFrom>,
    /// From the start of the owner process, or from the word to start the guest, to the agent's first answer.
    pub answered_after_ms: Option<Millis>,
    /// What the sandbox has used.
    pub usage: Usage,
    /// Host memory of the monitor.
    pub resident_bytes: Bytes,
    /// Process id of the owner.
    pub owner_pid: u32,
    /// Process id of the monitor where it is another process.
    pub monitor_pid: Option<u32>,
}

/// Gives an idle guest to a sandbox.
#[derive(Serialize, Deserialize)]
pub struct Claim {
    /// The sandbox.
    pub sandbox_id: String,
    /// When the guest is ended if nobody moves that time; null: never.
    #[serde(default)]
    pub end_ms: Option<UnixMillis>,
    /// Host name in the guest: 1 to 63 characters of `[a-z0-9-]`.
    pub hostname: String,
    /// Environment of every command; may as well be given later through the agent.
    #[serde(default)]
    pub envs: BTreeMap<String, String>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({}, {} environment variables)", self.sandbox_id, self.envs.len())
    }
}

/// What a claimed guest has made fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// Its boot id.
    pub boot_id: String,
    /// Its machine id.
    pub machine_id: String,
    /// Its agent's identity: 64 hexadecimal digits.
    pub instance: String,
}

/// Moves the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEnd {
    /// The new one; one that has passed ends the guest at once; null: never.
    pub end_ms: Option<UnixMillis>,
}

/// Ends the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Why; one of those that a caller may give: `killed`, `host_stopped`, `host_cut_off`, `not_needed`.
    #[serde(default)]
    pub reason: EndReason,
}

/// Why a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its sandbox was to be ended.
    #[default]
    Killed,
    /// The host stops.
    HostStopped,
    /// The pool has too many.
    NotNeeded,
    /// Its time was up.
    EndTime,
    /// It ended by itself: its kernel panicked, or a user shut it down.
    GuestExited,
    /// Its agent hung up.
    AgentLost,
    /// It did not come to life.
    StartFailed,
    /// It was booted for a snapshot, and that was made.
    Snapshotted,
    /// It broke a rule of one of its devices.
    RuleBroken,
    /// The host's kernel could not run it any further.
    MonitorFailed,
    /// The host's interface that its network device led to was removed.
    NetworkLost,
    /// The host was cut off from the log for too long, or no worker was connected for as long as one may be away.
    HostCutOff,
}

impl EndReason {
    /// Whether a caller may give this reason; the others are the owner's own observations.
    pub fn is_for_callers(self) -> bool {
        matches!(self, Self::Killed | Self::HostStopped | Self::NotNeeded | Self::HostCutOff)
    }

    /// Whether something broke that should not have: the exit code of its owner is not 0 then, and standard error says what it was.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::StartFailed | Self::RuleBroken | Self::MonitorFailed | Self::NetworkLost)
    }
}

/// A template snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshotted {
    /// Its key: a directory of this name below the template's `snapshot` directory.
    pub key: String,
    /// Length of its memory file.
    pub bytes: Bytes,
}

/// All that is left of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// Why it ended.
    pub reason: EndReason,
    /// When it had been torn down.
    pub ended_at_ms: UnixMillis,
    /// What its sandbox used; zeros for one that was never claimed.
    #[serde(flatten)]
    pub usage: Usage,
}
