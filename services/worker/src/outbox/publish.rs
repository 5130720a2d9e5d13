//! Publishing drafts: in order on each subject, subjects side by side, again and again until the log has them.

use std::collections::HashSet;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use omnirun_events::codec::{self, DecodeError, EncodeError};
use omnirun_events::envelope::{Draft, Head, Record};
use omnirun_events::event::Event;
use omnirun_events::log::{
    Append, AppendError, Batch, Entry, Read, ReadError, Sequence, Stored, read_to_end,
};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_projections::Directory;
use omnirun_runner::Live;
use tokio::task::JoinSet;

use super::{DraftNumber, Outbox};
use crate::context::is_enrolled;

/// Time before the second try of a draft; doubled for each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Time between two tries, at most: what a healed log may be late by.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// How long the directory may take to show what was published.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);

/// A record and where it is.
pub type Placed = (Sequence, Record);

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

/// What is to be done with a draft whose subject holds `records`: all of them, or for a meter the last. `is_final`: whether its sandbox's
/// end is on the log, whoever said it.
pub fn decide(draft: &Draft, records: &[Placed], is_final: bool) -> Verdict {
    if records.iter().any(|(_, record)| record.header.commit == draft.commit) {
        return Verdict::There;
    }
    let is_meter = matches!(draft.subject.kind(), SubjectKind::Usage(..));
    let last = records.last();
    if is_meter
        && last.and_then(|(_, record)| period(&record.events)) >= period(&draft.events)
        && last.is_some()
    {
        return Verdict::There;
    }
    if is_final && !is_meter {
        return Verdict::Obsolete;
    }
    Verdict::Append(last.map_or(Head::EMPTY, |(sequence, record)| record.head(*sequence)))
}

/// The highest number of a reading in a commit.
fn period(events: &[Event]) -> Option<u32> {
    events
        .iter()
        .filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.period) } else { None })
        .max()
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
    /// A record there is none.
    #[error("cannot decode a record of the subject")]
    Decode(#[source] DecodeError),
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
}

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
        let records = self.records(draft).await?;
        match decide(draft, &records, self.is_final(draft)) {
            Verdict::There => Ok(records.last().map(|(sequence, _)| *sequence).unwrap_or_default()),
            Verdict::Obsolete => {
                metrics::counter!("omnirun_worker_drafts_dropped_total").increment(1);
                Ok(Sequence::NONE)
            }
            Verdict::Append(head) => {
                let signed = self.signer.sign(draft, &head).map_err(PublishError::Encode)?;
                let (subject, commit) = (draft.subject.clone(), draft.commit);
                let entry = Entry { subject, expected: head.sequence, commit, record: signed.bytes };
                let at = self.append.append_all(Batch::one(entry)).await.map_err(PublishError::Append)?;
                Ok(at.last().copied().unwrap_or_default())
            }
        }
    }

    /// The records of the draft's subject: all of them where others write too or the last one does not tell, which are few; the last of a
    /// meter, which only its host writes and which has many.
    async fn records(&self, draft: &Draft) -> Result<Vec<Placed>, PublishError> {
        let subject = &draft.subject;
        let Some(last) = self.read.last(subject).await.map_err(PublishError::Read)? else {
            return Ok(Vec::new());
        };
        let last = placed(&last)?;
        let is_enough = last.1.header.version == 1 || matches!(subject.kind(), SubjectKind::Usage(..));
        if is_enough {
            return Ok(vec![last]);
        }
        let all = read_to_end(&*self.read, subject.log(), Filter::exactly(subject), Sequence::NONE).await;
        all.map_err(PublishError::Read)?.iter().map(placed).collect()
    }

    fn is_final(&self, draft: &Draft) -> bool {
        let SubjectKind::Sandbox(_, sandbox) = draft.subject.kind() else { return false };
        self.directory
            .view(|directory, _| directory.sandboxes.get(sandbox).is_some_and(|s| s.state.is_final()))
    }
}

fn placed(stored: &Stored) -> Result<Placed, PublishError> {
    Ok((stored.sequence, codec::decode(&stored.record).map_err(PublishError::Decode)?))
}

#[cfg(test)]
mod tests;
