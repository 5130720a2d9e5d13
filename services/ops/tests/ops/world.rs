//! A world with a data directory, a log in memory with some history, and the command line.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use omnirun_events::account::AccountOpened;
use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::event::Event;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append, Batch, Cursor, Entry, Page, Read, ReadError, Stored, Tail, read_to_end};
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKey, DataKeyLabel};
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::token::{Scope, TokenCreated, TokenKind, TokenVerifier};
use omnirun_events::unit::{Mebibytes, Seconds, Shape, StandardMillis, Timestamp, Vcpus};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{AccountId, CommitId, SandboxId, Sequence, TokenId, codec};
use omnirun_ops::Opened;
use omnirun_ops::{Context, Exit, Identity, OpsArgs, OpsServer, View, identity, run};
use omnirun_projections::{Directory, Fold, Usage};
use omnirun_runner::{Checkpoints, Follower, Live, Source, follow};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A wait that is a failure when it is over.
const LIMIT: Duration = Duration::from_secs(20);

pub async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, wait).await.expect("it takes milliseconds")
}

pub fn account() -> AccountId {
    AccountId::from_bytes([1; 16])
}

pub fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_bytes([n; 16])
}

/// The command line as `services/main.rs` has it.
#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    role: Roles,
}

#[derive(Subcommand)]
enum Roles {
    Ops(OpsArgs),
}

/// What is done to a stored record on its way to the reader.
#[derive(Clone)]
enum Damage {
    Change(Log, Sequence, fn(&mut [u8])),
    Remove(Log, Sequence),
    Unreachable,
    Taken,
}

pub struct World {
    data: TempDir,
    pub log: MemoryLog,
    damage: Mutex<Option<Damage>>,
}

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics in it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no test panics in it").clone()).expect("plain text")
    }
}

impl World {
    pub fn new() -> Self {
        let data = TempDir::new().expect("a temporary directory");
        Self { data, log: MemoryLog::default(), damage: Mutex::default() }
    }

    /// Keys, an account, a token, and a sandbox that was claimed, started and metered once: six records of EVENTS, one of usage.
    pub async fn with_history() -> Self {
        let world = Self::new();
        assert_eq!(world.ops(&["init"]).await.0, Exit::Good);
        let subject = SubjectKind::Account(account());
        let email = DataKey::from_bytes([1; 32]).seal(
            DataKeyLabel::Account,
            [2; 24],
            &subject.into(),
            "email",
            b"someone@example.org",
        );
        let opened = AccountOpened { email, plan: "free".to_owned() };
        world.append_as(Role::Commands, subject, vec![opened.into()]).await;
        world.append_token(1).await;
        let requested = SandboxRequested {
            sandbox: sandbox(1),
            template: "base".to_owned(),
            shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(256) },
            timeout: Seconds(60),
            reserved: StandardMillis(60_000),
            deadline: Timestamp(60_000),
            network: Network::Off,
            metadata: None,
        };
        world.append_as(Role::Commands, SubjectKind::Admission(account()), vec![requested.into()]).await;
        let host = world.identity().worker.0;
        let subject = SubjectKind::Sandbox(account(), sandbox(1));
        world.append_as(Role::Worker, subject, vec![SandboxClaimed { host }.into()]).await;
        let started = SandboxStarted {
            started_at: Timestamp(2),
            end_at: Timestamp(60_002),
            from: StartedFrom::Pool,
            root: omnirun_events::keys::Digest([3; 32]),
            kernel: omnirun_events::keys::Digest([4; 32]),
        };
        world.append_as(Role::Worker, subject, vec![started.into()]).await;
        let slot = Slot::from_index(0).expect("there are fourteen");
        let metered = UsageMetered { period: 1, observed_at: Timestamp(3), meter: Meter::default() };
        let usage = SubjectKind::Usage(slot, account(), sandbox(1));
        world.append_as(Role::Worker, usage, vec![metered.into()]).await;
        world
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn identity(&self) -> Identity {
        identity::load(self.data()).expect("init made it")
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::in_directory(self.data().join("checkpoints"))
    }

    pub fn reader(&self) -> Arc<dyn Read> {
        Arc::new(Damaged { log: self.log.clone(), damage: self.damage.lock().expect("no panic").clone() })
    }

    pub async fn events(&self) -> Vec<Stored> {
        read_to_end(&self.log, Log::Events, Filter::all(), Sequence::NONE).await.expect("memory is up")
    }

    pub async fn append_as(&self, role: Role, subject: SubjectKind, events: Vec<Event>) {
        let identity = self.identity();
        let subject = Subject::from(subject);
        let head = match self.log.last(&subject).await.expect("memory is up") {
            Some(stored) => codec::decode(&stored.record).expect("it was encoded").head(stored.sequence),
            None => Head::EMPTY,
        };
        let (signer, actor) = match role {
            Role::Worker => (&identity.worker.1, Actor::Host(identity.worker.0)),
            _ => (&identity.commands, Actor::Account(account())),
        };
        let commit = CommitId::derive(format!("{subject}{}", head.version).as_bytes(), "test");
        let draft = Draft { commit, subject: subject.clone(), at: Timestamp(1), actor, cause: None, events };
        let record = signer.sign(&draft, &head).expect("it is small").bytes;
        let entry = Entry { subject, expected: head.sequence, commit, record };
        self.log.append_all(Batch::one(entry)).await.expect("one writer");
    }

