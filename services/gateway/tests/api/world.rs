//! Everything around a gateway: the log with its keys, accounts and sandboxes made by appending what the services would append.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use omnirun_billing::{Billing, Plans};
use omnirun_events::account::AccountOpened;
use omnirun_events::billing::{StatementClosed, StatementLine};
use omnirun_events::envelope::{Draft, Head, Role};
use omnirun_events::host::HostJoined;
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append, Batch, Entry, Position};
use omnirun_events::sandbox::*;
use omnirun_events::signing::Signer;
use omnirun_events::token::{RevokeReason, Scope, TokenCreated, TokenKind, TokenRevoked};
use omnirun_events::unit::{Mebibytes, Millis, Seconds, Shape, StandardMillis, Vcpus};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use omnirun_gateway::config::Config;
use omnirun_gateway::token::{Prefix, TokenText};
use omnirun_gateway::{Gateway, Mailbox, Parts, ShownMail};
use omnirun_projections::{Directory, Usage};
use omnirun_runner::{Follower, Live, Source, Status, follow};

use crate::cable::Cable;
pub use crate::double::{Double, Fate, seal};
use crate::worker::{Worker, now};

pub const HOST: HostId = HostId::from_bytes([3; 16]);

/// Appends signed records, one after the other.
pub struct Writer {
    log: MemoryLog,
    root: Signer,
    commands: Signer,
    worker: Signer,
    heads: tokio::sync::Mutex<HashMap<Subject, Head>>,
    ids: AtomicU64,
}

impl Writer {
    /// A number that was not used before, as bytes of an id.
    pub fn fresh(&self) -> [u8; 16] {
        let mut bytes = [9; 16];
        bytes[..8].copy_from_slice(&self.ids.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        bytes
    }

    pub async fn append(&self, role: Role, kind: SubjectKind, events: Vec<Event>) -> Position {
        let (signer, actor) = match role {
            Role::Root => (&self.root, Actor::Operator),
            Role::Worker => (&self.worker, Actor::Host(HOST)),
            _ => (&self.commands, Actor::System(Role::Commands)),
        };
        let (subject, commit) = (Subject::from(kind), CommitId::from_bytes(self.fresh()));
        let mut heads = self.heads.lock().await;
        let head = heads.get(&subject).copied().unwrap_or(Head::EMPTY);
        let draft = Draft { commit, subject: subject.clone(), at: now(), actor, cause: None, events };
        let signed = signer.sign(&draft, &head).expect("small");
        let entry = Entry { subject: subject.clone(), expected: head.sequence, commit, record: signed.bytes };
        let sequence = self.log.append_all(Batch::one(entry)).await.expect("one writer")[0];
        heads.insert(subject, Head { sequence, version: signed.version, hash: signed.hash });
        Position { log: kind.log(), sequence }
    }

    pub async fn request(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        metadata: Option<String>,
    ) -> Position {
        let requested = SandboxRequested {
            sandbox,
            template: "python-3.11".to_owned(),
            shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(512) },
            timeout: Seconds(300),
            reserved: StandardMillis(300_000),
            deadline: now().after(Millis(2_000)),
            network: Network::Off,
            metadata: metadata.map(seal),
        };
        self.append(Role::Commands, SubjectKind::Admission(account), vec![requested.into()]).await
    }

    pub async fn run(&self, account: AccountId, sandbox: SandboxId) -> Position {
        let kind = SubjectKind::Sandbox(account, sandbox);
        self.append(Role::Worker, kind, vec![SandboxClaimed { host: HOST }.into()]).await;
        let digest = Digest([1; 32]);
        let (started_at, end_at) = (now(), now().after(Millis(300_000)));
        let started =
            SandboxStarted { started_at, end_at, from: StartedFrom::Pool, root: digest, kernel: digest };
        self.append(Role::Worker, kind, vec![started.into()]).await
    }

    /// Asks for a pause, and says as its host that it is paused.
    pub async fn pause(&self, account: AccountId, sandbox: SandboxId) -> Position {
        let kind = SubjectKind::Sandbox(account, sandbox);
        let asked = self.append(Role::Commands, kind, vec![PauseRequested {}.into()]).await;
        let (paused_at, end_at) = (now(), now().after(Millis(300_000)));
        let paused = SandboxPaused { paused_at, end_at, meter: Meter::default() };
        self.append(Role::Worker, kind, vec![paused.into()]).await;
        asked
    }

    pub async fn resume(&self, account: AccountId, sandbox: SandboxId) -> Position {
        let (end_at, reserved) = (now().after(Millis(300_000)), StandardMillis(300_000));
        let resumed = SandboxResumed { sandbox, end_at, reserved };
        self.append(Role::Commands, SubjectKind::Admission(account), vec![resumed.into()]).await
    }

    pub async fn stop(&self, account: AccountId, sandbox: SandboxId) -> Position {
        let event = StopRequested {}.into();
        self.append(Role::Commands, SubjectKind::Sandbox(account, sandbox), vec![event]).await
    }
}

