//! Who is believed: every record is checked here before a fold sees it.
//!
//! Two kinds of findings. A [`Fault`] means that the log itself is damaged or forged: whoever follows it stops, unless a host may have put
//! it there ([`Verifier::pass`]). A [`Verdict::Ignored`] record is well made but says what its key may not say: it is reported, folds never
//! see it, and the chain goes on through it.
//!
//! A record that a tombstone names is neither: it counts as gone, see [`crate::erasure`].

mod opened;
mod pass;
mod tombstones;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::codec::DecodeError;
use crate::envelope::{Actor, Head, Record, Role};
use crate::erasure::Erased;
use crate::event::Event;
use crate::id::{HostId, KeyId};
use crate::keyring::{EnrolError, KeyRing, RingEntry, RingState};
use crate::log::{Position, Stored};
use crate::sandbox::StopReason;
use crate::signing::WeakKey;
use crate::subject::{Log, Subject, SubjectKind};

pub use opened::Opened;
pub use tombstones::{TombstonesError, tombstones};

use opened::Content;

/// Damage or forgery in the log, with the first bad position.
#[derive(Debug, thiserror::Error)]
#[error("record at {at} cannot be believed")]
pub struct Fault {
    /// Where.
    pub at: Position,
    /// What is wrong.
    #[source]
    pub kind: FaultKind,
}

impl Fault {
    /// Whether a tombstone that the reader has not seen yet may explain it: the records before this one may have been removed while it was
    /// reading. It reads the tombstones and checks once more.
    pub fn may_be_erasure(&self) -> bool {
        matches!(self.kind, FaultKind::Gap { .. } | FaultKind::Chain { .. })
    }
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum FaultKind {
    /// Its bytes are no record.
    #[error("it cannot be decoded")]
    Decode(#[source] DecodeError),
    /// Its header names another subject than the one it is filed under.
    #[error("it is filed under {filed} and says {said}")]
    Subject {
        /// Where the store has it.
        filed: Box<Subject>,
        /// What its header says.
        said: Box<Subject>,
    },
    /// Its subject belongs to another log than the one that holds it.
    #[error("it is on {subject}, which belongs to {}", subject.log())]
    Log {
        /// Its subject.
        subject: Subject,
    },
    /// A record of its subject is missing or doubled.
    #[error("it is number {found} of {subject}, after number {last}")]
    Gap {
        /// The subject.
        subject: Subject,
        /// Number of the record before it.
        last: u64,
        /// Its own number.
        found: u64,
    },
    /// The record before it is not the one that its writer saw.
    #[error("it does not follow the record before it on {subject}")]
    Chain {
        /// The subject.
        subject: Subject,
    },
    /// Signed by a key that the root key never enrolled.
    #[error("its key {key} was never enrolled")]
    UnknownKey {
        /// The key.
        key: KeyId,
    },
    /// The signature does not fit.
    #[error("its signature does not fit")]
    Signature,
}

/// Why a well-made record is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// Its key's role may not say one of its events.
    Role(Role),
    /// Its key was retired before: whoever still has it says nothing any more, and stops nobody.
    Retired,
    /// A worker spoke for a sandbox or host that is not its own.
    ForeignHost,
    /// It says that somebody acted for whom its key cannot speak.
    Actor,
    /// It enrols a key that cannot be accepted.
    Enrolment(String),
    /// A worker speaks for a sandbox of an account that is not there: it was erased, and this came too late. It is harmless, and it goes with
    /// the next tombstone.
    Erased,
    /// A tombstone that names positions which were not written yet.
    Tombstone,
}

/// What is to be done with a record.
#[derive(Debug)]
pub enum Verdict {
    /// Folds may see it.
    Believed(Record),
    /// It is reported and skipped.
    Ignored(Record, Ignored),
    /// A tombstone says that it is gone: it is skipped as if it were not there.
    Erased,
}

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
    /// Whether that host was given up with the sandbox: it has no word on it any more.
    is_lost: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self { head: Head::EMPTY, owner: None, is_lost: false }
    }
}

