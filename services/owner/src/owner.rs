//! What an owner process knows about its guest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use omnirun_vmm_api::{
    Guest, Monitor, Purpose, SnapshotFiles, Stats, TemplateDigests, UnixMillis, VmSpec,
    monitor::MonitorError,
    owner::{Claimed, EndReason, Final, OwnerSpec, Stage, StartFrom, StartWhen, Status, Usage},
    unit::{Bytes, Millis},
};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot, watch};

use crate::{
    agent::Agent,
    clock,
    outside::Outside,
    stopwatch::{Lap, Stopwatch},
    voice::Voice,
};

/// A guest that several requests may touch, one at a time, on threads that may block.
pub type SharedGuest = Arc<Mutex<Box<dyn Guest>>>;

/// The sandbox that has the guest.
#[derive(Clone)]
pub struct Tenancy {
    pub sandbox_id: String,
    pub claimed: Claimed,
    /// How long it has run.
    pub watch: Stopwatch,
    /// What the guest had used before it was claimed.
    pub before: Stats,
}

/// A wish to end the guest, and whom to tell when it is done.
pub struct Ending {
    pub reason: EndReason,
    pub tell: Option<oneshot::Sender<Final>>,
}

/// What changes while the guest lives.
pub struct Life {
    pub stage: Stage,
    /// The snapshot to start from, or the empty files of the one to be made.
    pub snapshot: Option<SnapshotFiles>,
    pub started_from: Option<StartFrom>,
    pub answered_after: Option<Millis>,
    pub guest: Option<SharedGuest>,
    pub agent: Option<Agent>,
    pub tenancy: Option<Tenancy>,
}

/// The owner of one guest.
pub struct Owner {
    pub spec: OwnerSpec,
    /// What the guest is made of.
    pub vm: VmSpec,
    pub template: TemplateDigests,
    /// The name of the snapshot that fits.
    pub snapshot_key: String,
    /// This process, as the host counts.
    pub pid: u32,
    pub outside: Outside,
    pub voice: Voice,
    pub monitor: Arc<dyn Monitor>,
    pub started: clock::Started,
    /// Held by a request that changes the stage, so that two cannot mix.
    pub changing: AsyncMutex<()>,
    /// Held by the thread that starts a guest, until the guest is in [`Life`].
    pub starting: Arc<Semaphore>,
    /// Whether a guest that waits for a word to start has got it.
    pub told: watch::Sender<bool>,
    /// Whether a guest runs, or has run.
    pub runs: watch::Sender<bool>,
    /// Connections to the socket: the worker's, while there is one.
    pub sessions: watch::Sender<usize>,
    pub end: watch::Sender<Option<UnixMillis>>,
    pub ending: tokio::sync::mpsc::Sender<Ending>,
    pub endings: AsyncMutex<tokio::sync::mpsc::Receiver<Ending>>,
    life: Mutex<Life>,
}

/// What an owner is made of, before it has its place.
pub struct Prepared {
    pub spec: OwnerSpec,
    pub vm: VmSpec,
    pub template: TemplateDigests,
    pub snapshot_key: String,
    pub snapshot: Option<SnapshotFiles>,
    pub monitor: Box<dyn Monitor>,
    pub started: clock::Started,
}

/// A spec says something impossible.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The guest's name.
    #[error("vm_id is not 1 to 64 letters, digits, '_' and '-'")]
    VmId,
    /// The shape.
    #[error("a guest has 1 to 32 vCPUs and 128 to 65536 MiB of memory")]
    Shape,
    /// A path.
    #[error("store and state_dir are absolute paths")]
    Path,
    /// A network where there can be none.
    #[error("a guest with a network is booted, and no template: leave the network out, or the snapshot")]
    Network,
    /// Its address.
    #[error("a guest's network address is one device's, not a group's and not all zeros")]
    Mac,
}

