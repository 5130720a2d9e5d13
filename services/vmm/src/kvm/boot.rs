//! What is in a guest's memory and in its first processor before the first instruction: kernel, initramfs, command line,
//! zero page, ACPI tables; long mode with the first GiB mapped to itself.
//!
//! Linux' Documentation/arch/x86/boot.rst (64-bit boot protocol) and zero-page.rst say what goes where.

use std::io;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::{
    Error, KernelLoader,
    elf::{self, Elf, PvhBootCapability},
};
use omnirun_vmm_api::{MemoryMib, MonitorError};
use vm_memory::{Bytes, GuestAddress};

use super::{
    acpi,
    acpi::Announced,
    files::{Images, Named, REMEDY},
    layout,
    mapped::Mapped,
    memory,
};

/// Kinds of memory in the kernel's map.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// First bytes of a cpio archive in the one format that kernels read (Linux' buffer-format.rst, `c_magic`).
const CPIO: &[u8] = b"070701";

/// Loads everything. Answers with the address of the first instruction.
pub fn load(
    ram: &memory::Ram,
    size: MemoryMib,
    files: &Images,
    command_line: &str,
    announced: Announced,
) -> Result<u64, MonitorError> {
    let entry = load_kernel(ram, &files.kernel)?;
    let initramfs = load_initramfs(ram, size, entry.end, &files.initramfs)?;
    let zero_page = zero_page(size, initramfs, command_line.len());
    let mut placed = acpi::tables(announced);
    placed.push((layout::COMMAND_LINE, [command_line.as_bytes(), b"\0"].concat()));
    placed.push((layout::ZERO_PAGE, zero_page));
    placed.extend(page_tables());
    placed.push((layout::GDT, GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect()));
    for (at, bytes) in placed {
        ram.write_slice(&bytes, GuestAddress(at)).map_err(|_| too_small(&files.kernel))?;
    }
    Ok(entry.start)
}

/// Where the kernel begins to run, and where its memory ends.
struct Loaded {
    start: u64,
    end: u64,
}

fn load_kernel(ram: &memory::Ram, kernel: &Named) -> Result<Loaded, MonitorError> {
    let file = Mapped::new(&kernel.file).map_err(|error| kernel.unusable(&error))?;
    let loaded = Elf::load(ram, None, &mut io::Cursor::new(&*file), Some(GuestAddress(layout::HIGH_MEMORY)));
    let loaded = loaded.map_err(|error| match error {
        Error::Elf(elf::Error::ReadKernelImage) => kernel.refused(format!(
            "it is cut short, or the guest's memory is too small for it: {REMEDY}, or give the guest more"
        )),
        _ => kernel.refused(format!("it is no kernel: {REMEDY}")),
    })?;
    // Linux kernels for guests say where such monitors enter them; any other program of this format does not.
    if !matches!(loaded.pvh_boot_cap, PvhBootCapability::PvhEntryPresent(_)) {
        return Err(kernel.refused(format!("it is a program, and no kernel for guests: {REMEDY}")));
    }
    Ok(Loaded { start: loaded.kernel_load.0, end: loaded.kernel_end })
}

/// Puts it at the end of low memory, as far from the kernel as it can be.
fn load_initramfs(
    ram: &memory::Ram,
    size: MemoryMib,
    kernel_end: u64,
    initramfs: &Named,
) -> Result<(u32, u32), MonitorError> {
    let file = Mapped::new(&initramfs.file).map_err(|error| initramfs.unusable(&error))?;
    if !file.starts_with(CPIO) {
        return Err(initramfs.refused(format!("it is no cpio archive: {REMEDY}")));
    }
    let length = file.len() as u64;
    let end = size.bytes().0.min(layout::LOW_MEMORY_END);
    let start = end.checked_sub(length).map(|start| start & !(layout::PAGE - 1));
    let Some(start) = start.filter(|start| *start > kernel_end) else { return Err(too_small(initramfs)) };
    let (Ok(at), Ok(length)) = (u32::try_from(start), u32::try_from(length)) else {
        return Err(too_small(initramfs));
    };
    ram.write_slice(&file, GuestAddress(start)).map_err(|_| too_small(initramfs))?;
    Ok((at, length))
}

