//! What a worker is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use omnirun_events::id::HostId;
use omnirun_events::log::{Append, Queue, Read};
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Clock, Mebibytes, Millis, Shape, Vcpus};
use omnirun_projections::Directory;
use omnirun_runner::Live;
use omnirun_vmm_api::MonitorChoice;

/// Time between two meter readings of a sandbox, as the architecture promises.
pub const METER_EVERY: Millis = Millis(60_000);

/// The log, as far as a worker may touch it.
#[derive(Clone)]
pub struct Stores {
    /// For the ends of subjects.
    pub read: Arc<dyn Read>,
    /// For the life of its own sandboxes, their meters, and itself.
    pub append: Arc<dyn Append>,
    /// For requests that no host has yet.
    pub queue: Arc<dyn Queue>,
}

/// Everything that a worker needs from outside.
pub struct Parts {
    /// The log.
    pub stores: Stores,
    /// The read model that it decides by; it must be followed by somebody.
    pub directory: Live<Directory>,
    /// Its key, of role Worker, enrolled for [`Self::host`].
    pub signer: Signer,
    /// Which host this is. A reinstalled machine is another host.
    pub host: HostId,
    /// Directory of the outbox; made if missing, used by one worker at a time.
    pub outbox_dir: PathBuf,
    /// The template store, as `scripts/guest-image` makes it. Absolute.
    pub images_dir: PathBuf,
    /// Directory for the guests' state; made if missing. Absolute, and at most 57 bytes long, since
    /// sockets are named below it.
    pub state_dir: PathBuf,
    /// The program that is an owner process when its argument is `vmm`.
    pub executable: PathBuf,
    /// The time.
    pub clock: Clock,
    /// What it offers.
    pub config: Config,
}

/// A template that the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name in the template store.
    pub template: String,
    /// Guests of the default shape that wait for a claim. 0 keeps none.
    pub pool: u32,
}

/// What a host offers and how it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the data path listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `address:port` under which gateways reach it; none where that is the one it listens on.
    pub advertised: Option<String>,
    /// Sandboxes that it runs at once, the pool not counted.
    pub sandboxes_max: u32,
    /// Virtual processors that one guest may have.
    pub vcpus_max: Vcpus,
    /// Memory that one guest may have.
    pub memory_max: Mebibytes,
    /// The shape of pool guests and of snapshots.
    pub default_shape: Shape,
    /// Which monitor.
    pub monitor: MonitorChoice,
    /// Name of the monitor, as HostJoined says it, such as `qemu-tcg`.
    pub monitor_name: String,
    /// The templates it can start.
    pub templates: Vec<Offer>,
    /// Time between two readings of a meter; at least a second. A host keeps it for as long as its sandboxes live, since the numbers
    /// of readings count it.
    pub meter_every: Millis,
    /// How long nothing of what waits may get onto the log before the host ends its sandboxes: [`omnirun_events::host::CUT_OFF_AFTER`].
    pub cut_off_after: Millis,
}
