//! Writing: sign what was decided as the successor of what was seen, append it, and find out what became of it.
//!
//! Every writer of records of this service passes through here. Deciding is not here.

use std::sync::Arc;
use std::time::Duration;

use omnirun_commands_api::{Outcome, Rejection, Reply};
use omnirun_events::codec;
use omnirun_events::envelope::Role;
use omnirun_events::envelope::{Draft, Head, Record};
use omnirun_events::log::{Append, AppendError, Batch, Entry, Position, Read, Sequence};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Log, Subject};
use omnirun_projections::Directory;
use omnirun_runner::Live;

use crate::decide::Decision;
use crate::failure::{Failure, busy, chain};

/// How long to wait until the own view has reached a position.
const VIEW_PATIENCE: Duration = Duration::from_secs(2);

/// Times that a decision is made anew because somebody else wrote first. Each time somebody got on, so this bounds a queue, not a dispute.
const CONFLICTS_MAX: usize = 64;

/// Times that the same bytes are appended again when the store did not confirm them.
const UNKNOWN_MAX: usize = 4;

/// Pause before that.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(100);

/// The parts that writing needs.
pub struct Writer {
    /// Reads the logs.
    pub reader: Arc<dyn Read>,
    /// Appends to the logs.
    pub append: Arc<dyn Append>,
    /// What is known, and the heads of its subjects.
    pub directory: Live<Directory>,
    /// Signs.
    pub signer: Signer,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is stored; the position of its last record.
    At(Sequence),
    /// A subject has moved on to this position and nothing was stored.
    Moved(Sequence),
}

impl Writer {
    /// Decides against a view that has reached the end of `subjects`, appends what was decided, and decides again if another writer
    /// was first. Drafts are on subjects of EVENTS.
    pub async fn run(
        &self,
        subjects: &[Subject],
        decide: impl Fn(&Directory) -> Result<Decision, Rejection>,
    ) -> Result<Reply, Failure> {
        for _ in 0..CONFLICTS_MAX {
            self.reach(subjects).await?;
            match self.decide_once(subjects, &decide).await? {
                Some(reply) => return Ok(reply),
                None => metrics::counter!("omnirun_commands_conflicts_total").increment(1),
            }
        }
        Err(busy("Too many changes at once; nothing was done. Try again."))
    }

    /// [`Self::run`] once, and only if `subject` still ends at the position that the caller's own knowledge reaches to. None if it does
    /// not, or if another writer was first.
    pub async fn decide_at(
        &self,
        subjects: &[Subject],
        (subject, known): (&Subject, Sequence),
        decide: impl Fn(&Directory) -> Result<Decision, Rejection>,
    ) -> Result<Option<Reply>, Failure> {
        self.reach(subjects).await?;
        if self.directory.view(|_, verifier| verifier.head(subject).sequence) != known {
            return Ok(None);
        }
        self.decide_once(subjects, decide).await
    }

    /// One round; none if another writer was first, which the view has then reached.
    async fn decide_once(
        &self,
        subjects: &[Subject],
        decide: impl Fn(&Directory) -> Result<Decision, Rejection>,
    ) -> Result<Option<Reply>, Failure> {
        let (decision, heads, seen) = self.directory.view(|directory, verifier| {
            let decision = decide(directory)?;
            let drafts = decision.drafts();
            let heads: Vec<Head> = drafts.iter().map(|draft| verifier.head(&draft.subject)).collect();
            let seen = subjects.iter().map(|subject| verifier.head(subject).sequence).max();
            Ok::<_, Rejection>((decision, heads, seen.unwrap_or_default()))
        })?;
        let (drafts, outcome) = match decision {
            Decision::Already(outcome) => return Ok(Some(reply(seen, outcome))),
            Decision::Write(drafts, outcome) => (drafts, outcome),
        };
        match self.append(&drafts, &heads).await? {
            Appended::At(sequence) => Ok(Some(reply(sequence, outcome))),
            Appended::Moved(actual) => {
                self.directory.reached(actual, VIEW_PATIENCE).await?;
                Ok(None)
            }
        }
    }