fn too_small(file: &Named) -> MonitorError {
    file.refused("the guest's memory is too small for it: give the guest more".to_owned())
}

/// `struct boot_params`, by the offsets of zero-page.rst.
fn zero_page(size: MemoryMib, initramfs: (u32, u32), command_line: usize) -> Vec<u8> {
    let mut page = vec![0; layout::PAGE as usize];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x070, &layout::RSDP.to_le_bytes());
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x210, &[0xff]); // a loader without a number of its own
    put(0x218, &initramfs.0.to_le_bytes());
    put(0x21c, &initramfs.1.to_le_bytes());
    put(0x228, &(layout::COMMAND_LINE as u32).to_le_bytes());
    put(0x230, &0x100_0000_u32.to_le_bytes()); // alignment of the kernel
    put(0x238, &(command_line as u32).to_le_bytes());
    let map = memory_map(size);
    put(0x1e8, &[map.len() as u8]);
    for (index, (start, length, kind)) in map.iter().enumerate() {
        let at = 0x2d0 + index * 20;
        put(at, &start.to_le_bytes());
        put(at + 8, &length.to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    page
}

/// Start, length and kind of each range of memory.
fn memory_map(size: MemoryMib) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::ACPI_TABLES, USABLE),
        (layout::ACPI_TABLES, layout::HIGH_MEMORY - layout::ACPI_TABLES, RESERVED),
    ];
    for (start, length) in memory::ranges(size) {
        let skipped = layout::HIGH_MEMORY.saturating_sub(start);
        map.push((start + skipped, length - skipped, USABLE));
    }
    map
}

/// The first GiB mapped to itself by pages of 2 MiB. Flags: present (0), writable (1), large (7).
pub fn page_tables() -> [(u64, Vec<u8>); 3] {
    let large_pages = (0..512_u64).flat_map(|index| (index << 21 | 0x83).to_le_bytes()).collect();
    [
        (layout::PML4, (layout::PDPT | 3).to_le_bytes().to_vec()),
        (layout::PDPT, (layout::PD | 3).to_le_bytes().to_vec()),
        (layout::PD, large_pages),
    ]
}

/// Null, unused, 64-bit code (0x10) and data (0x18): the selectors that the boot protocol asks for.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Registers of the first instruction.
pub fn registers(entry: u64) -> kvm_regs {
    // Bit 1 of the flags is always set.
    kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rflags: 2,
        ..Default::default()
    }
}

