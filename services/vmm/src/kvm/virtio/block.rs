//! The block device (VIRTIO 1.2, section 5.2) with the root file system: read-only, one file shared by all guests.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use omnirun_vmm_api::MonitorError;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::Queue;
use vm_memory::{Bytes, ReadVolatile};

use super::{
    Device, Progress,
    queue::{Chain, Part, give, take},
};
use crate::{
    PLANTED_BUG,
    kvm::{
        files::{Named, REMEDY},
        memory::Ram,
    },
};

const SECTOR: u64 = 512;
/// Type, reserved, first sector.
const HEADER_BYTES: u64 = 16;
/// Longest chain but header and status.
const DATA_PARTS_MAX: u32 = 254;
/// What a guest is told as the disk's serial number.
const ID: &[u8] = b"omnirun-root\0\0\0\0\0\0\0\0";
/// The first bytes of a squashfs image (its super block, `s_magic`).
const SQUASHFS: &[u8] = b"hsqs";
/// The super block up to its `bytes_used`: the last eight of these are the length of all that is in the image.
const HEAD_BYTES: usize = 48;

/// The device.
#[derive(Debug)]
pub struct Block {
    file: File,
    sectors: u64,
    config: [u8; 60],
}

impl Block {
    /// With a template's root.
    pub fn of(root: &Named) -> Result<Self, MonitorError> {
        let file = root.file.try_clone().map_err(|error| root.unusable(&error))?;
        let mut head = [0; HEAD_BYTES];
        let length = file.metadata().map_err(|error| root.unusable(&error))?.len();
        let is_whole = file.read_exact_at(&mut head, 0).is_ok();
        if !is_whole || !head.starts_with(SQUASHFS) {
            return Err(root.refused(format!("it is no squashfs image: {REMEDY}")));
        }
        let used = head.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if length < used || !length.is_multiple_of(SECTOR) {
            return Err(root.refused(format!("it is cut short: {REMEDY}")));
        }
        Ok(Self::new(file, length / SECTOR))
    }

    fn new(file: File, sectors: u64) -> Self {
        // struct virtio_blk_config: capacity at 0, seg_max at 12.
        let mut config = [0; 60];
        config[..8].copy_from_slice(&sectors.to_le_bytes());
        config[12..16].copy_from_slice(&DATA_PARTS_MAX.to_le_bytes());
        Self { file, sectors, config }
    }
}

/// Answers every request of the queue from the disk, which has this many sectors.
pub fn serve<D: ReadVolatile + Seek>(
    disk: &mut D,
    sectors: u64,
    queue: &mut Queue,
    ram: &Ram,
) -> Result<Progress, &'static str> {
    let mut progress = Progress::Nothing;
    while let Some(mut chain) = take(queue, ram)? {
        let header = Header::read(&chain, ram)?;
        // The last byte of all is the status.
        let status = split_status(&mut chain)?;
        let (code, written) = answer(disk, sectors, &header, &chain, ram);
        ram.write_obj(code as u8, status.at).map_err(|_| "a status outside of memory")?;
        give(queue, ram, &chain, written.saturating_add(1))?;
        progress = Progress::Used;
    }
    Ok(progress)
}

struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn read(chain: &Chain, ram: &Ram) -> Result<Self, &'static str> {
        let first = chain.readable.first().filter(|part| u64::from(part.length) >= HEADER_BYTES);
        let first = first.ok_or("a request without a header")?;
        let bytes: [u8; 16] = ram.read_obj(first.at).map_err(|_| "a header outside of memory")?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok(Self { kind: word(0), sector: u64::from(word(8)) | u64::from(word(12)) << 32 })
    }
}

fn split_status(chain: &mut Chain) -> Result<Part, &'static str> {
    let last = chain.writable.last_mut().ok_or("a request without a status")?;
    last.length -= 1;
    let at = last.at.0.checked_add(last.length.into()).ok_or("a status outside of memory")?;
    if last.length == 0 {
        chain.writable.pop();
    }
    Ok(Part { at: vm_memory::GuestAddress(at), length: 1 })
}

/// Status and how many bytes were written before it.
fn answer<D: ReadVolatile + Seek>(
    disk: &mut D,
    sectors: u64,
    header: &Header,
    chain: &Chain,
    ram: &Ram,
) -> (u32, u32) {
    match header.kind {
        VIRTIO_BLK_T_IN => match read(disk, sectors, header.sector, chain, ram) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(_) => (VIRTIO_BLK_S_IOERR, 0),
        },
        VIRTIO_BLK_T_GET_ID => match chain.write(ram, ID) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(_) => (VIRTIO_BLK_S_IOERR, 0),
        },
        VIRTIO_BLK_T_FLUSH => (VIRTIO_BLK_S_OK, 0),
        VIRTIO_BLK_T_OUT => (VIRTIO_BLK_S_IOERR, 0),
        _ => (VIRTIO_BLK_S_UNSUPP, 0),
    }
}

fn read<D: ReadVolatile + Seek>(
    disk: &mut D,
    sectors: u64,
    sector: u64,
    chain: &Chain,
    ram: &Ram,
) -> io::Result<u32> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let length = chain.writable_length();
    let end = sector.checked_add(length / SECTOR);
    // Planted: a sum that is not checked.
    let end = if PLANTED_BUG { Some(sector + length / SECTOR) } else { end };
    let end = end.ok_or_else(outside)?;
    if !length.is_multiple_of(SECTOR) || end > sectors {
        return Err(outside());
    }
    disk.seek(SeekFrom::Start(sector * SECTOR))?;
    for part in &chain.writable {
        ram.read_exact_volatile_from(part.at, disk, part.length as usize).map_err(io::Error::other)?;
    }
    u32::try_from(length).map_err(|_| outside())
}