/// An in-memory mailer with one mail.
struct OneMail;

impl Mailbox for OneMail {
    fn mails(&self) -> Vec<ShownMail> {
        let text = |text: &str| text.to_owned();
        vec![ShownMail {
            to: text("a@example.org"),
            subject: text("s"),
            text: text("123 456"),
            code: Some(text("123456")),
            at: now(),
        }]
    }
}

pub struct World {
    pub writer: Arc<Writer>,
    pub commands: Arc<Double>,
    pub worker: Worker,
    pub gateway: SocketAddr,
    pub account: AccountId,
    pub directory: Live<Directory>,
    /// Between the gateway and the log.
    pub cable: Cable,
    /// What the gateway's clock is ahead.
    ahead: Arc<AtomicU64>,
    pub usage: Live<Usage>,
    /// The months that a statement was closed for.
    pub billing: Live<Billing>,
    _followers: (Follower<Directory>, Follower<Usage>, Follower<Billing>),
}

impl World {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let log = MemoryLog::default();
        let signer = |byte: u8, role| Signer::from_seed(&[byte; 32], role);
        let (root, gateway_key) = (signer(1, Role::Root), signer(4, Role::Gateway));
        let writer = Arc::new(Writer {
            log: log.clone(),
            root: signer(1, Role::Root),
            commands: signer(2, Role::Commands),
            worker: signer(3, Role::Worker),
            heads: Default::default(),
            ids: AtomicU64::new(1),
        });
        let ring = enrol(&writer, &gateway_key).await;
        let worker = Worker::start(ring).await;
        join(&writer, &worker, worker.certificate).await;
        let cable = Cable::new(log);
        let reader = Arc::new(cable.clone());
        let ahead = Arc::new(AtomicU64::new(0));
        let clock = ahead.clone();
        let directory = follow::<Directory>(reader.clone(), root.public(), Source::Events, None);
        let directory = directory.await.expect("the log is there");
        let usage = follow::<Usage>(reader.clone(), root.public(), Source::EventsAndUsage, None);
        let usage = usage.await.expect("the log is there");
        let billing = follow::<Billing>(reader.clone(), root.public(), Source::EventsAndUsage, None);
        let billing = billing.await.expect("the log is there");
        let account = AccountId::from_bytes(writer.fresh());
        let (fate, asked) = (Mutex::new(Fate::Runs), Mutex::default());
        let commands = Arc::new(Double {
            writer: writer.clone(),
            account,
            fate,
            asked,
            vouching: Default::default(),
            signed_in: Mutex::default(),
        });
        let parts = Parts {
            commands: commands.clone(),
            reader,
            directory: directory.live(),
            usage: usage.live(),
            billing: billing.live(),
            plans: Arc::new(Plans::parse(include_str!("../../../../infra/plans.toml")).expect("valid")),
            signer: gateway_key,
            secret: [7; 32],
            clock: Arc::new(move || now().after(Millis(clock.load(Ordering::SeqCst)))),
            metrics: Some(metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle()),
            mailbox: Some(Arc::new(OneMail)),
            config,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let gateway = listener.local_addr().expect("bound");
        tokio::spawn(Gateway::new(parts).serve(listener, std::future::pending()));
        let live = directory.live();
        let world = Self {
            writer,
            commands,
            worker,
            gateway,
            account,
            directory: live,
            cable,
            ahead,
            usage: usage.live(),
            billing: billing.live(),
            _followers: (directory, usage, billing),
        };
        world.open(account).await;
        let mut changes = world.directory.changes();
        let following = changes.wait_for(|progress| progress.status == Status::Following);
        drop(following.await.expect("the directory follows"));
        world
    }

    pub async fn open(&self, account: AccountId) {
        let opened =
            AccountOpened { email: seal("someone@example.org".to_owned()), plan: "sandbox".to_owned() };
        self.writer.append(Role::Commands, SubjectKind::Account(account), vec![opened.into()]).await;
    }

    /// Lets time pass for the gateway alone.
    pub fn pass(&self, time: Millis) {
        self.ahead.fetch_add(time.0, Ordering::SeqCst);
    }

    /// A credential of `account` that works, and its id.
    pub async fn credential(
        &self,
        account: AccountId,
        kind: TokenKind,
        scopes: &[Scope],
    ) -> (String, TokenId) {
        self.credential_until(account, kind, scopes, None).await
    }

    /// The same, before the gateway has seen it.
    pub async fn credential_unseen(
        &self,
        account: AccountId,
        kind: TokenKind,
        scopes: &[Scope],
    ) -> (String, Position) {
        let (text, _, at) = self.make(account, kind, scopes, None).await;
        (text, at)
    }

