//! The outbox: what happened on this host and is not on the log yet, on this host's disk.
//!
//! It holds drafts. Expected position, previous hash and signature are made when one is published ([`publish`]), since another writer may
//! have appended meanwhile. A draft is on the disk before anybody acts on it and stays until the log has it; commit ids derive from what
//! happened ([`commits`]), so that whatever is done again after a crash makes the same commit again.
//!
//! A draft is stored as an unsigned record that follows nothing: the same bytes that the log keeps, no second format.

pub mod commits;

mod history;
pub mod publish;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use omnirun_events::codec::{self, DecodeError, EncodeError};
use omnirun_events::envelope::{Draft, Head, Parts};
use omnirun_events::id::{CommitId, KeyId};
use omnirun_events::subject::Subject;
use omnirun_events::unit::Mebibytes;
use omnirun_sled::{Database, DatabaseError, DirLock, OpenError, Rows, StoreError};
use tokio::sync::watch;

/// How long an earlier life of the outbox may hold its lock: a write that had begun when its worker was dropped is finished, and a process that
/// was forked meanwhile holds the lock until it execs.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Drafts wait here for seconds, and for what the bus is away; they are all in memory as well.
const CACHE: Mebibytes = Mebibytes(8);

/// Place of a draft in the outbox; it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DraftNumber(u64);

