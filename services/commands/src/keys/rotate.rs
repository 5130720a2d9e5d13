//! Every data key under a new epoch of the master key, and the old epoch overwritten.
//!
//! Until the last key is wrapped anew the file holds both epochs, so that a rotation may be broken off at any moment: the next one goes on
//! with the epoch that this one made.

use std::collections::HashSet;

use omnirun_events::event::Event;
use omnirun_events::log::{Sequence, read_to_end};
use omnirun_events::subject::{Filter, Log, Subject};

use super::DataKeys;
use crate::failure::Failure;
use crate::master::Begun;
use crate::writer::Appended;

/// What a rotation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// The epoch that is the only one now.
    pub epoch: u32,
    /// Data keys that were wrapped anew.
    pub keys: u64,
    /// The position of EVENTS through which what was destroyed is final; none if the epoch had been begun before.
    pub final_through: Sequence,
}

impl DataKeys {
    /// Rotates the master key, or ends a rotation that was broken off. When it returns, nothing that was destroyed before the epoch began can be
    /// unwrapped any more, in whatever copy of KEYS.
    pub async fn rotate(&self) -> Result<Rotated, Failure> {
        // Looked at first: what is destroyed from here on may be wrapped under the new epoch before it goes.
        self.writer.catch_up().await?;
        let seen = self.writer.directory.progress().events;
        let (epoch, final_through) = match self.master.begin_rotation(&self.random).await? {
            Begun::Now(epoch) => (epoch, seen),
            Begun::Before(epoch) => (epoch, Sequence::NONE),
        };
        let mut keys = 0;
        // New keys are under the new epoch from here on. Of those that were there, one that another writer changed meanwhile is looked at again.
        loop {
            let records = read_to_end(&*self.writer.reader, Log::Keys, Filter::all(), Sequence::NONE).await?;
            let subjects: HashSet<Subject> = records.into_iter().map(|stored| stored.subject).collect();
            let mut is_done = true;
            for subject in subjects {
                match self.wrap_anew(&subject, epoch).await? {
                    Step::Nothing => {}
                    Step::Done => keys += 1,
                    Step::Moved => is_done = false,
                }
            }
            if is_done {
                break;
            }
        }
        self.master.end_rotation(epoch).await?;
        Ok(Rotated { epoch, keys, final_through })
    }

    async fn wrap_anew(&self, subject: &Subject, epoch: u32) -> Result<Step, Failure> {
        let Some((record, head)) = self.writer.last(subject).await? else { return Ok(Step::Nothing) };
        let Some(Event::DataKeyWrapped(wrapped)) = record.events.last() else { return Ok(Step::Nothing) };
        if wrapped.epoch < epoch {
            let key = self.unwrap(wrapped, subject).await?;
            let draft = self.wrapped(&key, wrapped.label, subject.clone());
            if let Appended::Moved(_) = self.writer.append(&[draft], &[head]).await? {
                return Ok(Step::Moved);
            }
        }
        // Whatever is before the newest record is under an epoch that ends, or has ended.
        let Some((_, head)) = self.writer.last(subject).await? else { return Ok(Step::Nothing) };
        let before = Sequence(head.sequence.0.saturating_sub(1));
        self.erase.purge_through(subject, before).await?;
        Ok(if wrapped.epoch < epoch { Step::Done } else { Step::Nothing })
    }
}

/// What became of one key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is under the new epoch already, or a later one, or gone.
    Nothing,
    /// It is under the new epoch now.
    Done,
    /// Somebody else wrote first.
    Moved,
}
