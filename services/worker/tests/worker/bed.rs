//! A log with its keys, a directory that follows it, and workers on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use omnirun_events::codec;
use omnirun_events::envelope::{Draft, Head};
use omnirun_events::event::Event;
use omnirun_events::host::{CUT_OFF_AFTER, HostLost};
use omnirun_events::id::{AccountId, CommitId, HostId, SandboxId};
use omnirun_events::keys::KeyEnrolled;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append, AppendError, Batch, Entry, Read, Sequence, read_to_end};
use omnirun_events::sandbox::{
    Network, PauseRequested, SandboxClaimed, SandboxRequested, SandboxResumed, StopRequested, TimeoutExtended,
};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::{Mebibytes, Millis, Seconds, Shape, StandardMillis, Timestamp, Vcpus};
use omnirun_events::{Actor, Role};
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::{Sandbox, State};
use omnirun_runner::{Follower, Live, Source, follow};
use omnirun_vmm_api::MonitorChoice;
use omnirun_worker::{Config, Offer, Parts, Stores, Worker, WorkerHandle};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The shape of every sandbox here.
pub const SHAPE: Shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(256) };

pub fn account() -> AccountId {
    AccountId::from_bytes([1; 16])
}

pub fn host(number: u8) -> HostId {
    HostId::from_bytes([number; 16])
}

pub fn sandbox(number: u8) -> SandboxId {
    SandboxId::from_bytes([number; 16])
}

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_millis() as u64)
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// A program among this package's examples, which cargo builds before it runs the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a file");
    let built = test.ancestors().nth(2).expect("target/release/deps").join("examples").join(name);
    assert!(built.exists(), "{name} is missing: cargo test builds it, or cargo build --examples");
    built
}

/// The log, which can be cut off.
#[derive(Clone)]
pub struct Cuttable {
    log: MemoryLog,
    is_cut: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
}

#[async_trait]
impl Append for Cuttable {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        if self.is_cut.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(AppendError::Unknown { log: batch.log(), source: "it is cut off".into() });
        }
        self.log.append_all(batch).await
    }
}

pub struct Bed {
    pub log: MemoryLog,
    pub store: Cuttable,
    pub gateway: Signer,
    commands: Signer,
    follower: Follower<Directory>,
    directory: tempfile::TempDir,
}

pub fn worker_key(number: u8) -> Signer {
    Signer::from_seed(&[100 + number; 32], Role::Worker)
}

fn root() -> Signer {
    Signer::from_seed(&[9; 32], Role::Root)
}

impl Bed {
    /// A log with enrolled keys: commands, a gateway, and the workers of hosts 1 and 2.
    pub async fn new() -> Self {
        let log = MemoryLog::default();
        let commands = Signer::from_seed(&[10; 32], Role::Commands);
        let gateway = Signer::from_seed(&[11; 32], Role::Gateway);
        let store = Cuttable { log: log.clone(), is_cut: Arc::default(), refused: Arc::default() };
        let follower =
            follow(Arc::new(log.clone()), root().public(), Source::Events, None).await.expect("an empty log");
        let bed = Self {
            log,
            store,
            gateway,
            commands,
            follower,
            directory: tempfile::tempdir().expect("a place"),
        };
        let keys = [
            (Role::Commands, &bed.commands, None),
            (Role::Gateway, &bed.gateway, None),
            (Role::Worker, &worker_key(1), Some(host(1))),
            (Role::Worker, &worker_key(2), Some(host(2))),
        ];
        for (role, signer, host) in keys {
            bed.enrol(role, signer, host).await;
        }
        bed
    }

    async fn enrol(&self, role: Role, signer: &Signer, host: Option<HostId>) {
        let enrolled = KeyEnrolled { key: signer.id(), public: signer.public(), role, host };
        self.append(&root(), Actor::Operator, SubjectKind::KeyRing, enrolled).await;
    }

    /// The pinned root key.
    pub fn root(&self) -> omnirun_events::keys::Digest {
        root().public()
    }

    /// Enrols the worker of a host that is not enrolled from the start.
    pub async fn enrol_worker(&self, number: u8) {
        self.enrol(Role::Worker, &worker_key(number), Some(host(number))).await;
    }

