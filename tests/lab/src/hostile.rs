//! A guest's process 1 that goes around every driver and lies to a device: in its registers, or in the memory of a queue
//! that it has set up by the rules. What each lie is, and which rule it breaks, is in one table for both sides: the guest
//! that tells it and the case that expects the end of that guest.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous},
    mount::{MountFlags, mount},
};

/// An entry of this name in the initramfs makes process 1 hostile; the one directory in it is called like the lie.
pub const MARK: &str = "/hostile";

/// One lie.
pub struct Lie {
    /// Its name.
    pub name: &'static str,
    /// What the monitor says of it.
    pub reason: &'static str,
    device: u64,
    queue: u32,
    table: &'static [Descriptor],
    /// The index of the available ring: how many chains are said to be in it.
    available: u16,
    rings: Rings,
}

/// A descriptor: where, how long, flags, next (VIRTIO 1.2, section 2.7.5).
type Descriptor = (u64, u32, u16, u16);

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Where a queue's three parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rings {
    /// In a page of this process.
    Here,
    /// Where this guest has no memory.
    Beyond,
}

/// The devices, by their windows: `layout::DEVICES` and the order in `bus.rs` of the monitor.
const WINDOWS: u64 = 0xd000_0000;
const BLOCK: u64 = 0;
const CONSOLE: u64 = 1;
const ENTROPY: u64 = 2;
const WINDOW: usize = 4096;

/// A guest of 128 MiB has memory here, and none there.
const INSIDE: u64 = 16 << 20;
const OUTSIDE: u64 = 1 << 30;

const A_LIE: Lie =
    Lie { name: "", reason: "", device: BLOCK, queue: 0, table: &[], available: 1, rings: Rings::Here };

/// All of them.
pub const LIES: &[Lie] = &[
    Lie {
        name: "no-such-queue",
        reason: "the guest broke the rules of its block device: a queue that does not exist",
        queue: 99,
        ..A_LIE
    },
    Lie {
        name: "rings-beyond-memory",
        reason: "the guest broke the rules of its block device: a queue outside of memory",
        rings: Rings::Beyond,
        ..A_LIE
    },
    Lie {
        name: "descriptor-beyond-memory",
        reason: "the guest broke the rules of its block device: a descriptor outside of memory",
        table: &[(INSIDE, 16, NEXT, 1), (OUTSIDE, 512, WRITE, 0)],
        ..A_LIE
    },
    Lie {
        name: "circle-of-descriptors",
        reason: "the guest broke the rules of its block device: a chain that leads nowhere",
        table: &[(INSIDE, 16, NEXT, 1), (INSIDE, 16, NEXT, 0)],
        ..A_LIE
    },
    Lie {
        name: "index-far-ahead",
        reason: "the guest broke the rules of its entropy device: an index beyond its ring",
        device: ENTROPY,
        table: &[(INSIDE, 16, WRITE, 0)],
        available: 40_000,
        ..A_LIE
    },
    Lie {
        name: "readable-where-writable-is-due",
        reason: "the guest broke the rules of its entropy device: a request that is not to be written",
        device: ENTROPY,
        table: &[(INSIDE, 16, 0, 0)],
        ..A_LIE
    },
    Lie {
        name: "message-too-long",
        reason: "the guest broke the rules of its console device: a message that is too long",
        device: CONSOLE,
        queue: 1,
        table: &[(INSIDE, 1 << 20, NEXT, 1), (INSIDE, 1, 0, 0)],
        ..A_LIE
    },
];

/// Tells the lie that the initramfs names. Returns only when nobody minds.
pub fn break_the_rules() -> Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc")] {
        fs::create_dir_all(target).with_context(|| format!("no {target}"))?;
        mount(kind, target, kind, MountFlags::empty(), None).with_context(|| format!("no {kind}"))?;
    }
    let mark = fs::read_dir(MARK)?.flatten().next().context("no lie is wished for")?.file_name();
    let lie = LIES.iter().find(|lie| mark == lie.name).context("no such lie")?;
    let registers = Registers::of(lie.device)?;
    lie.tell(&registers, &Page::new()?);
    anyhow::bail!("nobody minds")
}

impl Lie {
    /// A queue of 16, set up by the rules but for the lie.
    fn tell(&self, registers: &Registers, page: &Page) {
        // A driver that accepts the one feature that every device has (VIRTIO 1.2, sections 3.1.1 and 4.2.2).
        for (register, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
            registers.write(register, value);
        }
        let begin = match self.rings {
            Rings::Here => page.physical,
            Rings::Beyond => OUTSIDE,
        };
        page.fill(self);
        registers.write(0x30, self.queue);
        if self.queue < 2 {
            registers.write(0x38, u32::from(QUEUE));
            for (register, offset) in [(0x80, TABLE), (0x90, AVAILABLE), (0xa0, USED)] {
                let at = begin + offset as u64;
                registers.write(register, at as u32);
                registers.write(register + 4, (at >> 32) as u32);
            }
            registers.write(0x44, 1);
        }
        registers.write(0x70, 15);
        registers.write(0x50, self.queue);
    }
}

/// Chains that fit into the rings, and where in a page these are.
const QUEUE: u16 = 16;
const TABLE: usize = 0;
const AVAILABLE: usize = 0x400;
const USED: usize = 0x800;

/// The registers of one device.
struct Registers(*mut u32);

impl Registers {
    fn of(device: u64) -> Result<Self> {
        let memory = File::options().read(true).write(true).open("/dev/mem").context("no memory")?;
        let (rights, at) = (ProtFlags::READ | ProtFlags::WRITE, WINDOWS + device * WINDOW as u64);
        // SAFETY: a page of a device's registers at an address of the kernel's choice; no code refers to it.
        let mapped = unsafe { mmap(ptr::null_mut(), WINDOW, rights, MapFlags::SHARED, &memory, at) };
        Ok(Self(mapped.context("no registers")?.cast()))
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: the registers are in the page that was mapped, and aligned.
        unsafe { self.0.byte_add(register).write_volatile(value) };
    }
}

/// Memory that this process shares with a device.
struct Page {
    bytes: *mut u8,
    physical: u64,
}

impl Page {
    /// One that stays where it is. /proc/self/pagemap says where: proc(5), the low 55 bits of a word for each page.
    fn new() -> Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory at an address of the kernel's choice.
        let bytes = unsafe { mmap_anonymous(ptr::null_mut(), WINDOW, rights, MapFlags::PRIVATE) }?;
        // SAFETY: it has just been mapped.
        unsafe { mlock(bytes, WINDOW) }.context("it cannot be locked")?;
        let mut word = [0; 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut word, (bytes.addr() / WINDOW * 8) as u64)?;
        let frame = u64::from_ne_bytes(word) & ((1 << 55) - 1);
        ensure!(frame != 0, io::Error::from(io::ErrorKind::PermissionDenied));
        Ok(Self { bytes: bytes.cast(), physical: frame * WINDOW as u64 })
    }

    /// The table and the available ring of a lie: flags, index, and its first chain begins with the first descriptor.
    fn fill(&self, lie: &Lie) {
        for (index, (at, length, flags, next)) in lie.table.iter().enumerate() {
            let descriptor =
                [&at.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                    .concat();
            self.write(TABLE + index * descriptor.len(), &descriptor);
        }
        self.write(AVAILABLE + 2, &lie.available.to_le_bytes());
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: a table of two and a ring's head end long before the page does.
            unsafe { self.bytes.add(offset + index).write_volatile(*byte) };
        }
    }
}
