//! Who is believed: every record is checked here before a fold sees it.
//!
//! Two kinds of findings. A [`Fault`] means that the log itself is damaged or forged: whoever follows it stops, unless a host may have put
//! it there ([`Verifier::pass`]). A [`Verdict::Ignored`] record is well made but says what its key may not say: it is reported, folds never
//! see it, and the chain goes on through it.
//!
//! A record that a tombstone names is neither: it counts as gone, see [`crate::erasure`].

mod authority;
mod opened;
mod pass;
mod tombstones;
mod verdict;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::codec::DecodeError;
use crate::envelope::Head;
use crate::erasure::Erased;
use crate::id::HostId;
use crate::keyring::{KeyRing, RingState};
use crate::log::{Position, Stored};
use crate::signing::WeakKey;
use crate::subject::{Log, Subject, SubjectKind};

pub use opened::Opened;
pub use tombstones::{TombstonesError, tombstones};
pub use verdict::{Fault, FaultKind, Ignored, Verdict};

use opened::Content;

/// How much of a record is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Chain, signature, role.
    Signatures,
    /// Chain and role: for records up to a position whose signatures were verified before, none of which was passed, and whose heads are
    /// known.
    Chains,
}

/// The ends of every subject that was read, and the key ring so far: all that checking the next record needs.
#[derive(Debug, Clone)]
pub struct Verifier {
    ring: KeyRing,
    subjects: HashMap<Subject, Known>,
    erased: Erased,
    /// Subjects that a tombstone has taken and whoever folds has not asked for yet.
    forgotten: Vec<SubjectKind>,
}

/// What is known of a subject.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Its end; [`Head::EMPTY`] where only its owner is known.
    head: Head,
    /// The host that claimed it, when it is a sandbox's.
    owner: Option<HostId>,
    /// Whether no host has a word on it any more: it never ran, or its host was given up with it.
    is_over: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self { head: Head::EMPTY, owner: None, is_over: false }
    }
}

/// A [`Verifier`] as a checkpoint stores it. Sorted, so that equal verifiers are equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierState {
    /// The end of every subject.
    pub heads: Vec<(Subject, Head)>,
    /// Which host claimed which sandbox.
    pub owners: Vec<(Subject, HostId)>,
    /// The sandboxes that no host has a word on any more.
    #[serde(default)]
    pub lost: Vec<Subject>,
    /// The key ring.
    pub ring: RingState,
    /// What tombstones have said: positions and hashes, no subjects.
    pub erased: Erased,
}