    async fn append(&self, signer: &Signer, actor: Actor, kind: SubjectKind, event: impl Into<Event>) {
        let subject = Subject::from(kind);
        let commit = CommitId::from_bytes(random());
        let draft = Draft {
            commit,
            subject: subject.clone(),
            at: now(),
            actor,
            cause: None,
            events: vec![event.into()],
        };
        loop {
            let last = self.log.last(&subject).await.expect("memory");
            let head = last.map_or(Head::EMPTY, |stored| {
                codec::decode(&stored.record).expect("a record").head(stored.sequence)
            });
            let record = signer.sign(&draft, &head).expect("a small draft").bytes;
            let entry = Entry { subject: subject.clone(), expected: head.sequence, commit, record };
            match self.log.append_all(Batch::one(entry)).await {
                Ok(_) => return,
                Err(AppendError::Conflict { .. }) => {}
                Err(error) => panic!("memory: {error}"),
            }
        }
    }

    async fn say(&self, kind: SubjectKind, event: impl Into<Event>) {
        self.append(&self.commands, Actor::Account(account()), kind, event).await;
    }

    pub async fn request(&self, id: SandboxId, template: &str, timeout: Seconds) {
        let requested = SandboxRequested {
            sandbox: id,
            template: template.to_owned(),
            shape: SHAPE,
            timeout,
            reserved: StandardMillis(1),
            deadline: now().after(Millis(60_000)),
            network: Network::Off,
            metadata: None,
        };
        self.say(SubjectKind::Admission(account()), requested).await;
    }

    pub async fn request_stop(&self, id: SandboxId) {
        self.say(SubjectKind::Sandbox(account(), id), StopRequested {}).await;
    }

    pub async fn extend(&self, id: SandboxId, end_at: Timestamp) {
        let extended = TimeoutExtended { sandbox: id, end_at, reserved: StandardMillis(1) };
        self.say(SubjectKind::Admission(account()), extended).await;
    }

    pub async fn request_pause(&self, id: SandboxId) {
        self.say(SubjectKind::Sandbox(account(), id), PauseRequested {}).await;
    }

    pub async fn resume(&self, id: SandboxId, end_at: Timestamp) {
        let resumed = SandboxResumed { sandbox: id, end_at, reserved: StandardMillis(1) };
        self.say(SubjectKind::Admission(account()), resumed).await;
    }

    /// Gives up a host, without a word on its sandboxes.
    pub async fn lose(&self, number: u8, by: Actor) {
        let lost = HostLost { operator: "o".to_owned(), reason: "r".to_owned() };
        self.append(&self.commands, by, SubjectKind::Host(host(number)), lost).await;
    }

    /// Claims a sandbox as a host's worker that crashed right after.
    pub async fn claim(&self, number: u8, id: SandboxId) {
        let (kind, event) = (SubjectKind::Sandbox(account(), id), SandboxClaimed { host: host(number) });
        self.append(&worker_key(number), Actor::Host(host(number)), kind, event).await;
    }

