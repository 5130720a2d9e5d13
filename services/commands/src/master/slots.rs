//! The file of the master key: two fixed slots in different disk sectors, rewritten in place and never moved. A file that is replaced would
//! leave the old key in free blocks.
//!
//! ```text
//!   master.key, 1024 bytes      0: magic(8) epoch(4, LE) key(32) crc32(4, LE)     512: the same, or zeros
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::{Zeroize as _, Zeroizing};

const MAGIC: &[u8; 8] = b"omrmast1";
const SLOT: usize = 512;
const SLOTS: usize = 2;
const USED: usize = 8 + 4 + 32 + 4;

/// The key of one epoch. Wiped when dropped.
#[derive(Clone)]
pub struct Epoch {
    /// Counted up by each rotation, from 1.
    pub number: u32,
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
}

impl Epoch {
    /// Epochs take turns: the next one goes where the one before the last was.
    fn offset(&self) -> u64 {
        (u64::from(self.number) + 1) % SLOTS as u64 * SLOT as u64
    }

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

/// Makes the file with its first epoch, mode 0600, durable on return. An existing file is never touched.
pub fn create(path: &Path, epoch: &Epoch) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all_at(&[0; SLOT * SLOTS], 0)?;
    write(&file, epoch)?;
    // The file's name is durable only once its directory is.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    file.sync_all().and_then(|()| File::open(parent)?.sync_all())
}

/// The epochs in the file, newest first. A torn write spoils one slot, and its checksum shows it.
pub fn read(file: &File) -> io::Result<Vec<Epoch>> {
    let mut bytes = Zeroizing::new([0; SLOT * SLOTS]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let mut epochs: Vec<Epoch> = bytes.chunks(SLOT).filter_map(Epoch::from_slot).collect();
    epochs.sort_by_key(|epoch| std::cmp::Reverse(epoch.number));
    Ok(epochs)
}

/// Writes an epoch into its slot, durable on return.
pub fn write(file: &File, epoch: &Epoch) -> io::Result<()> {
    let mut slot = epoch.to_slot();
    let written = file.write_all_at(slot.as_slice(), epoch.offset()).and_then(|()| file.sync_data());
    slot.zeroize();
    written
}

/// Overwrites an epoch's slot with zeros, durable on return.
pub fn wipe(file: &File, epoch: &Epoch) -> io::Result<()> {
    file.write_all_at(&[0; SLOT], epoch.offset()).and_then(|()| file.sync_data())
}