impl Verifier {
    /// A verifier that has read nothing.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring, subjects: HashMap::new(), erased: Erased::default(), forgotten: Vec::new() }
    }

    /// The key ring so far.
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The end of a subject; [`Head::EMPTY`] if it has no records.
    pub fn head(&self, subject: &Subject) -> Head {
        self.subjects.get(subject).map_or(Head::EMPTY, |known| known.head)
    }

    /// What a checkpoint stores of it.
    pub fn state(&self) -> VerifierState {
        let known = || self.subjects.iter();
        let mut heads: Vec<_> = known()
            .filter(|(_, known)| known.head != Head::EMPTY)
            .map(|(subject, known)| (subject.clone(), known.head))
            .collect();
        heads.sort_by(|a, b| a.0.cmp(&b.0));
        let mut owners: Vec<_> =
            known().filter_map(|(subject, known)| Some((subject.clone(), known.owner?))).collect();
        owners.sort();
        let lost = known().filter(|(_, known)| known.is_over).map(|(subject, _)| subject.clone());
        let mut lost: Vec<_> = lost.collect();
        lost.sort();
        VerifierState { heads, owners, lost, ring: self.ring.state(), erased: self.erased.clone() }
    }

    /// The verifier that [`Self::state`] was taken of.
    pub fn from_state(state: VerifierState) -> Result<Self, WeakKey> {
        let mut subjects: HashMap<Subject, Known> = HashMap::with_capacity(state.heads.len());
        for (subject, head) in state.heads {
            subjects.entry(subject).or_default().head = head;
        }
        for (subject, host) in state.owners {
            subjects.entry(subject).or_default().owner = Some(host);
        }
        for subject in state.lost {
            subjects.entry(subject).or_default().is_over = true;
        }
        let ring = KeyRing::from_state(state.ring)?;
        Ok(Self { ring, subjects, erased: state.erased, forgotten: Vec::new() })
    }

    /// The host that claimed a sandbox, if one has.
    pub fn owner(&self, sandbox: SubjectKind) -> Option<HostId> {
        self.subjects.get(&sandbox)?.owner
    }

    fn is_over(&self, sandbox: SubjectKind) -> bool {
        self.subjects.get(&sandbox).is_some_and(|known| known.is_over)
    }

    /// Every subject that has records, as far as this verifier has read.
    pub fn subjects(&self) -> impl Iterator<Item = (&Subject, Head)> {
        self.subjects.iter().map(|(subject, known)| (subject, known.head))
    }

    /// Checks the next record of `log`. Records of one log come in order; those of EVENTS before the usage of their sandboxes.
    pub fn check(&mut self, log: Log, stored: &Stored, depth: Depth) -> Result<Verdict, Fault> {
        let at = Position { log, sequence: stored.sequence };
        self.try_check(log, stored, Content::of(stored), depth).map_err(|kind| Fault { at, kind })
    }

    /// The same for a record that was opened before, perhaps on another thread. Gives back what the store filed.
    pub fn check_opened(
        &mut self,
        log: Log,
        opened: Opened,
        depth: Depth,
    ) -> (Stored, Result<Verdict, Fault>) {
        let Opened { stored, content } = opened;
        let at = Position { log, sequence: stored.sequence };
        let verdict = self.try_check(log, &stored, content, depth).map_err(|kind| Fault { at, kind });
        (stored, verdict)
    }

    fn try_check(
        &mut self,
        log: Log,
        stored: &Stored,
        content: Result<Content, DecodeError>,
        depth: Depth,
    ) -> Result<Verdict, FaultKind> {
        if self.is_erased(log, stored) {
            return Ok(Verdict::Erased);
        }
        let Content { record, hash } = content.map_err(FaultKind::Decode)?;
        let subject = &record.header.subject;
        if *subject != stored.subject {
            let (filed, said) = (Box::new(stored.subject.clone()), Box::new(subject.clone()));
            return Err(FaultKind::Subject { filed, said });
        }
        if subject.log() != log {
            return Err(FaultKind::Log { subject: subject.clone() });
        }
        let mut known = self.subjects.get_mut(subject);
        let mut last = known.as_ref().map_or(Head::EMPTY, |known| known.head);
        let (before, previous) = (record.header.version.saturating_sub(1), record.header.previous);
        let starts_here = match log {
            // Keys are wrapped anew and the records before destroyed: what is left of one starts anywhere, and the last record alone counts.
            Log::Keys => true,
            _ => subject.kind().account().is_some() && self.erased.starts_after(before, previous),
        };
        // Rubbish, or its owner alone, may be known of a subject before its chain starts.
        if last.version == 0 && starts_here {
            last = Head { version: before, hash: previous, ..Head::EMPTY };
        }
        if record.header.version != last.version.saturating_add(1) {
            return Err(FaultKind::Gap {
                subject: subject.clone(),
                last: last.version,
                found: record.header.version,
            });
        }
        if previous != last.hash {
            return Err(FaultKind::Chain { subject: subject.clone() });
        }
        let key = record.header.key;
        let entry = self.ring.get(key).ok_or(FaultKind::UnknownKey { key })?;
        if depth == Depth::Signatures {
            entry.public.verify(&record).map_err(|_| FaultKind::Signature)?;
        }
        let head = Head { sequence: stored.sequence, version: record.header.version, hash };
        match &mut known {
            Some(known) => known.head = head,
            None => drop(self.subjects.insert(subject.clone(), Known { head, ..Known::default() })),
        }
        let is_retired = entry.had_ended(Position { log, sequence: stored.sequence }, record.header.at);
        let allowed = if is_retired { Err(Ignored::Retired) } else { self.authorise(&record, entry) };
        Ok(match allowed.and_then(|()| self.follow(&record, stored)) {
            Ok(()) => Verdict::Believed(record),
            Err(ignored) => Verdict::Ignored(record, ignored),
        })
    }
}