    pub async fn append_token(&self, n: u8) {
        let token = TokenId::from_bytes([n; 16]);
        let created = TokenCreated {
            token,
            kind: TokenKind::Api,
            verifier: TokenVerifier([n; 32]),
            name: None,
            scopes: vec![Scope::SandboxRead],
            hint: "abcdef".to_owned(),
            expires_at: None,
        };
        self.append_as(Role::Commands, SubjectKind::Token(account(), token), vec![created.into()]).await;
    }

    pub fn tampered(&self, log: Log, at: Sequence, change: fn(&mut [u8])) {
        *self.damage.lock().expect("no panic") = Some(Damage::Change(log, at, change));
    }

    pub fn removed(&self, log: Log, at: Sequence) {
        *self.damage.lock().expect("no panic") = Some(Damage::Remove(log, at));
    }

    pub fn unreachable(&self) {
        *self.damage.lock().expect("no panic") = Some(Damage::Unreachable);
    }

    /// From here on the store cannot be opened directly.
    pub fn store_is_taken(&self) {
        *self.damage.lock().expect("no panic") = Some(Damage::Taken);
    }

    /// Runs `omnirun ops …`: exit, output, errors.
    pub async fn ops(&self, words: &[&str]) -> (Exit, String, String) {
        let data = self.data().to_str().expect("a temporary path is text");
        let line = ["omnirun", "ops", "--data", data].into_iter().chain(words.iter().copied());
        let Roles::Ops(args) = Line::try_parse_from(line).expect("well formed").role;
        let (out, errors) = (Printed::default(), Printed::default());
        let (reader, log) = (self.reader(), self.log.clone());
        let is_taken = matches!(*self.damage.lock().expect("no panic"), Some(Damage::Taken));
        let context = Context {
            running: omnirun_ops::Running::Holder,
            open: Box::new(move |_| {
                Box::pin(async move {
                    anyhow::ensure!(!is_taken, "another process has the store");
                    Ok(Opened { read: reader, append: Arc::new(log) })
                })
            }),
            connect: Box::new(|_| Box::pin(async { anyhow::bail!("nothing runs") })),
            make_more: Box::new(|_| Ok(())),
            checkpoints: Some(self.data().join("checkpoints")),
            clock: Arc::new(|| Timestamp(1)),
            out: Box::new(out.clone()),
            errors: Box::new(errors.clone()),
        };
        let exit = within(run(args, context)).await;
        (exit, out.text(), errors.text())
    }

    pub async fn verify(&self) -> (Exit, String, String) {
        self.ops(&["verify", "--root-key", &self.identity().root.to_string()]).await
    }

    /// What `omnirun up` does for operators.
    pub async fn start(&self) -> Running {
        let root = self.identity().root;
        let directory = follow::<Directory>(self.reader(), root, Source::Events, None).await;
        let usage = follow::<Usage>(self.reader(), root, Source::EventsAndUsage, None).await;
        let (directory, usage) = (directory.expect("whole"), usage.expect("whole"));
        self.caught_up(&directory.live()).await;
        self.caught_up(&usage.live()).await;
        let views: Vec<Arc<dyn View>> = vec![Arc::new(directory.live()), Arc::new(usage.live())];
        let server = OpsServer::bind(self.data(), self.reader(), views).expect("a short path");
        Running { directory, usage, server: tokio::spawn(server.serve()) }
    }

    pub async fn caught_up<F: Fold>(&self, live: &Live<F>) {
        let head = self.log.head(Log::Events).await.expect("memory is up");
        live.reached(head, LIMIT).await.expect("the history is honest");
    }
}

pub struct Running {
    pub directory: Follower<Directory>,
    usage: Follower<Usage>,
    server: JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.server.abort();
        drop(self.server.await);
        self.directory.stop().await;
        self.usage.stop().await;
    }
}

/// A reader that hands out what a damaged store would.
struct Damaged {
    log: MemoryLog,
    damage: Option<Damage>,
}

#[async_trait]
impl Read for Damaged {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        let cursor = self.log.read(log, filter, after).await?;
        Ok(Box::new(DamagedCursor { log, cursor, damage: self.damage.clone() }))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        match self.damage {
            Some(Damage::Unreachable) => Err(ReadError::Unavailable { log, source: "nobody listens".into() }),
            _ => self.log.head(log).await,
        }
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.log.last(subject).await
    }
}

struct DamagedCursor {
    log: Log,
    cursor: Box<dyn Cursor>,
    damage: Option<Damage>,
}

#[async_trait]
impl Cursor for DamagedCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        let mut page = self.cursor.next(limit, tail).await?;
        match &self.damage {
            Some(Damage::Change(log, at, change)) if *log == self.log => {
                for stored in page.records.iter_mut().filter(|stored| stored.sequence == *at) {
                    let mut record = stored.record.to_vec();
                    change(&mut record);
                    stored.record = Bytes::from(record);
                }
            }
            Some(Damage::Remove(log, at)) if *log == self.log => {
                page.records.retain(|stored| stored.sequence != *at);
            }
            _ => {}
        }
        Ok(page)
    }
}
