//! Read models: pure folds of the log. They take time from records, never fail, never call out, never append.
//!
//! There is no clock and no randomness here (`clippy.toml` of this folder forbids them). Where a record comes from, in which order,
//! and who believes it is the runner's and `events::verify`'s business.
//!
//! Reading order: [`Fold`] and [`Fact`], then one file per read model, then [`directory`], the one that answers requests.

pub mod accounts;
pub mod erasures;
pub mod hosts;
pub mod plans;
pub mod sandboxes;
pub mod standings;
pub mod tokens;

pub mod directory;
pub mod usage;

use omnirun_events::envelope::{Actor, Record};
use omnirun_events::event::Event;
use omnirun_events::id::CommitId;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Sequence, Stored};
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sha2::Digest as _;

pub use directory::Directory;
pub use usage::Usage;

/// One believed event and what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// Position in its log.
    pub sequence: Sequence,
    /// Where it is filed.
    pub subject: &'a Subject,
    /// What that is about.
    pub kind: SubjectKind,
    /// When it happened.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// Its commit.
    pub commit: CommitId,
    /// What happened.
    pub event: &'a Event,
}

/// A read model. State is serialised with named fields and ordered maps only, so that equal states are equal bytes.
pub trait Fold: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its name: of checkpoints, metrics and `ops replay`.
    const NAME: &'static str;

    /// Counted up when the same history would give another state; older checkpoints are then absent.
    const VERSION: u32;

    /// Takes one event in. Total: an event that makes no sense here changes nothing.
    fn apply(&mut self, fact: &Fact<'_>);

    /// Drops what came of a subject of which every record that was folded so far is gone: a tombstone has taken them. Afterwards the state is
    /// the one that a rebuild makes, which never sees those records. A subject of which nothing is known changes nothing.
    fn forget(&mut self, subject: SubjectKind);

    /// Takes in every event of a believed record.
    fn apply_record(&mut self, stored: &Stored, record: &Record) {
        let kind = stored.subject.kind();
        for event in &record.events {
            self.apply(&Fact {
                sequence: stored.sequence,
                subject: &stored.subject,
                kind,
                at: record.header.at,
                actor: record.header.actor,
                commit: record.header.commit,
                event,
            });
        }
    }

    /// SHA-256 of the state's canonical form, its MessagePack: what `ops replay` compares.
    fn digest(&self) -> Digest {
        let bytes =
            rmp_serde::to_vec_named(self).expect("ids, numbers, texts and ordered maps always encode");
        Digest(sha2::Sha256::digest(bytes).into())
    }
}
