//! The master key: wraps every data key, and one-time codes are derived from it. Only this service holds it.
//!
//! A rotation is what makes a destroyed data key unreadable wherever its wrapped bytes may linger (free blocks, replicas, backups): every
//! key that lives on is wrapped anew under a new epoch, and the epoch that wrapped the destroyed one is overwritten. [`crate::keys`] does it;
//! here are the epochs, in memory and in their file ([`slots`]).

mod slots;

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use hkdf::Hkdf;
use omnirun_events::sealing::DataKey;
use sha2::Sha256;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use zeroize::Zeroizing;

use crate::random::{self, Random};
use slots::Epoch;

/// The master key of one or two epochs; two while a rotation is under way. Wiped when dropped, never printed.
pub struct MasterKey {
    /// None for one that lives in memory alone.
    path: Option<PathBuf>,
    known: RwLock<Known>,
    /// Keys are wrapped under a shared turn, and epochs change under an exclusive one.
    turns: tokio::sync::RwLock<()>,
}

struct Known {
    /// Newest first, at least one.
    epochs: Vec<Epoch>,
    /// What codes of the epoch before were derived with: those under way still work after a rotation, until the next start.
    spent_codes: Option<(u32, Zeroizing<[u8; 32]>)>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey(epoch {}, [redacted])", self.epoch())
    }
}

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// It is already there; a second one would make everything sealed unreadable.
    #[error("{} exists already and is not replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot create the master key {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("cannot read the master key {}; `omnirun ops init` creates one", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A new epoch cannot be written, or an old one overwritten. The file holds what it held, or both.
    #[error("cannot rotate the master key {}", path.display())]
    Rotate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not exactly its owner's to read and write.
    #[error("the master key {} has mode {mode:03o}; make it 600 and consider it seen by whoever could read it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who may read it and replace it whatever its mode says.
    #[error("the master key {} belongs to user {owner} and not to {wanted}, as whom this runs", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it has to be.
        wanted: u32,
    },
    /// Neither slot is whole.
    #[error("the master key {} is damaged in both slots; restore it from its copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The epoch of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It began with this call.
    Now(u32),
    /// Somebody had begun it before.
    Before(u32),
}

/// While this is held, no epoch comes or goes: not in this process, and not in another one that has the same file.
pub(crate) struct Turn<G> {
    _here: G,
    file: Option<File>,
}

