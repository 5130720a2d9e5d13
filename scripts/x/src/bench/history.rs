//! Signed records as the services write them: chains of subjects, and whole lives of sandboxes in any number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::sandbox::{
    Network, SandboxClaimed, SandboxRequested, SandboxStarted, SandboxStopped, StartedFrom, StopReason,
    StopRequested,
};
use omnirun_events::signing::{SignedRecord, Signer};
use omnirun_events::unit::{MebibyteSeconds, Seconds, Shape, StandardMillis};
use omnirun_events::usage::Meter;
use omnirun_events::{
    AccountId, Actor, Append, Batch, CommitId, Draft, Entry, Event, Head, HostId, Mebibytes, Millis, Role,
    SandboxId, Subject, SubjectKind, Timestamp, Vcpus,
};
use tokio::task::JoinSet;

/// Accounts that act at once while a history is made.
const ACCOUNTS: u64 = 200;
/// When every history begins; any time will do.
const BEGIN: Timestamp = Timestamp(1_790_000_000_000);
const SHAPE: Shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };

/// A subject and the end of it as its writer knows it.
pub struct Chain {
    pub subject: Subject,
    head: Head,
    made: u64,
}

impl Chain {
    pub fn new(kind: SubjectKind) -> Self {
        Self { subject: kind.into(), head: Head::EMPTY, made: 0 }
    }

    /// The subject's next record, signed, and its commit.
    pub fn sign(
        &mut self,
        signer: &Signer,
        actor: Actor,
        events: Vec<Event>,
    ) -> Result<(SignedRecord, CommitId)> {
        self.made += 1;
        let commit = CommitId::derive(self.subject.as_str().as_bytes(), &self.made.to_string());
        let at = BEGIN.after(Millis(self.made));
        let draft = Draft { commit, subject: self.subject.clone(), at, actor, cause: None, events };
        Ok((signer.sign(&draft, &self.head)?, commit))
    }

    /// What a store is asked to append.
    pub fn entry(&self, signed: &SignedRecord, commit: CommitId) -> Entry {
        let expected = self.head.sequence;
        Entry { subject: self.subject.clone(), expected, commit, record: signed.bytes.clone() }
    }

    /// Signs and appends; answers how long both took together.
    pub async fn append(
        &mut self,
        store: &dyn Append,
        signer: &Signer,
        actor: Actor,
        events: Vec<Event>,
    ) -> Result<Duration> {
        let started = Instant::now();
        let (signed, commit) = self.sign(signer, actor, events)?;
        let sequences = store.append_all(Batch::one(self.entry(&signed, commit))).await?;
        let took = started.elapsed();
        let sequence = *sequences.first().context("a batch of one has one position")?;
        self.follow(signed, sequence);
        Ok(took)
    }

    /// Takes note of where the record is.
    pub fn follow(&mut self, signed: SignedRecord, sequence: omnirun_events::Sequence) {
        self.head = Head { sequence, version: signed.version, hash: signed.hash };
    }
}

/// What a worker says when a guest is ready: a record of the usual size.
pub fn started() -> Event {
    SandboxStarted {
        started_at: BEGIN,
        end_at: BEGIN.after(Millis(300_000)),
        from: StartedFrom::Pool,
        root: Digest([1; 32]),
        kernel: Digest([2; 32]),
    }
    .into()
}

/// A sandbox of the account number `account`.
pub fn sandbox_subject(account: u64, sandbox: u64) -> SubjectKind {
    let id = SandboxId::derive(&sandbox.to_be_bytes(), &format!("sandbox of {account}"));
    SubjectKind::Sandbox(account_id(account), id)
}

fn account_id(account: u64) -> AccountId {
    AccountId::derive(&account.to_be_bytes(), "account")
}

/// The keys of a history.
pub struct Keys {
    root: Signer,
    commands: Signer,
    pub worker: Signer,
    pub host: HostId,
}

impl Keys {
    /// The same ones every time.
    pub fn fixed() -> Self {
        Self {
            root: Signer::from_seed(&[1; 32], Role::Root),
            commands: Signer::from_seed(&[2; 32], Role::Commands),
            worker: Signer::from_seed(&[3; 32], Role::Worker),
            host: HostId::from_bytes([4; 16]),
        }
    }

    /// The public half of the root key.
    pub fn root(&self) -> Digest {
        self.root.public()
    }

    async fn enrol(&self, store: &dyn Append) -> Result<()> {
        let enrolled = |signer: &Signer, role, host| {
            Event::from(KeyEnrolled { key: signer.id(), public: signer.public(), role, host })
        };
        let events = vec![
            enrolled(&self.commands, Role::Commands, None),
            enrolled(&self.worker, Role::Worker, Some(self.host)),
        ];
        Chain::new(SubjectKind::KeyRing).append(store, &self.root, Actor::Operator, events).await?;
        Ok(())
    }
}

/// Appends `records` records: the keys, then sandboxes that are requested, claimed, started, asked to stop and stopped.
pub async fn fill(store: Arc<dyn Append>, records: u64) -> Result<()> {
    let (keys, done) = (Arc::new(Keys::fixed()), Arc::new(AtomicU64::new(1)));
    keys.enrol(&*store).await?;
    let mut writers = JoinSet::new();
    for account in 0..ACCOUNTS {
        let share = (records - 1) / ACCOUNTS + u64::from(account < (records - 1) % ACCOUNTS);
        let writer = Writer { store: store.clone(), keys: keys.clone(), account, done: done.clone() };
        writers.spawn(writer.write(share));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

struct Writer {
    store: Arc<dyn Append>,
    keys: Arc<Keys>,
    account: u64,
    done: Arc<AtomicU64>,
}

impl Writer {
    async fn write(self, records: u64) -> Result<()> {
        let Keys { commands, worker, host, .. } = &*self.keys;
        let (user, system) = (Actor::Account(account_id(self.account)), Actor::Host(*host));
        let mut admission = Chain::new(SubjectKind::Admission(account_id(self.account)));
        let mut sandbox = Chain::new(sandbox_subject(self.account, 0));
        for number in 0..records {
            let (chain, signer, actor, event) = match number % 5 {
                0 => {
                    sandbox = Chain::new(sandbox_subject(self.account, number));
                    (&mut admission, commands, user, requested(&sandbox.subject))
                }
                1 => (&mut sandbox, worker, system, SandboxClaimed { host: *host }.into()),
                2 => (&mut sandbox, worker, system, started()),
                3 => (&mut sandbox, commands, user, StopRequested {}.into()),
                _ => (&mut sandbox, worker, system, stopped()),
            };
            chain.append(&*self.store, signer, actor, vec![event]).await?;
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(100_000) {
                println!("    {done} records");
            }
        }
        Ok(())
    }
}

fn requested(subject: &Subject) -> Event {
    let SubjectKind::Sandbox(_, sandbox) = subject.kind() else { unreachable!("it is made of a sandbox") };
    SandboxRequested {
        sandbox,
        template: "python-3.11".to_owned(),
        shape: SHAPE,
        timeout: Seconds(300),
        reserved: StandardMillis(300_000),
        deadline: BEGIN.after(Millis(60_000)),
        network: Network::Off,
        metadata: None,
    }
    .into()
}

fn stopped() -> Event {
    let (wall, vcpu, memory) = (Millis(60_000), Millis(4_000), MebibyteSeconds(30_720));
    let meter = Meter { wall, vcpu, memory, ..Meter::default() };
    let stopped_at = BEGIN.after(Millis(60_000));
    SandboxStopped { reason: StopReason::Requested, stopped_at, meter, teardown: Millis(20) }.into()
}
