//! The key ring: which keys are believed, folded from `sys.keys` and rooted in one pinned public key.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::envelope::Role;
use crate::event::Event;
use crate::id::{HostId, KeyId};
use crate::keys::{Digest, KeyEnrolled};
use crate::log::{Position, Sequence};
use crate::signing::{PublicKey, WeakKey, key_id};
use crate::subject::Log;
use crate::unit::Timestamp;

/// A key that was enrolled.
#[derive(Debug, Clone)]
pub struct RingEntry {
    /// The public half.
    pub public: PublicKey,
    /// What it may say.
    pub role: Role,
    /// The one host it speaks for, when it is a worker's.
    pub host: Option<HostId>,
    /// From when on it is not believed any more.
    pub retired_at: Option<Retirement>,
}

/// The end of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The position in EVENTS that says so: no later record there is believed.
    pub sequence: Sequence,
    /// When it was said, by the operator's clock. Other logs have no position to compare with: what its holder dates later is not believed
    /// there. Whoever stole the key can date back, so a stolen host's access to the bus is replaced as well (docs/runbooks/lost-host.md).
    pub at: Timestamp,
}

impl RingEntry {
    /// Whether the key had been retired when it signed a record of this time, filed at `place`.
    pub fn had_ended(&self, place: Position, said_at: Timestamp) -> bool {
        self.retired_at.is_some_and(|retired| match place.log {
            Log::Events => place.sequence > retired.sequence,
            Log::Keys | Log::Auth | Log::Usage(_) => said_at > retired.at,
        })
    }

    fn enrolment(&self, key: KeyId) -> KeyEnrolled {
        KeyEnrolled { key, public: self.public.to_bytes(), role: self.role, host: self.host }
    }
}

/// Every key that was ever believed. A retired key stays, to check what it signed before.
#[derive(Debug, Clone)]
pub struct KeyRing {
    root: Digest,
    entries: HashMap<KeyId, RingEntry>,
}

/// A [`KeyRing`] as a checkpoint stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// The pinned root key.
    pub root: Digest,
    /// Every enrolment, with its retirement.
    pub enrolled: Vec<(KeyEnrolled, Option<Retirement>)>,
}

/// Why an enrolment is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// The bytes are no acceptable public key.
    #[error("an enrolled public key is weak")]
    Weak,
    /// The id is not the one that key and role determine.
    #[error("an enrolled key's id does not belong to it")]
    ForeignId,
    /// A worker's key without a host, or another's with one.
    #[error("exactly the keys of workers name a host")]
    Host,
    /// There is one root key and it is pinned.
    #[error("a second root key cannot be enrolled")]
    SecondRoot,
    /// The pinned root key is believed because it is pinned, not because of the log.
    #[error("the root key cannot be retired in the log; pin another one")]
    RootRetired,
}

impl KeyRing {
    /// The ring that believes `root` alone: the key that the operator pinned.
    pub fn rooted_in(root: &Digest) -> Result<Self, WeakKey> {
        let public = PublicKey::from_bytes(root)?;
        let entry = RingEntry { public, role: Role::Root, host: None, retired_at: None };
        Ok(Self { root: *root, entries: HashMap::from([(key_id(Role::Root, root), entry)]) })
    }

    /// The pinned root key.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// What a checkpoint stores of it, sorted by key.
    pub fn state(&self) -> RingState {
        let subordinate = self.entries.iter().filter(|(_, entry)| entry.role != Role::Root);
        let mut enrolled: Vec<_> =
            subordinate.map(|(key, entry)| (entry.enrolment(*key), entry.retired_at)).collect();
        enrolled.sort_by_key(|(enrolled, _)| enrolled.key);
        RingState { root: self.root, enrolled }
    }

    /// The ring that [`Self::state`] was taken of.
    pub fn from_state(state: RingState) -> Result<Self, WeakKey> {
        let mut ring = Self::rooted_in(&state.root)?;
        for (enrolled, retired_at) in state.enrolled {
            let public = PublicKey::from_bytes(&enrolled.public)?;
            let entry = RingEntry { public, role: enrolled.role, host: enrolled.host, retired_at };
            ring.entries.insert(enrolled.key, entry);
        }
        Ok(ring)
    }

    /// The key with this id, if it was ever enrolled.
    pub fn get(&self, key: KeyId) -> Option<&RingEntry> {
        self.entries.get(&key)
    }

    /// The keys of a role that are believed now.
    pub fn current(&self, role: Role) -> impl Iterator<Item = (KeyId, &RingEntry)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.role == role && entry.retired_at.is_none())
            .map(|(id, entry)| (*id, entry))
    }

    /// Follows one event of `sys.keys` at `sequence`, said at `at`, which the caller knows to be signed by the root key. Enrolling twice
    /// changes nothing; events of other kinds are passed over.
    pub fn apply(&mut self, event: &Event, sequence: Sequence, at: Timestamp) -> Result<(), EnrolError> {
        match event {
            Event::KeyEnrolled(enrolled) => self.enrol(enrolled),
            Event::KeyRetired(retired) if retired.key == key_id(Role::Root, &self.root) => {
                Err(EnrolError::RootRetired)
            }
            Event::KeyRetired(retired) => {
                if let Some(entry) = self.entries.get_mut(&retired.key) {
                    entry.retired_at.get_or_insert(Retirement { sequence, at });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn enrol(&mut self, enrolled: &KeyEnrolled) -> Result<(), EnrolError> {
        if enrolled.role == Role::Root {
            return Err(EnrolError::SecondRoot);
        }
        if enrolled.host.is_some() != (enrolled.role == Role::Worker) {
            return Err(EnrolError::Host);
        }
        if enrolled.key != key_id(enrolled.role, &enrolled.public) {
            return Err(EnrolError::ForeignId);
        }
        let public = PublicKey::from_bytes(&enrolled.public).map_err(|WeakKey| EnrolError::Weak)?;
        let entry = RingEntry { public, role: enrolled.role, host: enrolled.host, retired_at: None };
        self.entries.entry(enrolled.key).or_insert(entry);
        Ok(())
    }
}
