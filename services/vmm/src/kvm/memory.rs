//! A guest's memory: one mapping of this process, aligned to 2 MiB so that host and guest can both use large pages, seen
//! by the guest as one range below the devices and, where it is large, one above 4 GiB.
//!
//! A booted guest's memory is anonymous and never written anywhere. A restored guest's is a private mapping of the
//! template's file: what it changes is its own.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    ptr::{self, NonNull},
    sync::Arc,
};

use omnirun_vmm_api::{Bytes, MemoryMib, MonitorError};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::{failed, layout};

/// A large page.
const LARGE: usize = 2 << 20;
const PAGE: usize = layout::PAGE as usize;
/// Bytes of a page that are looked at first for being zero.
const BLOCK: usize = 64;

/// The guest's memory as devices use it: every access is checked against its ranges.
pub type Ram = GuestMemoryMmap<()>;

/// A range for KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where the guest sees it.
    pub guest: u64,
    /// Where it is in this process.
    pub host: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The mapping and its view. The mapping lives as long as any clone.
#[derive(Clone)]
pub struct Memory {
    mapping: Arc<Mapping>,
    ram: Arc<Ram>,
}

/// What is mapped.
#[derive(Clone, Copy)]
enum Backing<'a> {
    Anonymous,
    /// What is written stays in this process.
    Private(&'a File),
    /// What is written is in the file.
    Shared(&'a File),
}

struct Mapping {
    reserved: NonNull<u8>,
    reserved_length: usize,
    aligned: NonNull<u8>,
    length: usize,
    is_of_file: bool,
}

// SAFETY: the mapping is plain memory that no thread owns; it is unmapped once, when the last clone goes.
unsafe impl Send for Mapping {}
// SAFETY: as above; writes by several threads are made through volatile accesses of `vm-memory`, as the guest's are.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is exactly what was mapped, and nobody holds an address in it any more.
        let _ = unsafe { munmap(self.reserved.as_ptr().cast(), self.reserved_length) };
    }
}

/// How a guest's memory of this size is laid out: address and length of each range.
pub fn ranges(memory: MemoryMib) -> Vec<(u64, u64)> {
    let Bytes(length) = memory.bytes();
    let low = length.min(layout::LOW_MEMORY_END);
    let mut ranges = vec![(0, low)];
    if length > low {
        ranges.push((layout::FAR_MEMORY, length - low));
    }
    ranges
}

impl Memory {
    /// Empty memory for a boot.
    pub fn empty(size: MemoryMib) -> Result<Self, MonitorError> {
        Self::map(size, Backing::Anonymous)
    }

    /// The same in a file without a name, whatever it held before.
    pub fn of_memfd(size: MemoryMib, file: &File) -> Result<Self, MonitorError> {
        let Bytes(length) = size.bytes();
        file.set_len(0).and_then(|()| file.set_len(length)).map_err(failed("make room for the memory"))?;
        Self::map(size, Backing::Shared(file))
    }

    /// A private view of a snapshot's memory file, which must have this length and stay as it is.
    pub fn of_file(size: MemoryMib, file: &File) -> Result<Self, MonitorError> {
        Self::map(size, Backing::Private(file))
    }

    fn map(size: MemoryMib, backing: Backing<'_>) -> Result<Self, MonitorError> {
        let length =
            usize::try_from(size.bytes().0).map_err(|_| failed("address the memory")(too_large()))?;
        let mapping = Mapping::new(length, backing).map_err(failed("map the memory"))?;
        let mut regions = Vec::new();
        let mut offset = 0;
        for (guest, length) in ranges(size) {
            let length = length as usize;
            // SAFETY: the ranges add up to the mapping's length, and the mapping outlives the view beside it.
            let region = unsafe {
                let at = mapping.aligned.as_ptr().add(offset);
                MmapRegion::build_raw(at, length, PROTECTION.bits() as i32, MapFlags::PRIVATE.bits() as i32)
            };
            let region = region.map_err(|_| failed("describe the memory")(too_large()))?;
            let region = GuestRegionMmap::new(region, GuestAddress(guest));
            regions.push(region.ok_or_else(|| failed("describe the memory")(too_large()))?);
            offset += length;
        }
        let ram = Ram::from_regions(regions).map_err(|_| failed("describe the memory")(too_large()))?;
        Ok(Self { mapping: Arc::new(mapping), ram: Arc::new(ram) })
    }