/// A [`Verifier`] as a checkpoint stores it. Sorted, so that equal verifiers are equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierState {
    /// The end of every subject.
    pub heads: Vec<(Subject, Head)>,
    /// Which host claimed which sandbox.
    pub owners: Vec<(Subject, HostId)>,
    /// The sandboxes whose hosts were given up.
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
        let lost = known().filter(|(_, known)| known.is_lost).map(|(subject, _)| subject.clone());
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
            subjects.entry(subject).or_default().is_lost = true;
        }
        let ring = KeyRing::from_state(state.ring)?;
        Ok(Self { ring, subjects, erased: state.erased, forgotten: Vec::new() })
    }

    /// The host that claimed a sandbox, if one has.
    pub fn owner(&self, sandbox: SubjectKind) -> Option<HostId> {
        self.subjects.get(&sandbox)?.owner
    }

    fn is_lost(&self, sandbox: SubjectKind) -> bool {
        self.subjects.get(&sandbox).is_some_and(|known| known.is_lost)
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
        if known.is_none() && starts_here {
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

    /// Whether the key may say this, here, for this actor.
    fn authorise(&self, record: &Record, entry: &RingEntry) -> Result<(), Ignored> {
        let unknown_allowed = |event: &Event| matches!(event, Event::Unknown { .. });
        for (name, event) in record.header.events.iter().zip(&record.events) {
            if !unknown_allowed(event) && !Event::may_be_said_by(name, entry.role) {
                return Err(Ignored::Role(entry.role));
            }
        }
        let kind = record.header.subject.kind();
        if (kind == SubjectKind::KeyRing) != (entry.role == Role::Root) {
            return Err(Ignored::Role(entry.role));
        }
        match (entry.role, entry.host) {
            (Role::Worker, Some(host)) => self.authorise_worker(record, kind, host),
            (Role::Worker, None) => Err(Ignored::ForeignHost),
            _ if matches!(record.header.actor, Actor::Host(_)) => Err(Ignored::Actor),
            _ => Ok(()),
        }
    }

    fn authorise_worker(&self, record: &Record, kind: SubjectKind, host: HostId) -> Result<(), Ignored> {
        if record.header.actor != Actor::Host(host) {
            return Err(Ignored::Actor);
        }
        let mut claimed = record.events.iter().filter_map(|event| match event {
            Event::SandboxClaimed(claimed) => Some(claimed.host),
            _ => None,
        });
        let first = claimed.next();
        let (claims, is_claim) = (first == Some(host), first.is_some());
        if claimed.any(|other| other != host) {
            return Err(Ignored::ForeignHost);
        }
        let (is_own, owner) = match kind {
            SubjectKind::Host(subject) => (subject == host, Some(subject)),
            SubjectKind::Sandbox(..) => match self.owner(kind) {
                Some(owner) => (owner == host && !self.is_lost(kind), Some(owner)),
                None => (claims && record.header.version == 1, None),
            },
            SubjectKind::Usage(_, account, sandbox) => {
                let owner = self.owner(SubjectKind::Sandbox(account, sandbox));
                (owner == Some(host), owner)
            }
            _ => (false, None),
        };
        match is_own {
            true => Ok(()),
            false if owner.is_none() && !is_claim && self.is_of_no_account(kind) => Err(Ignored::Erased),
            false => Err(Ignored::ForeignHost),
        }
    }

    /// Takes note of what changes who is believed.
    fn follow(&mut self, record: &Record, stored: &Stored) -> Result<(), Ignored> {
        let kind = record.header.subject.kind();
        match kind {
            SubjectKind::KeyRing => {
                // On a copy, so that a record that is ignored for one enrolment leaves none of its others behind.
                let mut ring = self.ring.clone();
                for event in &record.events {
                    let applied = ring.apply(event, stored.sequence, record.header.at);
                    applied.map_err(|error: EnrolError| Ignored::Enrolment(error.to_string()))?;
                }
                self.ring = ring;
            }
            SubjectKind::Erasure => self.bury(record, stored)?,
            SubjectKind::Sandbox(..) => {
                let Some(known) = self.subjects.get_mut(&kind) else { return Ok(()) };
                for event in &record.events {
                    match event {
                        Event::SandboxClaimed(claimed) => {
                            known.owner.get_or_insert(claimed.host);
                        }
                        Event::SandboxStopped(stopped) => {
                            known.is_lost |= stopped.reason == StopReason::HostLost;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
