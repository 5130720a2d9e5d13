//! Publishing drafts: in order on each subject, subjects side by side, again and again until the log has them.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirun_events::codec::EncodeError;
use omnirun_events::envelope::{Draft, Head};
use omnirun_events::id::SandboxId;
use omnirun_events::log::{Append, AppendError, Batch, Entry, Read, ReadError, Sequence, read_to_end};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_events::verify::Verifier;
use omnirun_projections::Directory;
use omnirun_runner::{Live, NotReached};
use tokio::task::JoinSet;

use super::history::{History, period};
use super::{DraftNumber, Outbox, commits};
use crate::context::is_enrolled;

/// Time before the second try of a draft; doubled for each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Time between two tries, at most: what a healed log may be late by.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// How long the directory may take to show what was published.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done with a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is appended after this head.
    Append(Head),
    /// The log has it.
    There,
    /// Its sandbox is final: it says nothing any more.
    Obsolete,
}

/// What is to be done with a draft whose subject holds this. `is_final`: whether its sandbox's end is on the log, whoever said it.
pub fn decide(draft: &Draft, history: &History, is_final: bool) -> Verdict {
    let is_meter = matches!(draft.subject.kind(), SubjectKind::Usage(..));
    let is_old = is_meter && history.period.is_some() && history.period >= period(&draft.events);
    if is_old || history.commits.contains(&draft.commit) {
        return Verdict::There;
    }
    if is_final && !is_meter {
        return Verdict::Obsolete;
    }
    Verdict::Append(history.head)
}