    /// The view for devices.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The ranges as KVM wants them.
    pub fn slots(&self, size: MemoryMib) -> Vec<Slot> {
        let mut host = self.mapping.aligned.as_ptr() as u64;
        let slot = |(guest, length)| {
            let slot = Slot { guest, host, length };
            host += length;
            slot
        };
        ranges(size).into_iter().map(slot).collect()
    }

    /// Writes all that is not zero into an empty file at its place, and makes the file as long as the memory. Nothing
    /// may run in the guest meanwhile. With this process's map of its pages, those that were never touched are not
    /// looked at.
    pub fn save(&self, file: &File, page_map: Option<&File>) -> io::Result<()> {
        // SAFETY: the mapping is this long; vCPUs and devices stand still, so nothing changes under the slice.
        let bytes = unsafe { std::slice::from_raw_parts(self.mapping.aligned.as_ptr(), self.mapping.length) };
        file.set_len(bytes.len() as u64)?;
        // What was never touched need not be looked at. Where nobody can say, all of it is.
        let table = page_map.filter(|_| !self.mapping.is_of_file);
        for (index, part) in bytes.chunks(LARGE).enumerate() {
            let is_touched = table.as_ref().and_then(|table| touched(table, part).ok());
            save_part(file, part, index * LARGE, &is_touched.unwrap_or_else(|| vec![true; LARGE / PAGE]))?;
        }
        Ok(())
    }
}

/// Writes those of a part's pages that were touched and are not zero.
fn save_part(file: &File, part: &[u8], at: usize, is_touched: &[bool]) -> io::Result<()> {
    let is_used = |(page, is_touched): &(&[u8], &bool)| **is_touched && !is_empty(page);
    let mut pages = part.chunks_exact(PAGE).zip(is_touched).peekable();
    let mut next = 0;
    while let Some(page) = pages.next() {
        let first = next;
        next += 1;
        if !is_used(&page) {
            continue;
        }
        while pages.next_if(is_used).is_some() {
            next += 1;
        }
        file.write_all_at(&part[first * PAGE..next * PAGE], (at + first * PAGE) as u64)?;
    }
    Ok(())
}

/// Whether a page is all zeros. Most that are not show it in their first bytes.
fn is_empty(page: &[u8]) -> bool {
    let (first, rest) = page.split_at(BLOCK.min(page.len()));
    if !is_zero(first) {
        return false;
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        unsafe { is_zero_wide(rest) }
    } else {
        is_zero(rest)
    }
}

#[inline]
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// The same by 32 bytes at a time.
#[target_feature(enable = "avx2")]
fn is_zero_wide(bytes: &[u8]) -> bool {
    is_zero(bytes)
}

/// Which pages of anonymous memory hold anything: Linux' Documentation/admin-guide/mm/pagemap.rst, a word for each page of
/// this process, bit 63 for one in memory, bit 62 for one in swap.
fn touched(table: &File, part: &[u8]) -> io::Result<Vec<bool>> {
    let mut words = vec![0; part.len() / PAGE * 8];
    table.read_exact_at(&mut words, part.as_ptr() as u64 / layout::PAGE * 8)?;
    Ok(words.chunks_exact(8).map(|word| word[7] & 0xc0 != 0).collect())
}

const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Mapping {
    fn new(length: usize, backing: Backing<'_>) -> io::Result<Self> {
        let reserved_length = length.checked_add(LARGE).ok_or_else(too_large)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping anywhere, that no code refers to.
        let reserved =
            unsafe { mmap_anonymous(ptr::null_mut(), reserved_length, ProtFlags::empty(), flags) }?;
        let reserved = NonNull::new(reserved.cast::<u8>()).ok_or_else(too_large)?;
        let skip = reserved.as_ptr().align_offset(LARGE);
        // SAFETY: fewer than LARGE bytes are skipped, so `length` bytes follow.
        let aligned = unsafe { reserved.add(skip) };
        let mapping = Self {
            reserved,
            reserved_length,
            aligned,
            length,
            is_of_file: !matches!(backing, Backing::Anonymous),
        };
        let at = aligned.as_ptr().cast();
        let fixed = flags | MapFlags::FIXED;
        // SAFETY: the range is inside of the reservation above, which nothing uses.
        unsafe {
            match backing {
                Backing::Anonymous => mmap_anonymous(at, length, PROTECTION, fixed)?,
                Backing::Private(file) => mmap(at, length, PROTECTION, fixed, file, 0)?,
                Backing::Shared(file) => {
                    let shared = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
                    mmap(at, length, PROTECTION, shared, file, 0)?
                }
            };
        }
        // Wishes: a kernel without them runs guests as well. Pages of a file are as large as they are in the page cache.
        let advices = [Some(Advice::LinuxDontDump), (!mapping.is_of_file).then_some(Advice::LinuxHugepage)];
        for advice in advices.into_iter().flatten() {
            // SAFETY: neither changes what the memory holds.
            let _ = unsafe { madvise(at, length, advice) };
        }
        Ok(mapping)
    }
}