/// The outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another worker has it open, or the system refuses its directory.
    #[error("cannot open the outbox")]
    Open(#[source] OpenError),
    /// Its files are damaged.
    #[error(
        "the outbox in {path} is damaged ({what}): set the directory aside; readings and ends of sandboxes in it are lost"
    )]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What is wrong there.
        what: String,
    },
    /// It cannot be read.
    #[error("cannot read the outbox")]
    Read(#[source] StoreError),
    /// A draft in it cannot be read.
    #[error("a draft of the outbox cannot be decoded")]
    Decode(#[source] DecodeError),
    /// A draft cannot be written down.
    #[error("a draft cannot be encoded")]
    Encode(#[source] EncodeError),
    /// The disk refuses, or does not confirm.
    #[error("cannot write to the outbox")]
    Write(#[source] StoreError),
}

/// Drafts that wait for the log. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    _lock: DirLock,
    /// Held while drafts are written, so that numbers and the disk agree; whoever only looks does not wait for the disk.
    writing: Mutex<()>,
    pending: Mutex<Pending>,
    /// The last to be dropped: who listens to it hears when the database is closed.
    changes: watch::Sender<u64>,
}

struct Pending {
    last: u64,
    drafts: BTreeMap<DraftNumber, Draft>,
    commits: HashSet<CommitId>,
    /// When a draft has left last, or come while none waited.
    moved_at: Instant,
}

impl Outbox {
    /// The outbox in this directory with everything that was not published yet. Blocks for the disk, and a few seconds at most for an earlier
    /// life of it.
    pub fn open(directory: &Path) -> Result<Self, OutboxError> {
        let damaged = |what| OutboxError::Damaged { path: directory.to_owned(), what };
        fs::create_dir_all(directory).map_err(|source| {
            OutboxError::Open(OpenError::Io { what: "create", path: directory.to_owned(), source })
        })?;
        let lock = DirLock::take_within(directory, UNLOCK_PATIENCE).map_err(OutboxError::Open)?;
        let database = Database::open(directory, CACHE).map_err(|error| match error {
            DatabaseError::Io(error) => OutboxError::Open(error),
            DatabaseError::Damaged(what) => damaged(what),
        })?;
        let rows = database.reading(|tree| Ok(tree.iter().collect::<Result<Vec<_>, _>>()?));
        let (drafts, commits) = (BTreeMap::new(), HashSet::new());
        let mut pending = Pending { last: 0, drafts, commits, moved_at: Instant::now() };
        for (key, value) in rows.map_err(OutboxError::Read)? {
            let number = key.as_ref().try_into().map(u64::from_be_bytes);
            let number = number.map_err(|_| damaged("a key is no number".to_owned()))?;
            let draft = decode(&value)?;
            pending.last = pending.last.max(number);
            pending.commits.insert(draft.commit);
            pending.drafts.insert(DraftNumber(number), draft);
        }
        let (writing, pending) = (Mutex::default(), Mutex::new(pending));
        let shared = Shared { database, _lock: lock, writing, pending, changes: watch::Sender::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes drafts in, all or none, in order. When it returns they survive a power cut. A commit that waits already is passed over.
    pub async fn put(&self, drafts: Vec<Draft>) -> Result<(), OutboxError> {
        let outbox = self.clone();
        let done = tokio::task::spawn_blocking(move || outbox.put_blocking(drafts));
        done.await.expect("writing to the outbox does not panic")
    }

    /// [`Self::put`] for callers that may block.
    pub fn put_blocking(&self, drafts: Vec<Draft>) -> Result<(), OutboxError> {
        let _writing = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.number(drafts);
        if taken.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (number, draft) in &taken {
            batch.insert(&number.0.to_be_bytes(), encode(draft)?.as_ref());
        }
        self.shared.database.commit(Rows::Whole(batch)).map_err(OutboxError::Write)?;
        let mut pending = self.pending();
        if pending.drafts.is_empty() {
            pending.moved_at = Instant::now();
        }
        for (number, draft) in taken {
            pending.last = number.0;
            pending.commits.insert(draft.commit);
            pending.drafts.insert(number, draft);
        }
        drop(pending);
        self.changed();
        Ok(())
    }

    /// The drafts whose commits do not wait already, with the numbers that they will have.
    fn number(&self, drafts: Vec<Draft>) -> Vec<(DraftNumber, Draft)> {
        let pending = self.pending();
        let new = drafts.into_iter().filter(|draft| !pending.commits.contains(&draft.commit));
        let numbers = (pending.last + 1..).map(DraftNumber);
        numbers.zip(new).collect()
    }

    /// Everything that waits, in order.
    pub fn drafts(&self) -> Vec<(DraftNumber, Draft)> {
        self.pending().drafts.iter().map(|(number, draft)| (*number, draft.clone())).collect()
    }

    /// The first draft that waits on each subject, but for the subjects in `skip`; and how many wait in all.
    pub fn firsts(&self, skip: &HashSet<Subject>) -> (Vec<(DraftNumber, Draft)>, usize) {
        let pending = self.pending();
        let mut seen: HashSet<&Subject> = skip.iter().collect();
        let firsts = pending.drafts.iter().filter(|(_, draft)| seen.insert(&draft.subject));
        (firsts.map(|(number, draft)| (*number, draft.clone())).collect(), pending.drafts.len())
    }

    /// Whether a commit waits.
    pub fn holds(&self, commit: CommitId) -> bool {
        self.pending().commits.contains(&commit)
    }

    /// How long drafts have waited and none has left, in the life of this process.
    pub fn stuck_for(&self) -> Duration {
        let pending = self.pending();
        if pending.drafts.is_empty() { Duration::ZERO } else { pending.moved_at.elapsed() }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending().drafts.is_empty()
    }

    /// Lets go of a draft that the log has, or never will. After a crash it may be back: publishing it again finds it there.
    pub fn done(&self, number: DraftNumber) -> Result<(), OutboxError> {
        let mut pending = self.pending();
        let Some(draft) = pending.drafts.remove(&number) else { return Ok(()) };
        pending.commits.remove(&draft.commit);
        pending.moved_at = Instant::now();
        drop(pending);
        self.changed();
        let mut batch = sled::Batch::default();
        batch.remove(&number.0.to_be_bytes());
        self.shared.database.apply(batch).map_err(OutboxError::Write)
    }

    /// Waits until nobody else holds the outbox and its files are free for the next worker.
    pub async fn closed(self) {
        let mut changes = self.changes();
        drop(self);
        while changes.changed().await.is_ok() {}
    }

    /// A receiver that changes whenever a draft comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands for the key that will sign.
const UNSIGNED: KeyId = KeyId::from_bytes([0; 16]);

fn encode(draft: &Draft) -> Result<Bytes, OutboxError> {
    let (header, payload) =
        codec::header_and_payload(draft, &Head::EMPTY, UNSIGNED).map_err(OutboxError::Encode)?;
    codec::encode(&Parts { header, payload, signature: Bytes::new() }).map_err(OutboxError::Encode)
}

fn decode(bytes: &[u8]) -> Result<Draft, OutboxError> {
    let record = codec::decode(bytes).map_err(OutboxError::Decode)?;
    let header = record.header;
    Ok(Draft {
        commit: header.commit,
        subject: header.subject,
        at: header.at,
        actor: header.actor,
        cause: header.cause,
        events: record.events,
    })
}

#[cfg(test)]
mod tests {
    use omnirun_events::id::{AccountId, SandboxId};
    use omnirun_events::sandbox::{FailReason, SandboxFailed};
    use omnirun_events::subject::SubjectKind;
    use omnirun_events::unit::Timestamp;
    use omnirun_events::{Actor, HostId};

    use super::*;

    fn draft(commit: u8) -> Draft {
        let (account, sandbox) = (AccountId::from_bytes([1; 16]), SandboxId::from_bytes([commit; 16]));
        Draft {
            commit: CommitId::from_bytes([commit; 16]),
            subject: SubjectKind::Sandbox(account, sandbox).into(),
            at: Timestamp(7),
            actor: Actor::Host(HostId::from_bytes([3; 16])),
            cause: Some(CommitId::from_bytes([4; 16])),
            events: vec![SandboxFailed { reason: FailReason::BootFailed }.into()],
        }
    }

    fn commits(outbox: &Outbox) -> Vec<CommitId> {
        outbox.drafts().into_iter().map(|(_, draft)| draft.commit).collect()
    }

    #[test]
    fn what_was_put_is_there_in_order_after_opening_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let outbox = Outbox::open(directory.path()).expect("a new one");
        outbox.put_blocking(vec![draft(2), draft(1)]).expect("room");
        outbox.put_blocking(vec![draft(3)]).expect("room");
        outbox.done(outbox.drafts()[0].0).expect("writable");
        drop(outbox);
        let outbox = Outbox::open(directory.path()).expect("the same one");
        assert_eq!(outbox.drafts()[0].1, draft(1));
        assert_eq!(commits(&outbox), [draft(1).commit, draft(3).commit]);
        outbox.put_blocking(vec![draft(4)]).expect("room");
        assert_eq!(commits(&outbox).last(), Some(&draft(4).commit));
    }

    #[test]
    fn it_is_stuck_for_as_long_as_drafts_wait_and_none_leaves() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let outbox = Outbox::open(directory.path()).expect("a new one");
        let began = Instant::now();
        assert_eq!(outbox.stuck_for(), Duration::ZERO);
        outbox.put_blocking(vec![draft(1)]).expect("room");
        outbox.put_blocking(vec![draft(2)]).expect("room");
        let (before, first) = (outbox.stuck_for(), outbox.drafts()[0].0);
        assert!(Duration::ZERO < before && before <= began.elapsed());
        let left = Instant::now();
        outbox.done(first).expect("writable");
        assert!(outbox.stuck_for() <= left.elapsed(), "one has left");
        outbox.done(outbox.drafts()[0].0).expect("writable");
        assert_eq!(outbox.stuck_for(), Duration::ZERO);
    }

    #[test]
    fn a_commit_that_waits_is_not_taken_twice() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let outbox = Outbox::open(directory.path()).expect("a new one");
        outbox.put_blocking(vec![draft(1)]).expect("room");
        outbox.put_blocking(vec![draft(1)]).expect("room");
        assert_eq!(commits(&outbox), [draft(1).commit]);
        assert!(outbox.holds(draft(1).commit));
    }

    #[test]
    fn two_workers_cannot_share_an_outbox() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let _first = Outbox::open(directory.path()).expect("a new one");
        assert!(matches!(Outbox::open(directory.path()), Err(OutboxError::Open(OpenError::InUse { .. }))));
    }

    #[tokio::test]
    async fn an_outbox_is_closed_when_its_last_holder_has_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let outbox = Outbox::open(directory.path()).expect("a new one");
        let (writer, mut closed) = (outbox.clone(), std::pin::pin!(outbox.closed()));
        let early = tokio::time::timeout(Duration::ZERO, &mut closed).await;
        assert!(early.is_err(), "the writer still has it");
        writer.put(vec![draft(1)]).await.expect("room");
        drop(writer);
        closed.await;
        assert_eq!(commits(&Outbox::open(directory.path()).expect("it is free")), [draft(1).commit]);
    }
}