    pub async fn credential_until(
        &self,
        account: AccountId,
        kind: TokenKind,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> (String, TokenId) {
        let (text, token, at) = self.make(account, kind, scopes, expires_at).await;
        self.reach(at).await;
        (text, token)
    }

    async fn make(
        &self,
        account: AccountId,
        kind: TokenKind,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> (String, TokenId, Position) {
        let prefix = if kind == TokenKind::Session { Prefix::Session } else { Prefix::Program };
        let (text, token) = (TokenText::generate(prefix), TokenId::from_bytes(self.writer.fresh()));
        let created = TokenCreated {
            token,
            kind,
            verifier: text.verifier(),
            name: None,
            scopes: scopes.to_vec(),
            hint: text.hint(),
            expires_at,
        };
        let at = self
            .writer
            .append(Role::Commands, SubjectKind::Token(account, token), vec![created.into()])
            .await;
        (text.reveal_once(), token, at)
    }

    /// An API token of the world's account with every scope.
    pub async fn token(&self) -> String {
        self.credential(self.account, TokenKind::Api, &Scope::ALL).await.0
    }

    pub async fn revoke(&self, account: AccountId, token: TokenId) {
        let event = TokenRevoked { reason: RevokeReason::ByOwner }.into();
        let at = self.writer.append(Role::Commands, SubjectKind::Token(account, token), vec![event]).await;
        self.reach(at).await;
    }

    /// A running sandbox of the world's account.
    pub async fn sandbox(&self) -> SandboxId {
        self.sandbox_of(self.account).await
    }

    /// A running sandbox of an account.
    pub async fn sandbox_of(&self, account: AccountId) -> SandboxId {
        let sandbox = SandboxId::from_bytes(self.writer.fresh());
        self.writer.request(account, sandbox, None).await;
        let at = self.writer.run(account, sandbox).await;
        self.reach(at).await;
        sandbox
    }

    /// Has a reading of a sandbox of the world's account.
    pub async fn meter(&self, sandbox: SandboxId) {
        let at = now();
        let meter = Meter { wall: Millis(1_000), ..Meter::default() };
        let metered = UsageMetered { period: 1, observed_at: at, meter };
        let kind = SubjectKind::Usage(Slot::of(at), self.account, sandbox);
        self.writer.append(Role::Worker, kind, vec![metered.into()]).await;
        let used = self.usage.until(Duration::from_secs(10), |usage| usage.of(self.account).next().map(drop));
        used.await.expect("the meters follow");
    }

    /// A closed statement of the world's account, once the gateway has it. The month begins at the start of `day`.
    pub async fn close_month(&self, day: Day, amount: u64) -> StatementClosed {
        let statement = StatementClosed {
            start: day.start(),
            end: Day(day.0 + 31).start(),
            plan: "launch".to_owned(),
            price_from: Timestamp(1_767_225_600_000),
            base: MicroCents(amount),
            included: StandardMillis(3_600_000),
            overage_per_second: None,
            lines: vec![StatementLine {
                day,
                shape: Some(Shape { vcpus: Vcpus(1), memory: Mebibytes(512) }),
                sandboxes: 2,
                standard: StandardMillis(61_000),
            }],
            standard: StandardMillis(61_000),
            overage: StandardMillis(0),
            amount: MicroCents(amount),
            carried: Vec::new(),
            seen: Vec::new(),
        };
        let kind = SubjectKind::Billing(self.account);
        let at = self.writer.append(Role::Commands, kind, vec![statement.clone().into()]).await;
        self.billing.reached(at.sequence, Duration::from_secs(10)).await.expect("the ledgers follow");
        statement
    }

    pub async fn reach(&self, at: Position) {
        self.directory.reached(at.sequence, Duration::from_secs(10)).await.expect("the directory follows");
    }
}

pub async fn join(writer: &Writer, worker: &Worker, certificate: Digest) -> Position {
    let joined = HostJoined {
        address: worker.address.to_string(),
        certificate,
        sandboxes_max: 8,
        vcpus_max: Vcpus(2),
        memory_max: Mebibytes(1024),
        monitor: "double".to_owned(),
        templates: Vec::new(),
    };
    writer.append(Role::Worker, SubjectKind::Host(HOST), vec![joined.into()]).await
}

async fn enrol(writer: &Writer, gateway: &Signer) -> KeyRing {
    let mut ring = KeyRing::rooted_in(&writer.root.public()).expect("a derived key is not weak");
    let keys = [
        (&writer.commands, Role::Commands, None),
        (&writer.worker, Role::Worker, Some(HOST)),
        (gateway, Role::Gateway, None),
    ];
    for (signer, role, host) in keys {
        let event = Event::from(KeyEnrolled { key: signer.id(), public: signer.public(), role, host });
        ring.apply(&event, Sequence(1), Timestamp::ZERO).expect("a good key");
        writer.append(Role::Root, SubjectKind::KeyRing, vec![event]).await;
    }
    ring
}

/// Waits until `find` finds something, ten seconds at most.
pub async fn eventually<T>(mut find: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = find() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), look).await.expect("it happens within ten seconds")
}

/// As [`eventually`], for what has to be asked.
pub async fn eventually_async<T>(mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.expect("it happens within twenty seconds")
}
