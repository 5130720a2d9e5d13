//! Enrolment and retirement: the root key says on `sys.keys` that another key is to be believed, or is no more.

use omnirun_events::codec::EncodeError;
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{CommitId, KeyId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::{KeyEnrolled, KeyRetired};
use omnirun_events::log::{
    Append, AppendError, Batch, Entry, Position, Read, ReadError, Sequence, read_to_end,
};
use omnirun_events::signing::{Signer, WeakKey};
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_events::verify::{Depth, Fault, Verifier};

use super::Identity;

/// Tries to append before somebody else's enrolments are taken to go on for ever. Two processes that start on one new log need two.
const TRIES_MAX: u32 = 5;

/// What an enrolment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolled {
    /// Keys that were not enrolled before.
    pub added: usize,
    /// The last position of `sys.keys`: a reader that has reached it believes every key.
    pub position: Position,
}

/// Why keys cannot be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// `sys.keys` cannot be read.
    #[error("cannot read sys.keys")]
    Read(#[source] ReadError),
    /// `sys.keys` cannot be believed under the pinned root key.
    #[error(
        "sys.keys cannot be believed by the pinned root key; this log belongs to another installation, or is damaged"
    )]
    Fault(#[source] Fault),
    /// The pinned root key is none.
    #[error("the pinned root key cannot be used")]
    Root(#[source] WeakKey),
    /// A key has to be enrolled or retired and the root key is kept elsewhere.
    #[error(
        "only the root key can speak for or against the {role:?} key; put keys/root.key back and try again"
    )]
    RootKeyAway {
        /// Whose key it is.
        role: Role,
    },
    /// No key with this id was ever enrolled, or it is the root key, which is pinned and not retired.
    #[error("no key {key} was enrolled; `omnirun ops tail` names the key of each record")]
    Unknown {
        /// Which key.
        key: KeyId,
    },
    /// A key was retired and is not believed again.
    #[error("key {key} was retired; make new keys")]
    Retired {
        /// Which key.
        key: KeyId,
    },
    /// The enrolment cannot be written down.
    #[error("cannot encode the enrolment")]
    Encode(#[source] EncodeError),
    /// The enrolment cannot be appended; trying again is safe.
    #[error("cannot append to sys.keys; running it again is safe")]
    Append(#[source] AppendError),
}

/// Makes sure that every key of `identity` is enrolled: appends what is missing to `sys.keys`, signed by the root key. Doing it twice,
/// or again after a crash anywhere in it, changes nothing.
pub async fn enrol(
    append: &dyn Append,
    read: &dyn Read,
    identity: &Identity,
    now: Timestamp,
) -> Result<Enrolled, EnrolError> {
    say(append, read, identity, now, |ring| {
        let missing = missing(identity, ring)?;
        let Some(first) = missing.first() else { return Ok(None) };
        let commit = commit_of(&missing);
        let role = first.role;
        Ok(Some(Wanted { role, commit, events: missing.into_iter().map(Event::from).collect() }))
    })
    .await
}

/// Says that a key is not believed from here on; what it signed before stays valid. Of a key that is retired already nothing is said again.
pub async fn retire(
    append: &dyn Append,
    read: &dyn Read,
    identity: &Identity,
    key: KeyId,
    now: Timestamp,
) -> Result<Enrolled, EnrolError> {
    say(append, read, identity, now, |ring| {
        let entry = ring.get(key).filter(|entry| entry.role != Role::Root);
        let entry = entry.ok_or(EnrolError::Unknown { key })?;
        let wanted = Wanted {
            role: entry.role,
            commit: CommitId::derive(key.as_bytes(), "retire"),
            events: vec![KeyRetired { key }.into()],
        };
        Ok(entry.retired_at.is_none().then_some(wanted))
    })
    .await
}

/// What is to be said on `sys.keys`, and about whose keys.
struct Wanted {
    role: Role,
    commit: CommitId,
    events: Vec<Event>,
}

/// Appends what `decide` wants of the key ring, signed by the root key, again if somebody else was first.
async fn say(
    append: &dyn Append,
    read: &dyn Read,
    identity: &Identity,
    now: Timestamp,
    decide: impl Fn(&KeyRing) -> Result<Option<Wanted>, EnrolError>,
) -> Result<Enrolled, EnrolError> {
    let subject = Subject::from(SubjectKind::KeyRing);
    let mut tries = 1;
    loop {
        let verifier = read_ring(read, identity, &subject).await?;
        let head = verifier.head(&subject);
        let Some(Wanted { role, commit, events }) = decide(verifier.ring())? else {
            let position = Position { log: Log::Events, sequence: head.sequence };
            return Ok(Enrolled { added: 0, position });
        };
        let root = identity.root_signer().ok_or(EnrolError::RootKeyAway { role })?;
        let added = events.len();
        let draft =
            Draft { commit, subject: subject.clone(), at: now, actor: Actor::Operator, cause: None, events };
        let record = root.sign(&draft, &head).map_err(EnrolError::Encode)?.bytes;
        let entry = Entry { subject: subject.clone(), expected: head.sequence, commit, record };
        match append.append_all(Batch::one(entry)).await {
            Ok(sequences) => {
                let sequence = sequences.last().copied().unwrap_or(head.sequence);
                return Ok(Enrolled { added, position: Position { log: Log::Events, sequence } });
            }
            Err(AppendError::Conflict { .. } | AppendError::Unknown { .. }) if tries < TRIES_MAX => {
                tries += 1
            }
            Err(error) => return Err(EnrolError::Append(error)),
        }
    }
}

async fn read_ring(read: &dyn Read, identity: &Identity, subject: &Subject) -> Result<Verifier, EnrolError> {
    let mut verifier = Verifier::new(KeyRing::rooted_in(&identity.root).map_err(EnrolError::Root)?);
    let records = read_to_end(read, Log::Events, Filter::exactly(subject), Sequence::NONE).await;
    for stored in records.map_err(EnrolError::Read)? {
        verifier.check(Log::Events, &stored, Depth::Signatures).map_err(EnrolError::Fault)?;
    }
    Ok(verifier)
}

fn missing(identity: &Identity, ring: &KeyRing) -> Result<Vec<KeyEnrolled>, EnrolError> {
    let (host, worker) = &identity.worker;
    let wanted = [
        enrolment(&identity.commands, Role::Commands),
        enrolment(&identity.gateway, Role::Gateway),
        KeyEnrolled { host: Some(*host), ..enrolment(worker, Role::Worker) },
    ];
    let mut missing = Vec::new();
    for enrolled in wanted {
        match ring.get(enrolled.key) {
            None => missing.push(enrolled),
            Some(entry) if entry.retired_at.is_some() => {
                return Err(EnrolError::Retired { key: enrolled.key });
            }
            Some(_) => {}
        }
    }
    Ok(missing)
}

fn enrolment(signer: &Signer, role: Role) -> KeyEnrolled {
    KeyEnrolled { key: signer.id(), public: signer.public(), role, host: None }
}

/// The same keys make the same commit, so that a retry lands on the record of the first try.
fn commit_of(missing: &[KeyEnrolled]) -> CommitId {
    let seed: Vec<u8> = missing.iter().flat_map(|enrolled| *enrolled.key.as_bytes()).collect();
    CommitId::derive(&seed, "enrol")
}