/// Changes a fresh processor's system registers to long mode.
pub fn long_mode(sregs: &mut kvm_sregs) {
    let flat = |selector: u16, kind: u8, long: u8| kvm_segment {
        base: 0,
        limit: 0xf_ffff,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        l: long,
        db: 1 - long,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat(0x10, 0xb, 1);
    let data = flat(0x18, 3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (GDT.len() * 8 - 1) as u16;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cr0 |= 1 | 1 << 31; // protected mode, paging
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= 1 << 5; // entries of 8 bytes
    sregs.efer |= 1 << 8 | 1 << 10; // long mode enabled and active
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kvm::acpi::Serial;
    use omnirun_vmm_api::{ImageFiles, Vcpus};

    const SMALL: Announced = Announced { vcpus: Vcpus(1), devices: 3, serial: Serial::Absent };

    fn place(home: &Path, kernel: &[u8], initramfs: &[u8]) -> Images {
        let place = |name: &str, bytes: &[u8]| {
            let path = home.join(name);
            std::fs::write(&path, bytes).expect("the directory is ours");
            path
        };
        let files = ImageFiles {
            kernel: place("vmlinux", kernel),
            initramfs: place("initramfs.cpio", initramfs),
            root: place("root", b""),
        };
        Images::open(&files).expect("all are there")
    }

    fn refused(kernel: &[u8], initramfs: &[u8]) -> String {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = place(home.path(), kernel, initramfs);
        let memory = memory::Memory::empty(MemoryMib(2)).expect("it is small");
        load(memory.ram(), MemoryMib(2), &files, "quiet", SMALL).expect_err("it is refused").to_string()
    }

    /// A 64-bit ELF file with one segment of one byte at 1 MiB, which is where it starts, and a note of this kind: 18 is
    /// the entry for monitors.
    fn tiny_kernel(note: u8) -> Vec<u8> {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..21].copy_from_slice(&[2, 0, 62, 0, 1]);
        elf[24..32].copy_from_slice(&layout::HIGH_MEMORY.to_le_bytes()); // entry
        elf[32] = 64; // program headers
        (elf[52], elf[54], elf[56]) = (64, 56, 2);
        let mut describe = |at: usize, kind: u8, offset: u8, length: u8| {
            (elf[at], elf[at + 8]) = (kind, offset);
            elf[at + 24..at + 32].copy_from_slice(&layout::HIGH_MEMORY.to_le_bytes());
            (elf[at + 32], elf[at + 40]) = (length, length); // in the file, in memory
        };
        describe(64, 4, 176, 20); // PT_NOTE
        describe(64 + 56, 1, 196, 1); // PT_LOAD
        elf.extend([[4, 0, 0, 0], [4, 0, 0, 0], [note, 0, 0, 0], *b"Xen\0", [0, 0, 16, 0]].concat());
        elf.push(0xf4);
        elf
    }

    #[track_caller]
    fn check_refused(kernel: &[u8], initramfs: &[u8], path: &str, reason: &str, remedy: &str) {
        let said = refused(kernel, initramfs);
        assert!(said.contains(path) && said.contains(reason) && said.contains(remedy), "{said}");
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_its_path_and_a_remedy() {
        let check =
            |kernel: &[u8], reason| check_refused(kernel, CPIO, "vmlinux", reason, "scripts/guest-image");
        let whole = tiny_kernel(18);
        check(b"#!/bin/sh\n", "it is no kernel");
        check(b"", "it is empty");
        check(&whole[..70], "it is no kernel");
        check(&whole[..196], "it is cut short");
        check(&tiny_kernel(17), "it is a program, and no kernel");
    }

    #[test]
    fn what_is_no_initramfs_or_does_not_fit_is_refused_with_its_path_and_a_remedy() {
        let check = |initramfs: &[u8], reason, remedy| {
            check_refused(&tiny_kernel(18), initramfs, "initramfs.cpio", reason, remedy);
        };
        check(b"\x1f\x8b", "it is no cpio archive", "scripts/guest-image");
        let large = [CPIO, &vec![0; 2 << 20]].concat();
        check(&large, "the guest's memory is too small for it", "give the guest more");
    }

    #[test]
    fn what_is_whole_is_loaded() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = place(home.path(), &tiny_kernel(18), CPIO);
        let memory = memory::Memory::empty(MemoryMib(2)).expect("it is small");
        let entry = load(memory.ram(), MemoryMib(2), &files, "quiet", SMALL).expect("it is whole");
        assert_eq!(entry, layout::HIGH_MEMORY);
    }

    #[test]
    fn the_kernel_is_told_where_everything_is() {
        let page = zero_page(MemoryMib(4096), (0x7f0_0000, 0x1234), 5);
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((word(0x218), word(0x21c), word(0x228), word(0x238)), (0x7f0_0000, 0x1234, 0x20000, 5));
        assert_eq!(page[0x1e8], 4);
        assert_eq!(
            &page[0x2d0..0x2d0 + 20],
            [&[0; 8][..], &0x9fc00_u64.to_le_bytes(), &[1, 0, 0, 0]].concat()
        );
    }

    #[test]
    fn the_tables_lie_in_reserved_memory_and_the_devices_in_none() {
        let map = memory_map(MemoryMib(32 * 1024));
        let kind = |at: u64| {
            map.iter().find(|(start, length, _)| (*start..start + length).contains(&at)).map(|r| r.2)
        };
        for (at, _) in acpi::tables(SMALL) {
            assert_eq!(kind(at), Some(RESERVED));
        }
        assert_eq!((kind(layout::HIGH_MEMORY), kind(layout::FAR_MEMORY)), (Some(USABLE), Some(USABLE)));
        assert_eq!((kind(layout::DEVICES), kind(layout::IO_APIC.into())), (None, None));
        assert!(
            map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0),
            "ranges are apart and in order"
        );
    }
}
