//! A log in memory, keys that are enrolled on it, and a reader that counts and can be held back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use omnirun_events::account::{AccountClosed, AccountClosing, AccountOpened};
use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::erasure::{Cause, ChainStart, Positions, RecordsErased, Span};
use omnirun_events::event::Event;
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{
    Append as _, Batch, Cursor, Entry, Erase as _, Page, Position, Read, ReadError, Sequence, Stored, Tail,
    read_to_end,
};
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::*;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{AccountId, CommitId, HostId, ReceiptId, SandboxId, codec};
use omnirun_projections::{Directory, Fold, Usage};
use omnirun_runner::{Checkpoints, Follower, Live, Source, follow};
use tempfile::TempDir;
use tokio::sync::watch;

/// A wait that is a failure when it is over.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A wait for something that must not happen.
pub const SHORT: Duration = Duration::from_millis(100);

pub fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n; 16])
}

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_bytes([n; 16])
}

fn host() -> HostId {
    HostId::from_bytes([9; 16])
}

fn signer(role: Role) -> Signer {
    Signer::from_seed(&[role as u8 + 1; 32], role)
}

pub fn root() -> Digest {
    signer(Role::Root).public()
}

/// Milliseconds that were metered for the sandbox of account `n`.
pub fn metered(usage: &Usage, n: u8) -> u64 {
    usage.of(account(n)).map(|(_, usage)| usage.meter.wall.0).sum()
}

pub struct World {
    directory: TempDir,
    pub log: MemoryLog,
    read: Arc<AtomicUsize>,
}