impl Device for Block {
    fn name(&self) -> &'static str {
        "block"
    }

    fn id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, queue: usize, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        serve(&mut self.file, self.sectors, &mut queues[queue], ram)
    }

    fn reset(&mut self) {}

    /// The disk's size, so that another disk is found out.
    fn save(&self) -> Result<Vec<u8>, &'static str> {
        Ok(self.sectors.to_le_bytes().to_vec())
    }

    fn load(&mut self, saved: &[u8]) -> Result<(), &'static str> {
        if saved == self.sectors.to_le_bytes() { Ok(()) } else { Err("the root is another one") }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::{super::queue::tests, *};

    const SECTORS: u64 = 8;

    fn disk() -> File {
        let mut file = tempfile::tempfile().expect("a file for the test");
        for sector in 0..SECTORS {
            file.write_all(&[sector as u8 + 1; SECTOR as usize]).expect("there is room");
        }
        file
    }

    /// Status, first and last byte of 1024 bytes of data at 0x9000 after a request.
    fn asked(kind: u32, sector: u64, length: u32) -> (u8, u8, u8) {
        let ram = tests::ram();
        let mut queue =
            tests::queue_of(&ram, &[(0x8000, 16, 1, 1), (0x9000, length, 3, 2), (0xa000, 1, 2, 0)]);
        ram.write_obj(kind, GuestAddress(0x8000)).expect("it is memory");
        ram.write_obj(sector, GuestAddress(0x8008)).expect("it is memory");
        ram.write_obj(0xff_u8, GuestAddress(0xa000)).expect("it is memory");
        assert_eq!(serve(&mut disk(), SECTORS, &mut queue, &ram), Ok(Progress::Used));
        let byte = |at| ram.read_obj::<u8>(GuestAddress(at)).expect("it is memory");
        (byte(0xa000), byte(0x9000), byte(0x9000 + u64::from(length) - 1))
    }

    #[test]
    fn sectors_are_read_and_nothing_is_written() {
        assert_eq!(asked(VIRTIO_BLK_T_IN, 2, 1024), (0, 3, 4));
        assert_eq!(asked(VIRTIO_BLK_T_OUT, 2, 1024).0, 1);
        assert_eq!(asked(VIRTIO_BLK_T_GET_ID, 0, 20), (0, b'o', 0));
        assert_eq!(asked(99, 0, 512).0, 2);
    }

    #[test]
    fn reading_past_the_end_or_half_a_sector_fails_and_touches_nothing() {
        assert_eq!(asked(VIRTIO_BLK_T_IN, SECTORS - 1, 1024), (1, 0, 0));
        assert_eq!(asked(VIRTIO_BLK_T_IN, u64::MAX, 512), (1, 0, 0));
        assert_eq!(asked(VIRTIO_BLK_T_IN, 0, 500), (1, 0, 0));
    }

    #[test]
    fn a_request_without_header_or_status_is_a_fault() {
        for descriptors in [&[(0x8000, 15, 1, 1), (0x9000, 513, 2, 0)][..], &[(0x8000, 16, 0, 0)]] {
            let ram = tests::ram();
            let mut queue = tests::queue_of(&ram, descriptors);
            assert!(serve(&mut disk(), SECTORS, &mut queue, &ram).is_err(), "{descriptors:?}");
        }
    }

    #[test]
    fn a_root_of_another_format_or_cut_short_is_refused_with_its_path_and_a_remedy() {
        let open = |bytes: &[u8]| {
            let mut file = tempfile::NamedTempFile::new().expect("a file for the test");
            file.write_all(bytes).expect("there is room");
            let named = Named { path: file.path().to_owned(), file: file.reopen().expect("it is there") };
            (Block::of(&named), named.path)
        };
        let check = |bytes: &[u8], reason: &str| {
            let (opened, path) = open(bytes);
            let said = opened.expect_err("it is refused").to_string();
            let path = path.to_string_lossy();
            assert!(said.contains(&*path) && said.contains(reason) && said.contains("guest-image"), "{said}");
        };
        check(&[7; 4096], "it is no squashfs image");
        check(b"hsqs", "it is no squashfs image");
        check(b"", "it is no squashfs image");
        let mut image = vec![0; 4096];
        image[..4].copy_from_slice(SQUASHFS);
        image[40..48].copy_from_slice(&4090_u64.to_le_bytes());
        check(&image[..3584], "it is cut short");
        check(&image[..4095], "it is cut short");
        assert_eq!(open(&image).0.expect("it is whole").sectors, 8);
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(
            header in any::<[u8; 16]>(),
            descriptors in prop::collection::vec((0..2 * tests::RAM as u64, 0..9000_u32, 0..4_u16, 0..6_u16), 1..6),
        ) {
            let ram = tests::ram();
            let mut queue = tests::queue_of(&ram, &descriptors);
            let _ = ram.write_slice(&header, GuestAddress(descriptors[0].0));
            let _ = serve(&mut std::io::Cursor::new(vec![1; 4096]), SECTORS, &mut queue, &ram);
        }
    }
}