fn too_large() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use vm_memory::Bytes as _;

    use super::*;

    #[test]
    fn memory_goes_around_the_devices() {
        const GIB: u64 = 1 << 30;
        assert_eq!(ranges(MemoryMib(128)), [(0, 128 << 20)]);
        assert_eq!(ranges(MemoryMib(3072)), [(0, 3 * GIB)]);
        assert_eq!(ranges(MemoryMib(3073)), [(0, 3 * GIB), (4 * GIB, 1 << 20)]);
        assert_eq!(ranges(MemoryMib(32 * 1024)), [(0, 3 * GIB), (4 * GIB, 29 * GIB)]);
    }

    #[test]
    fn memory_is_aligned_to_large_pages_and_all_of_it_can_be_used() {
        let memory = Memory::empty(MemoryMib(4096)).expect("reserved, not used");
        let slots = memory.slots(MemoryMib(4096));
        assert!(slots.iter().all(|slot| slot.host % LARGE as u64 == 0));
        for last in [layout::LOW_MEMORY_END - 8, layout::FAR_MEMORY + (1 << 30) - 8] {
            memory.ram().write_obj(7_u64, GuestAddress(last)).expect("it is memory");
            assert!(memory.ram().write_obj(7_u64, GuestAddress(last + 1)).is_err(), "it ends there");
        }
    }

    #[test]
    fn one_byte_anywhere_makes_a_page_one_that_is_kept() {
        assert!(is_empty(&[0; PAGE]));
        for at in [0, BLOCK - 1, BLOCK, PAGE / 2 + 1, PAGE - 1] {
            let mut page = [0; PAGE];
            page[at] = 1;
            assert!(!is_empty(&page) && !is_zero(&page), "{at}");
        }
    }

    #[test]
    fn memory_in_a_file_is_shared_with_it_and_begins_empty() {
        let (size, file) = (MemoryMib(2), tempfile::tempfile().expect("a file for the test"));
        for _ in 0..2 {
            let memory = Memory::of_memfd(size, &file).expect("it is small");
            assert_eq!(memory.ram().read_obj::<u64>(GuestAddress(4096)).expect("it is memory"), 0);
            memory.ram().write_obj(7_u64, GuestAddress(4096)).expect("it is memory");
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, 4096).expect("it is as long as the memory");
            assert_eq!(u64::from_le_bytes(bytes), 7);
        }
    }

    #[test]
    fn a_saved_memory_is_sparse_and_a_restored_one_is_the_guests_own() {
        let size = MemoryMib(8);
        let memory = Memory::empty(size).expect("it is small");
        memory.ram().write_obj(0x1234_u16, GuestAddress(3 << 20)).expect("it is memory");
        let mut file = tempfile::tempfile().expect("a file for the test");
        let page_map = File::open("/proc/self/pagemap").expect("every process has one");
        memory.save(&file, Some(&page_map)).expect("there is room");
        let described = file.metadata().expect("it is open");
        assert_eq!(described.len(), 8 << 20);
        assert!(std::os::unix::fs::MetadataExt::blocks(&described) * 512 <= 64 << 10, "one page is stored");

        let restored = Memory::of_file(size, &file).expect("it is small");
        let read = |at| restored.ram().read_obj::<u16>(GuestAddress(at)).expect("it is memory");
        assert_eq!((read(3 << 20), read(5 << 20)), (0x1234, 0));
        restored.ram().write_obj(9_u16, GuestAddress(3 << 20)).expect("it is memory");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("it is a file");
        assert_eq!(bytes[3 << 20..][..2], [0x34, 0x12], "the file does not change");

        let other = tempfile::tempfile().expect("a file for the test");
        restored.save(&other, None).expect("there is room");
        let other = Memory::of_file(size, &other).expect("it is small");
        assert_eq!(other.ram().read_obj::<u16>(GuestAddress(3 << 20)).expect("it is memory"), 9);
    }
}
