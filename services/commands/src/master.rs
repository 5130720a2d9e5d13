//! The master key: wraps every data key, and one-time codes are derived from it. Only this service holds it.
//!
//! ```text
//!   master.key, 1024 bytes      0: magic(8) epoch(4, LE) key(32) crc32(4, LE)     512: the same, or zeros
//! ```
//!
//! Two fixed slots in different disk sectors, rewritten in place and never moved: a file that is replaced would leave the old key in free blocks.
//! A torn write spoils one slot and its checksum shows it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use omnirun_events::sealing::DataKey;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::random::{self, Random};

const MAGIC: &[u8; 8] = b"omrmast1";
const SLOT: usize = 512;
const SLOTS: usize = 2;
const USED: usize = 8 + 4 + 32 + 4;

/// The master key of one or two epochs; two while a rotation is under way. Wiped when dropped, never printed.
pub struct MasterKey {
    current: Epoch,
    other: Option<Epoch>,
}

struct Epoch {
    number: u32,
    key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey(epoch {}, [redacted])", self.current.number)
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
    /// Others than its owner may touch it.
    #[error("the master key {} has mode {mode:03o}; make it 600 and consider it seen by whoever could read it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither slot is whole.
    #[error("the master key {} is damaged in both slots; restore it from its copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl MasterKey {
    /// Creates the file with a fresh key of epoch 1, mode 0600, durable on return. An existing file is never touched; a crash in
    /// between leaves a file that [`Self::load`] calls damaged.
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        Self::create_with(path, &random::system())
    }

    /// [`Self::create`] with random bytes from elsewhere.
    pub fn create_with(path: &Path, random: &Random) -> Result<Self, MasterKeyError> {
        let epoch = Epoch { number: 1, key: Zeroizing::new(random::bytes(random)) };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => MasterKeyError::Exists { path: path.to_owned() },
            _ => MasterKeyError::Create { path: path.to_owned(), source },
        })?;
        let written = write_slots(&file, &epoch).and_then(|()| sync_directory(path));
        written.map_err(|source| MasterKeyError::Create { path: path.to_owned(), source })?;
        Ok(Self { current: epoch, other: None })
    }

    /// Loads the file. The slot with the higher epoch is the current key.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        let unreadable = |source| MasterKeyError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::Mode { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(SLOT * SLOTS));
        file.by_ref().take((SLOT * SLOTS) as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        let mut epochs: Vec<Epoch> = bytes.chunks(SLOT).filter_map(Epoch::from_slot).collect();
        epochs.sort_by_key(|epoch| epoch.number);
        let current = epochs.pop().ok_or_else(|| MasterKeyError::Damaged { path: path.to_owned() })?;
        Ok(Self { current, other: epochs.pop() })
    }

    /// A master key without a file, for tests and throw-away data.
    pub fn ephemeral(random: &Random) -> Self {
        Self { current: Epoch { number: 1, key: Zeroizing::new(random::bytes(random)) }, other: None }
    }

    /// The epoch that new keys are wrapped under.
    pub fn epoch(&self) -> u32 {
        self.current.number
    }

    /// The key that wraps data keys in this epoch, unless the epoch is gone.
    pub fn wrapping(&self, epoch: u32) -> Option<DataKey> {
        let held = [Some(&self.current), self.other.as_ref()];
        let held = held.into_iter().flatten().find(|held| held.number == epoch)?;
        Some(DataKey::from_bytes(*derive(held, b"omnirun/wrap/v1", &[])))
    }

    /// The key that one-time codes of a day (days since 1970) are derived with.
    pub(crate) fn codes(&self, day: u32) -> Zeroizing<[u8; 32]> {
        derive(&self.current, b"omnirun/otp/epoch/v1", &day.to_be_bytes())
    }
}

fn derive(epoch: &Epoch, label: &[u8], context: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, epoch.key.as_slice())
        .expand_multi_info(&[label, context], key.as_mut_slice())
        .expect("32 bytes are below HKDF's limit of 8160");
    key
}

impl Epoch {
    fn to_slot(&self) -> Zeroizing<[u8; SLOT]> {
        let mut slot = Zeroizing::new([0; SLOT]);
        slot[..8].copy_from_slice(MAGIC);
        slot[8..12].copy_from_slice(&self.number.to_le_bytes());
        slot[12..44].copy_from_slice(self.key.as_slice());
        let checksum = crc32fast::hash(&slot[..USED - 4]);
        slot[44..USED].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    fn from_slot(slot: &[u8]) -> Option<Self> {
        let (used, checksum) = slot.get(..USED)?.split_at(USED - 4);
        if !used.starts_with(MAGIC) || crc32fast::hash(used).to_le_bytes() != checksum {
            return None;
        }
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&used[12..44]);
        Some(Self { number: u32::from_le_bytes(used[8..12].try_into().ok()?), key })
    }
}

fn write_slots(file: &File, epoch: &Epoch) -> std::io::Result<()> {
    let mut bytes = [0; SLOT * SLOTS];
    bytes[..SLOT].copy_from_slice(epoch.to_slot().as_slice());
    let written = file.write_all_at(&bytes, 0).and_then(|()| file.sync_all());
    bytes.zeroize();
    written
}

/// The file's name is durable only once its directory is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fixed(byte: u8) -> Random {
        std::sync::Arc::new(move |buffer| buffer.fill(byte))
    }

    #[test]
    fn a_created_key_loads_again_and_is_never_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("master.key");
        let created = MasterKey::create_with(&path, &fixed(7)).expect("created");
        let loaded = MasterKey::load(&path).expect("loaded");
        assert_eq!((loaded.epoch(), loaded.codes(3)), (1, created.codes(3)));
        assert_ne!(loaded.codes(3), loaded.codes(4));
        assert!(matches!(MasterKey::create(&path), Err(MasterKeyError::Exists { .. })));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("master.key");
        MasterKey::create(&path).expect("created");
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            let error = MasterKey::load(&path).expect_err("others may read it");
            assert!(error.to_string().contains("make it 600"), "{error}");
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_other_one_and_two_torn_slots_are_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("master.key");
        MasterKey::create_with(&path, &fixed(1)).expect("created");
        let next = Epoch { number: 2, key: Zeroizing::new([2; 32]) };
        let file = OpenOptions::new().write(true).open(&path).expect("ours");
        file.write_all_at(next.to_slot().as_slice(), SLOT as u64).expect("room");
        let both = MasterKey::load(&path).expect("two slots");
        assert!(both.epoch() == 2 && both.wrapping(1).is_some() && both.wrapping(3).is_none());
        file.write_all_at(b"x", SLOT as u64 + 20).expect("room");
        assert_eq!(MasterKey::load(&path).expect("one slot").epoch(), 1);
        file.write_all_at(b"x", 20).expect("room");
        assert!(matches!(MasterKey::load(&path), Err(MasterKeyError::Damaged { .. })));
    }

    #[test]
    fn a_key_does_not_print() {
        let key = MasterKey::ephemeral(&fixed(0x41));
        assert_eq!(format!("{key:?}"), "MasterKey(epoch 1, [redacted])");
    }
}