/// A draft that is not on the log yet.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The signing key is not enrolled, or was retired.
    #[error("this host's key is not enrolled: enrol it with `omnirun ops`")]
    NotEnrolled,
    /// Its subject cannot be read.
    #[error("cannot read the subject")]
    Read(#[source] ReadError),
    /// What is on the log is not known, and so neither who is believed there.
    #[error("the directory is behind the log")]
    Behind(#[source] NotReached),
    /// The log did not take it.
    #[error("cannot append")]
    Append(#[source] AppendError),
    /// It can never be written down.
    #[error("cannot encode")]
    Encode(#[source] EncodeError),
}

/// What publishing needs.
#[derive(Clone)]
pub struct Publisher {
    /// What waits.
    pub outbox: Outbox,
    /// The log.
    pub read: Arc<dyn Read>,
    /// The log.
    pub append: Arc<dyn Append>,
    /// For who is final.
    pub directory: Live<Directory>,
    /// Signs.
    pub signer: Arc<Signer>,
    /// What it knows of the meters of sandboxes that are not final, so as not to read a week of them for each reading.
    pub meters: Meters,
}

/// See [`Publisher::meters`]. Clones share it.
pub type Meters = Arc<Mutex<HashMap<Subject, History>>>;

impl Publisher {
    /// Publishes what comes into the outbox, for ever. Dropping it loses nothing.
    ///
    /// There is one task for each subject that has drafts, of which a host has a few for each sandbox it can run.
    pub async fn run(self) {
        let mut changes = self.outbox.changes();
        let mut tasks = JoinSet::new();
        let mut busy = HashSet::new();
        loop {
            changes.borrow_and_update();
            let (firsts, waiting) = self.outbox.firsts(&busy);
            metrics::gauge!("omnirun_worker_outbox_drafts").set(waiting as f64);
            for (number, draft) in firsts {
                busy.insert(draft.subject.clone());
                let publisher = self.clone();
                tasks.spawn(async move { publisher.publish(number, draft).await });
            }
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    let subject: Subject = done.expect("publishing a draft does not panic");
                    busy.remove(&subject);
                }
                _ = changes.changed() => {}
            }
        }
    }

    /// Publishes one draft, however long it takes.
    async fn publish(&self, number: DraftNumber, draft: Draft) -> Subject {
        let mut pause = BACK_OFF_MIN;
        loop {
            match self.try_publish(&draft).await {
                Ok(at) => {
                    self.wait_for_directory(&draft, at).await;
                    break;
                }
                Err(error @ PublishError::Encode(_)) => {
                    tracing::error!(subject = %draft.subject, error = &error as &dyn std::error::Error, "a draft can never be published");
                    break;
                }
                Err(PublishError::Append(AppendError::Conflict { .. })) => {}
                Err(error) => {
                    metrics::counter!("omnirun_worker_publish_errors_total").increment(1);
                    let cause = error.source().map(ToString::to_string);
                    tracing::warn!(subject = %draft.subject, error = %error, cause, "a draft waits for the log");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF_MAX);
                }
            }
        }
        if let Err(error) = self.outbox.done(number) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a published draft stays in the outbox until the next start"
            );
        }
        draft.subject
    }

    /// Whoever asks whether something was said looks into the directory and the outbox: it must be in one of them at any time.
    async fn wait_for_directory(&self, draft: &Draft, at: Sequence) {
        if draft.subject.log() == Log::Events && self.directory.reached(at, DIRECTORY_PATIENCE).await.is_err()
        {
            tracing::warn!(position = at.0, "the directory is behind what this host has said");
        }
    }

    /// Answers with the position of the draft on the log, or with none if it is dropped.
    async fn try_publish(&self, draft: &Draft) -> Result<Sequence, PublishError> {
        if !is_enrolled(&self.directory, &self.signer) {
            return Err(PublishError::NotEnrolled);
        }
        let (history, is_final) = (self.history(&draft.subject).await?, self.is_final(draft));
        match decide(draft, &history, is_final) {
            Verdict::There => Ok(history.head.sequence),
            Verdict::Obsolete => {
                metrics::counter!("omnirun_worker_drafts_dropped_total").increment(1);
                Ok(Sequence::NONE)
            }
            Verdict::Append(head) => {
                let signed = self.signer.sign(draft, &head).map_err(PublishError::Encode)?;
                let (subject, commit) = (draft.subject.clone(), draft.commit);
                let entry = Entry { subject, expected: head.sequence, commit, record: signed.bytes };
                let at = self.append.append_all(Batch::one(entry)).await.map_err(PublishError::Append)?;
                let sequence = at.last().copied().unwrap_or_default();
                let head = Head { sequence, version: signed.version, hash: signed.hash };
                self.note(draft, history.then(head, commit, &draft.events));
                Ok(sequence)
            }
        }
    }

    /// What the draft's subject holds. All of it is read but where nothing came after this publisher's own last record.
    async fn history(&self, subject: &Subject) -> Result<History, PublishError> {
        let Some(last) = self.read.last(subject).await.map_err(PublishError::Read)? else {
            return Ok(History::EMPTY);
        };
        let known = self.meters().get(subject).cloned();
        if let Some(known) = known.filter(|known| known.head.sequence == last.sequence) {
            return Ok(known);
        }
        // Whoever is enrolled, and whatever a tombstone has taken, was said before in EVENTS.
        let head = self.read.head(Log::Events).await.map_err(PublishError::Read)?;
        self.directory.reached(head, DIRECTORY_PATIENCE).await.map_err(PublishError::Behind)?;
        let (ring, erased) =
            self.directory.view(|_, verifier| (verifier.ring().clone(), verifier.erased().clone()));
        let records = read_to_end(&*self.read, subject.log(), Filter::exactly(subject), Sequence::NONE).await;
        let host = ring.get(self.signer.id()).and_then(|key| key.host);
        let mut verifier = Verifier::new(ring);
        verifier.learn(&erased);
        Ok(History::of(subject, &records.map_err(PublishError::Read)?, verifier, host))
    }

    /// Keeps what is known of a meter, for as long as there will be more to say.
    fn note(&self, draft: &Draft, history: History) {
        let SubjectKind::Usage(_, _, sandbox) = draft.subject.kind() else { return };
        let mut meters = self.meters();
        meters.insert(draft.subject.clone(), history);
        let is_wanted = |other: &Subject| match other.kind() {
            // The week before's says nothing more.
            SubjectKind::Usage(_, _, of) if of == sandbox && *other != draft.subject => false,
            SubjectKind::Usage(_, _, of) => !self.outbox.holds(commits::ended(of)) && !self.has_ended(of),
            _ => false,
        };
        meters.retain(|other, _| is_wanted(other));
    }

    fn meters(&self) -> MutexGuard<'_, HashMap<Subject, History>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_final(&self, draft: &Draft) -> bool {
        matches!(draft.subject.kind(), SubjectKind::Sandbox(_, sandbox) if self.has_ended(sandbox))
    }

    fn has_ended(&self, sandbox: SandboxId) -> bool {
        self.directory
            .view(|directory, _| directory.sandboxes.get(sandbox).is_some_and(|s| s.state.is_final()))
    }
}

#[cfg(test)]
mod tests;
