//! Many writers, one fsync: commits that wait at the same time go as one atomic batch, one of each subject.
//!
//! A server that syncs before it answers takes about as long for a hundred messages in a batch as for ten, and syncs single
//! ones one after the other. There is one committer per log; it sends one round at a time, and whoever arrives
//! meanwhile is in the next. What it cannot confirm at once is settled beside it, so that one unlucky commit holds up nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use omnirun_events::log::{AppendError, Entry};
use omnirun_events::{Log, Sequence};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::Reason;
use crate::publish::{Message, Sent, positions, send};
use crate::server::Server;
use crate::settle::{self, Begin};

mod round;

pub(crate) use round::Known;

/// Commits that wait for their round; more wait in `append`.
const QUEUE: usize = 1024;

/// Fewer commits than this go one behind the other instead: a batch costs the server some 2.5 ms of staging whatever its size, a
/// single message one fsync of about 0.2 ms.
const WORTH_A_BATCH: usize = 12;

/// How long a round waits for the next of the last one's writers to come again: about what the client's timer can tell.
const SILENCE: Duration = Duration::from_millis(1);

/// How long it waits for all of them: no longer than a batch takes.
const LINGER: Duration = Duration::from_millis(3);

type Answer = Result<Sequence, AppendError>;

/// A commit and who waits for it.
struct Waiting {
    entry: Entry,
    message: Message,
    answer: oneshot::Sender<Answer>,
}

/// The way to a log's committer. The committer ends when the last of these is dropped and what was handed in is answered.
pub(crate) struct Committer {
    queue: mpsc::Sender<Waiting>,
    known: Arc<Known>,
}

impl Committer {
    /// Starts the committer of a log on the current runtime.
    pub(crate) fn start(server: Server, log: Log) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let known = Arc::new(Known::default());
        tokio::spawn(run(Desk { server, log, known: known.clone() }, waiting));
        Self { queue, known }
    }

    /// Appends one entry. Dropped while it waits, the entry may still be appended.
    pub(crate) async fn append(&self, entry: Entry) -> Answer {
        let log = entry.subject.log();
        let closing = || AppendError::Unknown { log, source: Reason::Closing.into() };
        let (answer, outcome) = oneshot::channel();
        let message = Message::of(&entry);
        self.queue.send(Waiting { entry, message, answer }).await.map_err(|_| closing())?;
        outcome.await.unwrap_or_else(|_| Err(closing()))
    }

    /// What this process knows of the subjects' last positions.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }
}

#[derive(Clone)]
struct Desk {
    server: Server,
    log: Log,
    known: Arc<Known>,
}

async fn run(desk: Desk, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = VecDeque::new();
    let mut last_round = 0;
    loop {
        if waiting.is_empty() {
            let Some(first) = queue.recv().await else { return };
            waiting.push_back(first);
        }
        gather(&mut waiting, &mut queue, last_round).await;
        let round = round::take(&mut waiting, &desk.known);
        for stale in round.stale {
            desk.settle(stale.entry, stale.answer, Begin::Look);
        }
        last_round = round.together.len();
        if last_round >= WORTH_A_BATCH {
            desk.commit(round.together).await;
        } else {
            join_all(round.together.into_iter().map(|one| desk.commit(vec![one]))).await;
        }
    }
}

/// Takes what is in the queue. After a batch, whose writers were all answered at once and are about to come again one after the other (each
/// signs first), waits for as many, as long as they keep coming: without it, every other batch is a small one.
async fn gather(waiting: &mut VecDeque<Waiting>, queue: &mut mpsc::Receiver<Waiting>, last_round: usize) {
    let end = Instant::now() + LINGER;
    while waiting.len() < QUEUE {
        let next = match queue.try_recv() {
            Ok(next) => next,
            Err(_) if last_round < WORTH_A_BATCH || waiting.len() >= last_round => return,
            Err(_) => match timeout_at(end.min(Instant::now() + SILENCE), queue.recv()).await {
                Ok(Some(next)) => next,
                Ok(None) | Err(_) => return,
            },
        };
        waiting.push_back(next);
    }
}

impl Desk {
    async fn commit(&self, together: Vec<Waiting>) {
        let part = |waiting: Waiting| (waiting.message, (waiting.entry, waiting.answer));
        let (messages, together): (Vec<_>, Vec<_>) = together.into_iter().map(part).unzip();
        let sent = send(&self.server, messages).await;
        // A refused batch names no subject, and a full one may be full for one record only: each learns its own answer.
        let begin = match sent {
            Sent::Stored(last) => {
                let count = together.len();
                for ((entry, answer), position) in together.into_iter().zip(positions(last, count)) {
                    self.known.note(&entry.subject, position);
                    // Whoever went away does not want to know.
                    let _ = answer.send(Ok(position));
                }
                return;
            }
            Sent::Full(remedy) if together.len() == 1 => {
                for (_, answer) in together {
                    let full = AppendError::Full { log: self.log, remedy: remedy.clone() };
                    let _ = answer.send(Err(full));
                }
                return;
            }
            Sent::Refused if together.len() > 1 => Begin::Send,
            Sent::Full(_) => Begin::Send,
            Sent::Refused | Sent::Unknown(_) => Begin::Look,
        };
        for (entry, answer) in together {
            self.settle(entry, answer, begin);
        }
    }

    fn settle(&self, entry: Entry, answer: oneshot::Sender<Answer>, begin: Begin) {
        let desk = self.clone();
        tokio::spawn(async move {
            let outcome = settle::append(&desk.server, std::slice::from_ref(&entry), begin).await;
            match &outcome {
                Ok(positions) => {
                    positions.iter().for_each(|position| desk.known.note(&entry.subject, *position))
                }
                Err(AppendError::Conflict { subject, actual }) => desk.known.note(subject, *actual),
                Err(_) => {}
            }
            let _ = answer.send(outcome.map(|positions| positions.first().copied().unwrap_or_default()));
        });
    }
}
