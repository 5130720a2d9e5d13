//! Reading the tombstones ahead of everything else: whoever reads a log from the beginning, or goes on after a while, must know what is gone
//! before it misses it.

use crate::envelope::Record;
use crate::erasure::Erased;
use crate::event::Event;
use crate::keyring::KeyRing;
use crate::log::{Read, ReadError, Sequence, Stored, read_to_end};
use crate::subject::{Filter, Log, Subject, SubjectKind};
use crate::verify::{Depth, Fault, Ignored, Verifier};

/// Why the tombstones are not known.
#[derive(Debug, thiserror::Error)]
pub enum TombstonesError {
    /// The store cannot be read.
    #[error("cannot read the tombstones")]
    Read(#[source] ReadError),
    /// One of them, or of the keys that signed them, cannot be believed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Everything that the tombstones on the log say, each believed by the keys that `ring` believes and those that they enrol. Neither
/// subject is ever cut, so that both are checked whole, from their first record. Costs one look where nothing was ever erased.
pub async fn tombstones(read: &dyn Read, ring: KeyRing) -> Result<Erased, TombstonesError> {
    let (keys, erasure) = (SubjectKind::KeyRing.into(), Subject::from(SubjectKind::Erasure));
    // The end is fixed first: the key of every tombstone up to it is on `sys.keys` by then.
    let Some(last) = read.last(&erasure).await.map_err(TombstonesError::Read)? else {
        return Ok(Erased::default());
    };
    let mut verifier = Verifier::new(ring);
    for subject in [keys, erasure] {
        let read = read_to_end(read, Log::Events, Filter::exactly(&subject), Sequence::NONE).await;
        for stored in read.map_err(TombstonesError::Read)? {
            if stored.subject.kind() == SubjectKind::Erasure && stored.sequence > last.sequence {
                break;
            }
            verifier.check(Log::Events, &stored, Depth::Signatures)?;
        }
    }
    Ok(verifier.erased)
}

impl Verifier {
    /// Takes in tombstones that were read ahead: what they name counts as gone from here on, as if they had just been read.
    pub fn learn(&mut self, erased: &Erased) {
        if self.erased.includes(erased) {
            return;
        }
        self.erased.merge(erased);
        self.forget_erased();
    }

    /// What the tombstones so far have said.
    pub fn erased(&self) -> &Erased {
        &self.erased
    }

    /// The subjects of which everything that was read so far is gone, since the last call. Whoever folded their records drops what came of
    /// them.
    pub fn take_forgotten(&mut self) -> Vec<SubjectKind> {
        std::mem::take(&mut self.forgotten)
    }

    /// Follows believed tombstones. One that names itself, or what comes after it, cannot have been meant.
    pub(super) fn bury(&mut self, record: &Record, stored: &Stored) -> Result<(), Ignored> {
        let tombstones = || {
            record.events.iter().filter_map(|event| match event {
                Event::RecordsErased(tombstone) => Some(tombstone),
                _ => None,
            })
        };
        let is_ahead = |last: Sequence| last >= stored.sequence;
        if tombstones()
            .filter(|tombstone| tombstone.log == Log::Events)
            .any(|tombstone| tombstone.positions.iter().any(|span| is_ahead(span.last())))
        {
            return Err(Ignored::Tombstone);
        }
        let mut said = Erased::default();
        tombstones().for_each(|tombstone| said.add(tombstone));
        self.learn(&said);
        Ok(())
    }

    /// Forgets the subjects that end at a position which is gone.
    fn forget_erased(&mut self) {
        let Self { subjects, erased, forgotten, .. } = self;
        subjects.retain(|subject, known| {
            let is_gone = is_erasable(subject.kind())
                && erased.covers(subject.log(), known.head.sequence, known.head.sequence);
            if is_gone {
                forgotten.push(subject.kind());
            }
            !is_gone
        });
    }

    /// Whether a record is gone, whatever the store still holds.
    pub(super) fn is_erased(&self, log: Log, stored: &Stored) -> bool {
        is_erasable(stored.subject.kind()) && self.erased.covers(log, stored.sequence, stored.sequence)
    }

    /// Whether nothing is known of the account of this subject: it never was, or was erased.
    pub(super) fn is_of_no_account(&self, kind: SubjectKind) -> bool {
        kind.account().is_some_and(|account| !self.subjects.contains_key(&SubjectKind::Account(account)))
    }
}

/// What a tombstone can remove: records of accounts. What the system says of itself stays, whatever a tombstone names.
fn is_erasable(kind: SubjectKind) -> bool {
    kind.account().is_some()
}
