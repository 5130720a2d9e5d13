//! The one writer of a log: a thread that takes everything that waits, decides it in order, and makes it durable with one flush and one
//! fdatasync. Purges go through it too, so that nothing else ever writes records.
//!
//! Conflicts are decided on sled's index, which only this thread changes, and on what the group at hand has already accepted. All
//! answers of a group are sent after it is durable: a conflict may name a position of the same group.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use omnirun_events::log::{AppendError, Batch};
use omnirun_events::{Filter, Sequence, Subject};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::cell::Cell;
use crate::error::{OpenError, StoreError};
use crate::head::{Head, HeadFile};
use crate::purge;

mod group;

use group::Group;

/// Appends that may wait at once; the next one waits outside.
const WAITING_MAX: usize = 1024;
/// Bytes after which a group takes no more: about what a disk writes in a few milliseconds.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long the writer looks for the next request before it sleeps: about as long as whoever was just answered needs to come back with
/// one. Being woken costs more than that.
const SPIN: Duration = Duration::from_micros(150);
/// How long the head file may stay unsynced.
const HEAD_SYNC_EVERY: Duration = Duration::from_secs(1);

/// How an append is answered.
pub(crate) type Appended = Result<Vec<Sequence>, AppendError>;

/// What a purge removes.
#[derive(Debug, Clone)]
pub(crate) enum Purge {
    /// A subject's records up to a position.
    Through(Subject, Sequence),
    /// Whatever a filter takes.
    All(Filter),
}

enum Request {
    Append(Append),
    Purge(Purge, oneshot::Sender<Result<u64, StoreError>>),
    Close,
}

struct Append {
    batch: Batch,
    answer: oneshot::Sender<Appended>,
    /// Its place among the waiting.
    _place: OwnedSemaphorePermit,
}

/// The way to a log's writer.
pub(crate) struct Committer {
    requests: Sender<Request>,
    places: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

impl Committer {
    /// Starts the writer of `cell`, which stands at `head`.
    pub fn start(cell: Arc<Cell>, file: HeadFile, head: Head) -> Result<Self, OpenError> {
        let (requests, receiver) = channel();
        let name = format!("log {}", cell.log);
        let dir = cell.dir.clone();
        let mut writer = Writer { cell, file, head, head_synced: Instant::now() };
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            writer.run(&receiver);
            writer.close()
        });
        let thread = thread.map_err(crate::error::io_error("start the writer of", &dir))?;
        Ok(Self { requests, places: Arc::new(Semaphore::new(WAITING_MAX)), thread: Mutex::new(Some(thread)) })
    }

    /// Appends a batch; none if the log is closed. Dropping the future leaves it unknown whether it was appended.
    pub async fn append(&self, batch: Batch) -> Option<Appended> {
        let place = self.places.clone().acquire_owned().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Append(Append { batch, answer, _place: place })).ok()?;
        answered.await.ok()
    }

    /// Removes records and answers how many there were.
    pub async fn purge(&self, purge: Purge) -> Result<u64, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Purge(purge, answer)).map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Lets the writer finish what was sent before, and ends it. Ending it again does nothing.
    pub fn close(&self) -> Result<(), StoreError> {
        self.places.close();
        // A writer that is gone has nothing left to close.
        let _ = self.requests.send(Request::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(StoreError::Panicked("the writer".to_owned())),
        }
    }
}

struct Writer {
    cell: Arc<Cell>,
    file: HeadFile,
    head: Head,
    head_synced: Instant,
}

impl Writer {
    fn run(&mut self, requests: &Receiver<Request>) {
        let mut put_aside = None;
        loop {
            let request = match put_aside.take() {
                Some(request) => request,
                None => match self.wait(requests) {
                    Some(request) => request,
                    None => return,
                },
            };
            match request {
                Request::Append(first) => put_aside = self.append_group(first, requests),
                Request::Purge(purge, answer) => {
                    let result = purge::run(&self.cell, self.head, &purge);
                    // Whoever asked may be gone; the purge stays.
                    let _ = answer.send(result);
                }
                Request::Close => return,
            }
        }
    }

    /// The next request; meanwhile the head is synced when it is due. None when everybody who could ask is gone.
    fn wait(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        let started = Instant::now();
        while started.elapsed() < SPIN {
            if let Ok(request) = requests.try_recv() {
                return Some(request);
            }
            std::hint::spin_loop();
        }
        loop {
            if self.file.is_synced() {
                return requests.recv().ok();
            }
            let due = HEAD_SYNC_EVERY.saturating_sub(self.head_synced.elapsed());
            match requests.recv_timeout(due) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Timeout) => self.sync_head(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Appends `first` and what else waits. Answers a request that was found and is not an append.
    fn append_group(&mut self, first: Append, requests: &Receiver<Request>) -> Option<Request> {
        let mut group = Group::new(&self.cell, self.head);
        let mut waiting = Some(first);
        let mut put_aside = None;
        while let Some(append) = waiting.take() {
            group.decide(append.batch, append.answer, append._place);
            if group.bytes() < GROUP_BYTES_MAX {
                match requests.try_recv() {
                    Ok(Request::Append(next)) => waiting = Some(next),
                    Ok(other) => put_aside = Some(other),
                    Err(_) => {}
                }
            }
        }
        let accepted = group.commit();
        if let Some(head) = accepted.head() {
            self.head = head;
            if let Err(error) = self.file.write(head) {
                // The records are durable and acknowledged; the head is older than it could be until the next write works.
                tracing::warn!(log = %self.cell.log, error = %error, "the head of a log could not be written");
            }
            self.cell.advance(head.sequence);
        }
        accepted.answer();
        if self.head_synced.elapsed() >= HEAD_SYNC_EVERY {
            self.sync_head();
        }
        put_aside
    }

    fn sync_head(&mut self) {
        self.head_synced = Instant::now();
        match self.file.sync() {
            Ok(true) => self.cell.count_head_sync(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(log = %self.cell.log, error = %error, "the head of a log could not be synced");
            }
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.sync_head();
        let database = self.cell.replace(None);
        self.cell.tick();
        database.map_or(Ok(()), |database| database.close())
    }
}