    /// Waits until the view has reached the last position of each subject.
    pub async fn reach(&self, subjects: &[Subject]) -> Result<(), Failure> {
        for subject in subjects {
            if let Some(last) = self.reader.last(subject).await? {
                self.directory.reached(last.sequence, VIEW_PATIENCE).await?;
            }
        }
        Ok(())
    }

    /// Waits until the view has reached a position of EVENTS.
    pub async fn reach_position(&self, sequence: Sequence) -> Result<(), Failure> {
        Ok(self.directory.reached(sequence, VIEW_PATIENCE).await?)
    }

    /// Waits until the view holds everything that was in EVENTS when this was called.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        let head = self.reader.head(Log::Events).await?;
        Ok(self.directory.reached(head, VIEW_PATIENCE).await?)
    }

    /// Signs `drafts` as the successors of `heads` and appends them, all or none. The same bytes are sent again a few times if the store does
    /// not confirm.
    pub async fn append(&self, drafts: &[Draft], heads: &[Head]) -> Result<Appended, Failure> {
        let mut entries = Vec::with_capacity(drafts.len());
        for (draft, head) in drafts.iter().zip(heads) {
            let record = self.signer.sign(draft, head)?.bytes;
            let (subject, commit) = (draft.subject.clone(), draft.commit);
            entries.push(Entry { subject, expected: head.sequence, commit, record });
        }
        let batch = Batch::new(entries).expect("a decision touches a few different subjects of one log");
        for _ in 0..UNKNOWN_MAX {
            match self.append.append_all(batch.clone()).await {
                Ok(sequences) => return Ok(Appended::At(sequences.into_iter().max().unwrap_or_default())),
                Err(AppendError::Conflict { actual, .. }) => return Ok(Appended::Moved(actual)),
                Err(AppendError::Full { remedy, log }) => {
                    tracing::error!(%log, remedy, "the event log takes no more records");
                    // The remedy names the operator's files, and the operator's log alone.
                    return Err(busy("The event log takes no more records for now; nothing was done."));
                }
                Err(error @ AppendError::Unknown { .. }) => {
                    tracing::warn!(reason = chain(&error), "an append was not confirmed");
                    tokio::time::sleep(UNKNOWN_PAUSE).await;
                }
            }
        }
        Err(Failure::Unknown)
    }

    /// The last record of a subject that no view follows (of KEYS or AUTH), written by a commands service, and the subject's head.
    pub async fn last(&self, subject: &Subject) -> Result<Option<(Record, Head)>, Failure> {
        let Some(stored) = self.reader.last(subject).await? else { return Ok(None) };
        let unbelievable = |what: &str| {
            tracing::error!(log = %subject.log(), position = stored.sequence.0, what, "a record cannot be believed");
            busy(
                "A record in the event log cannot be believed; nothing was done. An operator has to look at it.",
            )
        };
        let record = codec::decode(&stored.record).map_err(|_| unbelievable("it cannot be decoded"))?;
        if record.header.subject != *subject {
            return Err(unbelievable("it is filed under another subject"));
        }
        let public = self.directory.view(|_, verifier| {
            let entry = verifier.ring().get(record.header.key)?;
            let place = Position { log: subject.log(), sequence: stored.sequence };
            let is_current = entry.role == Role::Commands && !entry.had_ended(place, record.header.at);
            is_current.then_some(entry.public)
        });
        let public = public.ok_or_else(|| unbelievable("its key was none of a commands service then"))?;
        public.verify(&record).map_err(|_| unbelievable("its signature does not fit"))?;
        let head = record.head(stored.sequence);
        Ok(Some((record, head)))
    }
}

/// A reply that relies on EVENTS up to `sequence`.
pub(crate) fn reply(sequence: Sequence, outcome: Outcome) -> Reply {
    let position = (sequence > Sequence::NONE).then_some(Position { log: Log::Events, sequence });
    Reply { position, outcome }
}