impl World {
    /// A log on which the keys of commands and of one worker are enrolled.
    pub async fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let world = Self { directory, log: MemoryLog::default(), read: Arc::default() };
        let enrol = |role, host| {
            let key = signer(role);
            KeyEnrolled { key: key.id(), public: key.public(), role, host }.into()
        };
        let keys = vec![enrol(Role::Commands, None), enrol(Role::Worker, Some(host()))];
        world.append(Role::Root, SubjectKind::KeyRing, keys).await;
        world
    }

    async fn head_of(&self, subject: &Subject) -> Head {
        let all = read_to_end(&self.log, subject.log(), Filter::exactly(subject), Sequence::NONE).await;
        let all = all.expect("memory is up");
        let Some(last) = all.last() else { return Head::EMPTY };
        // The chain goes on from the last record that is one; the next one is filed after whatever is there.
        let records = all.iter().rev().filter_map(|stored| codec::decode(&stored.record).ok());
        let before = records.map(|record| record.head(last.sequence)).next();
        before.unwrap_or(Head { sequence: last.sequence, ..Head::EMPTY })
    }

    async fn append(&self, role: Role, subject: SubjectKind, events: Vec<Event>) -> Sequence {
        let subject = Subject::from(subject);
        let head = self.head_of(&subject).await;
        let actor = match role {
            Role::Worker => Actor::Host(host()),
            role => Actor::System(role),
        };
        let commit = CommitId::derive(format!("{subject} {}", head.version).as_bytes(), "test");
        let at = Timestamp(1);
        let draft = Draft { commit, subject: subject.clone(), at, actor, cause: None, events };
        let record = signer(role).sign(&draft, &head).expect("it is small").bytes;
        self.put(Entry { subject, expected: head.sequence, commit, record }).await
    }

    async fn put(&self, entry: Entry) -> Sequence {
        self.log.append_all(Batch::one(entry)).await.expect("one writer")[0]
    }

    pub async fn open_account(&self, n: u8) -> Sequence {
        let email = Sealed { key: DataKeyLabel::Account, nonce: [n; 24], text: vec![n; 20] };
        let opened = AccountOpened { email, plan: "free".to_owned() };
        self.append(Role::Commands, SubjectKind::Account(account(n)), vec![opened.into()]).await
    }

    /// The last words of account `n`, before its records go.
    pub async fn close_account(&self, n: u8) -> Sequence {
        let receipt = ReceiptId::from_bytes([0xe0 + n; 16]);
        let events = vec![AccountClosing { receipt }.into(), AccountClosed { receipt }.into()];
        self.append(Role::Commands, SubjectKind::Account(account(n)), events).await
    }

    /// Every record of account `n`, meters first.
    async fn records_of(&self, n: u8) -> Vec<(Log, Vec<Stored>)> {
        let mut found = Vec::new();
        for log in Source::EventsAndUsage.logs().into_iter().rev() {
            let all = read_to_end(&self.log, log, Filter::all(), Sequence::NONE).await.expect("memory is up");
            let its = |stored: &Stored| stored.subject.kind().account() == Some(account(n));
            found.push((log, all.into_iter().filter(its).collect()));
        }
        found
    }

    /// Appends the tombstones for everything that there is of account `n`.
    pub async fn bury_account(&self, n: u8) -> Sequence {
        let cause = Cause::Account { receipt: ReceiptId::from_bytes([0xe0 + n; 16]) };
        let mut last = Sequence::NONE;
        for (log, records) in self.records_of(n).await {
            let positions: Positions = records.iter().map(|stored| stored.sequence).collect();
            for tombstone in RecordsErased::split(cause, log, &positions, &[]) {
                last = self.append(Role::Commands, SubjectKind::Erasure, vec![tombstone.into()]).await;
            }
        }
        last
    }

    /// Removes everything that there is of account `n`.
    pub async fn purge_account(&self, n: u8) {
        for (_, records) in self.records_of(n).await {
            for stored in records {
                self.log.purge_through(&stored.subject, stored.sequence).await.expect("memory is up");
            }
        }
    }

    /// Removes the first record of a subject of account `n`, and nothing says so.
    pub async fn remove_first(&self, n: u8) {
        let subject = Subject::from(SubjectKind::Account(account(n)));
        let all = read_to_end(&self.log, Log::Events, Filter::exactly(&subject), Sequence::NONE).await;
        let first = all.expect("memory is up").remove(0);
        self.log.purge_through(&subject, first.sequence).await.expect("memory is up");
    }

    /// Removes the first record of a subject of account `n`, as retention does, and says where it goes on. It has to have another one.
    pub async fn cut_account(&self, n: u8) -> Sequence {
        let subject = Subject::from(SubjectKind::Account(account(n)));
        let all = read_to_end(&self.log, Log::Events, Filter::exactly(&subject), Sequence::NONE).await;
        let first = all.expect("memory is up").remove(0);
        let head = codec::decode(&first.record).expect("it was encoded").head(first.sequence);
        let tombstone = RecordsErased {
            cause: Cause::Retention,
            log: Log::Events,
            positions: vec![Span(first.sequence, 1)],
            starts: vec![ChainStart(head.version, head.hash)],
        };
        let buried = self.append(Role::Commands, SubjectKind::Erasure, vec![tombstone.into()]).await;
        self.log.purge_through(&subject, first.sequence).await.expect("memory is up");
        buried
    }

    /// A request for the sandbox of account `n`, in one chain with all such requests.
    pub async fn request(&self, n: u8) -> Sequence {
        self.request_on(SubjectKind::Admission(account(0)), n).await
    }

    async fn request_on(&self, subject: SubjectKind, n: u8) -> Sequence {
        let requested = SandboxRequested {
            sandbox: sandbox(n),
            template: "base".to_owned(),
            shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(256) },
            timeout: Seconds(60),
            reserved: StandardMillis(60_000),
            deadline: Timestamp(60_000),
            network: Network::Off,
            metadata: None,
        };
        self.append(Role::Commands, subject, vec![requested.into()]).await
    }

    pub async fn claim_as(&self, role: Role, n: u8) -> Sequence {
        let claimed = SandboxClaimed { host: host() };
        self.append(role, SubjectKind::Sandbox(account(n), sandbox(n)), vec![claimed.into()]).await
    }

    /// A sandbox of account `n` that a host has claimed.
    pub async fn run_sandbox(&self, n: u8) {
        self.request_on(SubjectKind::Admission(account(n)), n).await;
        self.claim_as(Role::Worker, n).await;
    }

    pub async fn meter(&self, n: u8, period: u32, wall: u64) {
        let meter = Meter { wall: Millis(wall), ..Meter::default() };
        let metered = UsageMetered { period, observed_at: Timestamp(wall), meter };
        self.append(Role::Worker, usage_subject(n), vec![metered.into()]).await;
    }

    pub async fn append_garbage(&self, n: u8) -> Sequence {
        self.garbage(SubjectKind::Account(account(n))).await
    }

    pub async fn append_garbage_usage(&self, n: u8) -> Sequence {
        self.garbage(usage_subject(n)).await
    }

    pub async fn append_garbage_sandbox(&self, n: u8) -> Sequence {
        self.garbage(SubjectKind::Sandbox(account(n), sandbox(n))).await
    }

    /// The log, of which the store says that the usage logs are damaged.
    pub fn reader_of_damaged_usage(&self) -> Arc<dyn Read> {
        Arc::new(Damaged(self.log.clone()))
    }

    async fn garbage(&self, subject: SubjectKind) -> Sequence {
        let subject = Subject::from(subject);
        let commit = CommitId::from_bytes([0xee; 16]);
        let expected = self.head_of(&subject).await.sequence;
        self.put(Entry { subject, expected, commit, record: "no record".into() }).await
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::in_directory(self.directory.path())
    }

    /// The one checkpoint of the directory.
    pub fn checkpoint_file(&self) -> PathBuf {
        let mut files = std::fs::read_dir(self.directory.path()).expect("it is ours");
        files.next().expect("one was written").expect("readable").path()
    }

    pub fn reader(&self) -> Arc<dyn Read> {
        Arc::new(self.watched(watch::Sender::new(true)))
    }

    fn watched(&self, is_open: watch::Sender<bool>) -> Watched {
        Watched { log: self.log.clone(), read: self.read.clone(), is_open }
    }

    /// A reader whose records of EVENTS come only once the gate is open.
    pub fn hold_events(&self) -> Gate {
        let is_open = watch::Sender::new(false);
        Gate { reader: Arc::new(self.watched(is_open.clone())), is_open }
    }

    pub fn read_from_here(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    /// Records that any reader of this world has handed out since.
    pub fn records_read_since(&self, before: usize) -> usize {
        self.read.load(Ordering::SeqCst) - before
    }

    pub async fn follow_directory(&self, checkpoints: Option<Checkpoints>) -> Follower<Directory> {
        let follower = follow(self.reader(), root(), Source::Events, checkpoints).await;
        follower.expect("the log is whole")
    }

    pub async fn follow_usage(&self, checkpoints: Option<Checkpoints>) -> Follower<Usage> {
        let follower = follow(self.reader(), root(), Source::EventsAndUsage, checkpoints).await;
        follower.expect("the log is whole")
    }

    /// Waits until a view has reached the end of EVENTS; its digest there.
    pub async fn caught_up<F: Fold>(&self, live: &Live<F>) -> Digest {
        let head = self.log.head(Log::Events).await.expect("memory is up");
        live.reached(head, LIMIT).await.expect("the log is whole");
        let mut changes = live.changes();
        let following = changes.wait_for(|progress| progress.status != omnirun_runner::Status::CatchingUp);
        tokio::time::timeout(LIMIT, following).await.expect("it follows").expect("it lives");
        live.snapshot().digest
    }
}