/// Checks what a type cannot.
pub fn check(spec: &OwnerSpec) -> Result<(), SpecError> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if spec.vm_id.is_empty() || spec.vm_id.len() > 64 || !spec.vm_id.bytes().all(is_plain) {
        return Err(SpecError::VmId);
    }
    if !(1..=32).contains(&spec.vcpus.0) || !(128..=65_536).contains(&spec.memory.0) {
        return Err(SpecError::Shape);
    }
    if !spec.store.is_absolute() || !spec.state_dir.is_absolute() {
        return Err(SpecError::Path);
    }
    let Some(network) = &spec.network else { return Ok(()) };
    if spec.purpose == Purpose::Snapshot || spec.start_from == StartFrom::Snapshot {
        return Err(SpecError::Network);
    }
    if network.mac.is_of_one() { Ok(()) } else { Err(SpecError::Mac) }
}

impl Owner {
    pub fn new(prepared: Prepared, pid: u32, outside: Outside, voice: Voice) -> Self {
        let Prepared { spec, vm, template, snapshot_key, snapshot, monitor, started } = prepared;
        let (ending, endings) = tokio::sync::mpsc::channel(16);
        let stage = match spec.start_when {
            StartWhen::Now => Stage::Starting,
            StartWhen::Told => Stage::Spare,
        };
        Self {
            spec,
            vm,
            template,
            snapshot_key,
            pid,
            outside,
            voice,
            monitor: monitor.into(),
            started,
            changing: AsyncMutex::new(()),
            starting: Arc::new(Semaphore::new(1)),
            told: watch::Sender::new(false),
            runs: watch::Sender::new(false),
            sessions: watch::Sender::new(0),
            end: watch::Sender::new(None),
            ending,
            endings: AsyncMutex::new(endings),
            life: Mutex::new(Life {
                stage,
                snapshot,
                started_from: None,
                answered_after: None,
                guest: None,
                agent: None,
                tenancy: None,
            }),
        }
    }

    /// What changes. Never held across a wait.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that blocks with the guest; `None` when there is no guest.
    pub async fn with_guest<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Guest) -> Result<T, MonitorError> + Send + 'static,
    ) -> Option<Result<T, MonitorError>> {
        let guest = self.life().guest.clone()?;
        let done = tokio::task::spawn_blocking(move || {
            let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut **guest)
        });
        done.await.ok()
    }

    /// What the guest has used so far; zeros when it cannot be counted.
    pub async fn stats(&self) -> Stats {
        self.with_guest(|guest| guest.stats()).await.and_then(Result::ok).unwrap_or_default()
    }

    /// What the sandbox has used, the guest having used `now` in all.
    pub fn usage(&self, now: &Stats) -> Usage {
        let Some(tenancy) = self.life().tenancy.clone() else { return Usage::default() };
        let Lap { ran, paused } = tenancy.watch.lap(Instant::now());
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Usage {
            wall_ms: ran.into(),
            paused_ms: paused.into(),
            vcpu_ms: Millis(less(now.vcpu.0, tenancy.before.vcpu.0)),
            memory_mib_s: self.spec.memory.held_for((ran + paused).into()),
            rx_bytes: Bytes(less(now.rx.0, tenancy.before.rx.0)),
            tx_bytes: Bytes(less(now.tx.0, tenancy.before.tx.0)),
        }
    }

    /// Everything about itself.
    pub async fn status(&self) -> Status {
        let stats = self.stats().await;
        let usage = self.usage(&stats);
        let monitor_pid =
            self.with_guest(|guest| Ok(guest.process_id())).await.and_then(Result::ok).flatten();
        let life = self.life();
        Status {
            stage: life.stage,
            vm_id: self.spec.vm_id.clone(),
            template: self.template.clone(),
            sandbox_id: life.tenancy.as_ref().map(|tenancy| tenancy.sandbox_id.clone()),
            end_ms: *self.end.borrow(),
            started_from: life.started_from,
            answered_after_ms: life.answered_after,
            usage,
            resident_bytes: stats.resident,
            owner_pid: self.pid,
            monitor_pid,
        }
    }
}