    /// Cuts the workers off from appending, or heals it.
    pub fn cut(&self, is_cut: bool) {
        self.store.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// Waits until an append was refused.
    pub async fn refused(&self) {
        wait("an append to be refused", || self.store.refused.load(Ordering::SeqCst) > 0).await;
    }

    pub fn live(&self) -> Live<Directory> {
        self.follower.live()
    }

    /// Waits until the sandbox is in a state that `wanted` takes.
    #[track_caller]
    pub fn until<W: Fn(&Sandbox) -> bool>(
        &self,
        id: SandboxId,
        wanted: W,
    ) -> impl Future<Output = Sandbox> + use<W> {
        let (live, caller) = (self.live(), std::panic::Location::caller());
        async move {
            let found =
                live.until(PATIENCE, |directory| directory.sandboxes.get(id).filter(|s| wanted(s)).cloned());
            let found = found.await;
            let state = live.view(|directory, _| directory.sandboxes.get(id).map(|s| s.state));
            found.unwrap_or_else(|error| panic!("{caller}: {error}; the sandbox is {state:?}"))
        }
    }

    pub async fn running(&self, id: SandboxId) -> Sandbox {
        self.until(id, |sandbox| sandbox.state == State::Running).await
    }

    pub async fn ended(&self, id: SandboxId) -> Sandbox {
        self.until(id, |sandbox| sandbox.state.is_final()).await
    }

    /// Every event about a sandbox on its own subject, in order.
    pub async fn history(&self, id: SandboxId) -> Vec<Event> {
        let subject = Subject::from(SubjectKind::Sandbox(account(), id));
        self.events(Log::Events, &subject).await
    }

    /// Every meter reading of a sandbox.
    pub async fn readings(&self, id: SandboxId) -> Vec<Event> {
        let slot = Slot::of(now());
        self.events(Log::Usage(slot), &SubjectKind::Usage(slot, account(), id).into()).await
    }

    async fn events(&self, log: Log, subject: &Subject) -> Vec<Event> {
        let records =
            read_to_end(&self.log, log, Filter::exactly(subject), Sequence::NONE).await.expect("memory");
        records.iter().flat_map(|stored| codec::decode(&stored.record).expect("a record").events).collect()
    }

    /// The state directory of a host.
    pub fn state(&self, number: u8) -> PathBuf {
        self.directory.path().join(format!("s{number}"))
    }

    /// A template store with descriptions and nothing else, for owner processes without guests.
    pub fn images(&self) -> PathBuf {
        let images = self.directory.path().join("images");
        for name in ["base", "broken"] {
            let directory = images.join("templates").join(name);
            std::fs::create_dir_all(&directory).expect("writable");
            let digest = "0a".repeat(32);
            let text = format!(
                r#"{{"name":"{name}","kernel":"{digest}","initramfs":"{digest}","root":"{digest}"}}"#
            );
            std::fs::write(directory.join("template.json"), text).expect("writable");
        }
        images
    }

    /// The parts of a worker whose owner processes have no guests.
    pub fn parts(&self, number: u8) -> Parts {
        self.parts_with(number, &example("fake_owner"), &self.images(), &["base", "broken"])
    }

    pub fn parts_with(&self, number: u8, executable: &Path, images: &Path, templates: &[&str]) -> Parts {
        let offer = |name: &&str| Offer { template: (*name).to_owned(), pool: 0 };
        Parts {
            stores: Stores {
                read: Arc::new(self.log.clone()),
                append: Arc::new(self.store.clone()),
                queue: Arc::new(self.log.clone()),
            },
            directory: self.live(),
            signer: worker_key(number),
            host: host(number),
            outbox_dir: self.directory.path().join(format!("o{number}")),
            images_dir: images.to_owned(),
            state_dir: self.state(number),
            executable: executable.to_owned(),
            clock: Arc::new(now),
            config: Config {
                listen: ([127, 0, 0, 1], 0).into(),
                advertised: None,
                sandboxes_max: 64,
                vcpus_max: Vcpus(4),
                memory_max: Mebibytes(2048),
                default_shape: SHAPE,
                monitor: MonitorChoice::Auto,
                monitor_name: "test".to_owned(),
                templates: templates.iter().map(offer).collect(),
                meter_every: Millis(200),
                cut_off_after: CUT_OFF_AFTER,
            },
        }
    }

    pub async fn worker(&self, number: u8) -> WorkerHandle {
        Worker::start(self.parts(number)).await.expect("a good host")
    }

    /// Waits until a host has no trace of a guest on its disk.
    pub async fn nothing_left(&self, number: u8) {
        let left = || {
            ["guests", "sandboxes"].iter().flat_map(|name| names(&self.state(number).join(name))).collect()
        };
        wait("traces to be gone", || {
            let left: Vec<PathBuf> = left();
            left.is_empty()
        })
        .await;
    }
}

pub fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Waits for something that announces itself to nobody.
#[track_caller]
pub fn wait(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let look = async move {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    async move {
        let found = tokio::time::timeout(PATIENCE, look).await;
        found.unwrap_or_else(|_| panic!("{caller}: waited for {what}"));
    }
}

/// How many of these events are of a kind.
pub fn count(events: &[Event], is_it: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| is_it(event)).count()
}