fn usage_subject(n: u8) -> SubjectKind {
    SubjectKind::Usage(Slot::from_index(4).expect("there are fourteen"), account(n), sandbox(n))
}

struct Damaged(MemoryLog);

#[async_trait]
impl Read for Damaged {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        match log {
            Log::Usage(_) => {
                let at = Position { log, sequence: Sequence(1) };
                Err(ReadError::Corrupt { at, what: "a flipped bit".to_owned() })
            }
            _ => self.0.read(log, filter, after).await,
        }
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.0.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.0.last(subject).await
    }
}

pub struct Gate {
    reader: Arc<Watched>,
    is_open: watch::Sender<bool>,
}

impl Gate {
    pub fn reader(&self) -> Arc<dyn Read> {
        self.reader.clone()
    }

    pub fn open(&self) {
        self.is_open.send_replace(true);
    }
}

/// The memory log behind a gate for EVENTS, with its records counted.
struct Watched {
    log: MemoryLog,
    read: Arc<AtomicUsize>,
    is_open: watch::Sender<bool>,
}

#[async_trait]
impl Read for Watched {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        let cursor = self.log.read(log, filter, after).await?;
        let is_open = self.is_open.subscribe();
        Ok(Box::new(WatchedCursor { cursor, log, read: self.read.clone(), is_open }))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.log.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.log.last(subject).await
    }
}

struct WatchedCursor {
    cursor: Box<dyn Cursor>,
    log: Log,
    read: Arc<AtomicUsize>,
    is_open: watch::Receiver<bool>,
}

#[async_trait]
impl Cursor for WatchedCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        if self.log == Log::Events {
            let gone = |_| ReadError::Unavailable { log: Log::Events, source: "the test is over".into() };
            self.is_open.wait_for(|is_open| *is_open).await.map_err(gone)?;
        }
        let page = self.cursor.next(limit, tail).await?;
        self.read.fetch_add(page.records.len(), Ordering::SeqCst);
        Ok(page)
    }
}