impl MasterKey {
    /// Creates the file with a fresh key of epoch 1, mode 0600, durable on return. An existing file is never touched; a crash in
    /// between leaves a file that [`Self::load`] calls damaged.
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        Self::create_with(path, &random::system())
    }

    /// [`Self::create`] with random bytes from elsewhere.
    pub fn create_with(path: &Path, random: &Random) -> Result<Self, MasterKeyError> {
        let first = Epoch { number: 1, key: Zeroizing::new(random::bytes(random)) };
        slots::create(path, &first).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => MasterKeyError::Exists { path: path.to_owned() },
            _ => MasterKeyError::Create { path: path.to_owned(), source },
        })?;
        Ok(Self::of(Some(path.to_owned()), vec![first]))
    }

    /// Loads the file. The slot with the higher epoch is the current key.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        let file =
            File::open(path).map_err(|source| MasterKeyError::Read { path: path.to_owned(), source })?;
        let epochs = epochs_of(path, &file)?;
        Ok(Self::of(Some(path.to_owned()), epochs))
    }

    /// A master key without a file, for tests and throw-away data.
    pub fn ephemeral(random: &Random) -> Self {
        Self::of(None, vec![Epoch { number: 1, key: Zeroizing::new(random::bytes(random)) }])
    }

    fn of(path: Option<PathBuf>, epochs: Vec<Epoch>) -> Self {
        let known = RwLock::new(Known { epochs, spent_codes: None });
        Self { path, known, turns: tokio::sync::RwLock::default() }
    }

    /// The epoch that new keys are wrapped under.
    pub fn epoch(&self) -> u32 {
        self.known(|known| known.epochs[0].number)
    }

    /// Whether a rotation has begun and not ended.
    pub fn is_rotating(&self) -> bool {
        self.known(|known| known.epochs.len() > 1)
    }

    /// The key that wraps data keys in this epoch, unless the epoch is gone.
    pub fn wrapping(&self, epoch: u32) -> Option<DataKey> {
        self.known(|known| {
            let held = known.epochs.iter().find(|held| held.number == epoch)?;
            Some(DataKey::from_bytes(*derive(held, b"omnirun/wrap/v1")))
        })
    }

    /// The key that one-time codes of an epoch are derived with, unless the epoch is long gone.
    pub(crate) fn codes(&self, epoch: u32) -> Option<Zeroizing<[u8; 32]>> {
        self.known(|known| match known.epochs.iter().find(|held| held.number == epoch) {
            Some(held) => Some(codes_of(held)),
            None => known.spent_codes.as_ref().filter(|spent| spent.0 == epoch).map(|spent| spent.1.clone()),
        })
    }

    /// A turn in which keys are wrapped and written down: the current epoch stays the current one. What another process has changed is
    /// known from here on.
    pub(crate) async fn turn(&self) -> Result<Turn<RwLockReadGuard<'_, ()>>, MasterKeyError> {
        let here = self.turns.read().await;
        let file = self.locked(File::lock_shared).await?;
        Ok(Turn { _here: here, file })
    }

    /// Adds an epoch, unless a rotation that was broken off has added it before; it is the current one when this returns, and durable.
    pub(crate) async fn begin_rotation(&self, random: &Random) -> Result<Begun, MasterKeyError> {
        let turn = self.turn_alone().await?;
        let newest = self.epoch();
        if self.is_rotating() {
            return Ok(Begun::Before(newest));
        }
        let next = Epoch { number: newest + 1, key: Zeroizing::new(random::bytes(random)) };
        self.in_file(&turn, |file| slots::write(file, &next))?;
        self.change(|known| known.epochs.insert(0, next));
        Ok(Begun::Now(newest + 1))
    }

    /// Overwrites the epoch before `epoch`. What was wrapped under it alone is unreadable from here on. Does nothing once `epoch` is not the
    /// newest: then the one before it is gone, and keys that nobody has looked at yet are under `epoch` itself.
    pub(crate) async fn end_rotation(&self, epoch: u32) -> Result<(), MasterKeyError> {
        let turn = self.turn_alone().await?;
        let old = self.known(|known| match known.epochs.as_slice() {
            [newest, old] if newest.number == epoch => Some(old.clone()),
            _ => None,
        });
        let Some(old) = old else { return Ok(()) };
        self.in_file(&turn, |file| slots::wipe(file, &old))?;
        self.change(|known| {
            known.epochs.truncate(1);
            known.spent_codes = Some((old.number, codes_of(&old)));
        });
        Ok(())
    }

    async fn turn_alone(&self) -> Result<Turn<RwLockWriteGuard<'_, ()>>, MasterKeyError> {
        let here = self.turns.write().await;
        let file = self.locked(File::lock).await?;
        Ok(Turn { _here: here, file })
    }

    /// The file under a lock of its own (flock(2) belongs to what was opened), after taking in what is in it.
    async fn locked(&self, lock: Lock) -> Result<Option<File>, MasterKeyError> {
        let Some(path) = self.path.clone() else { return Ok(None) };
        // Another process may hold it for as long as a rotation writes.
        let locked = tokio::task::spawn_blocking(move || lock_and_read(&path, lock));
        let (file, epochs) = locked.await.expect("locking does not panic")?;
        self.change(|known| known.epochs = epochs);
        Ok(Some(file))
    }

    fn in_file<G>(
        &self,
        turn: &Turn<G>,
        act: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<(), MasterKeyError> {
        let (Some(file), Some(path)) = (&turn.file, &self.path) else { return Ok(()) };
        act(file).map_err(|source| MasterKeyError::Rotate { path: path.clone(), source })
    }

    fn known<R>(&self, read: impl FnOnce(&Known) -> R) -> R {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Known) -> R) -> R {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A way to lock a file.
type Lock = fn(&File) -> std::io::Result<()>;

/// The file under a lock, and its epochs.
fn lock_and_read(path: &Path, lock: Lock) -> Result<(File, Vec<Epoch>), MasterKeyError> {
    let failed = |source| MasterKeyError::Rotate { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    lock(&file).map_err(failed)?;
    let epochs = epochs_of(path, &file)?;
    Ok((file, epochs))
}

/// The epochs of the file at `path`, which is opened and has to be ours alone.
fn epochs_of(path: &Path, file: &File) -> Result<Vec<Epoch>, MasterKeyError> {
    let unreadable = |source| MasterKeyError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    is_ours(path, &metadata, rustix::process::geteuid().as_raw())?;
    let epochs = slots::read(file).map_err(unreadable)?;
    if epochs.is_empty() { Err(MasterKeyError::Damaged { path: path.to_owned() }) } else { Ok(epochs) }
}

/// Refuses a file that is not this user's, or not exactly for this user to read and write: the program makes it so, and another mode means that
/// somebody else had a hand in it.
fn is_ours(path: &Path, file: &Metadata, wanted: u32) -> Result<(), MasterKeyError> {
    let (path, mode, owner) = (path.to_owned(), file.mode() & 0o7777, file.uid());
    match (mode, owner) {
        (0o600, owner) if owner == wanted => Ok(()),
        (0o600, owner) => Err(MasterKeyError::Owner { path, owner, wanted }),
        (mode, _) => Err(MasterKeyError::Mode { path, mode }),
    }
}

fn codes_of(epoch: &Epoch) -> Zeroizing<[u8; 32]> {
    derive(epoch, b"omnirun/otp/epoch/v2")
}

fn derive(epoch: &Epoch, label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, epoch.key.as_slice())
        .expand(label, key.as_mut_slice())
        .expect("32 bytes are below HKDF's limit of 8160");
    key
}

#[cfg(test)]
mod tests;
