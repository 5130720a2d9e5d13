//! A guest's driver that does what the fuzzer's bytes say: it writes and reads registers, writes into its memory, builds
//! chains of descriptors, true or forged, makes them available and notifies; and the host saves and loads the device.
//!
//! What the device's other side does (a socket's host) is in the target. A [`Fault`] ends the guest, and with it the run.

use std::sync::OnceLock;

use omnirun_vmm::kvm::{
    memory::Ram,
    virtio::{Device, Fault, Progress, mmio::Mmio},
};
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;

/// Memory in two ranges with a hole between them, as a large guest's is around the devices.
const RANGES: [(u64, usize); 2] = [(0, 0xc000), (0x1_0000, 0x4000)];
/// Each queue's three rings are in a page of its own, from address 0 on.
const RINGS: u64 = 0x1000;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xc00;
/// Entries of every ring.
const SIZE: u16 = 16;
/// Where tables of indirect descriptors are built.
const TABLE: u64 = 0x8000;
/// The longest of them; longer than any chain may be.
const TABLE_MAX: u16 = 300;

const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Bits of a part that are not of virtio: an address of eight bytes, a length of four, `next` from the input, bytes to be
/// put there, and two numbers of eight bytes to be put there.
const ANYWHERE: u8 = 8;
pub(crate) const ANY_LENGTH: u8 = 16;
const ANY_NEXT: u8 = 32;
pub(crate) const FILLED: u8 = 64;
pub(crate) const NUMBERS: u8 = 128;

/// What happens on the host's side of a device.
pub trait Host<D> {
    /// Does what the input says.
    fn act(&mut self, input: &mut Input<'_>, mmio: &mut Mmio<D>, ram: &Ram) -> Result<(), Fault>;
}

/// Of a device whose other side does nothing by itself.
pub struct Nobody;

impl<D> Host<D> for Nobody {
    fn act(&mut self, _: &mut Input<'_>, _: &mut Mmio<D>, _: &Ram) -> Result<(), Fault> {
        Ok(())
    }
}

/// A guest's memory, all zeros; the same one every time, since mapping it anew takes longer than most runs.
pub fn ram() -> &'static Ram {
    static RAM: OnceLock<Ram> = OnceLock::new();
    let ranges = RANGES.map(|(at, length)| (GuestAddress(at), length));
    let ram = RAM.get_or_init(|| Ram::from_ranges(&ranges).expect("it is small"));
    for (at, length) in ranges {
        ram.write_slice(&[0; 0xc000][..length], at).expect("it is memory");
    }
    ram
}

/// Runs a driver over a new device until the input or the guest ends.
pub fn run<D: Device, H: Host<D>>(bytes: &[u8], make: impl Fn() -> (D, H)) {
    let mut input = Input::new(bytes);
    let (device, host) = make();
    let mut driver = Driver { mmio: Mmio::new(device), host, ram: ram(), next: [(0, 0); 4] };
    if input.byte() & 1 == 0 {
        driver.start();
    }
    while !input.is_empty() {
        if driver.step(&mut input, &make).is_err() {
            return;
        }
    }
}

struct Driver<D, H> {
    mmio: Mmio<D>,
    host: H,
    ram: &'static Ram,
    /// Of each queue, the next free descriptor and the next index of the available ring.
    next: [(u16, u16); 4],
}

impl<D: Device, H: Host<D>> Driver<D, H> {
    fn write(&mut self, register: u64, value: u32) -> Result<Progress, Fault> {
        self.mmio.write(register, &value.to_le_bytes(), self.ram)
    }

    /// What Linux does before it uses a device.
    fn start(&mut self) {
        let features = self.mmio.device().features();
        let mut steps = vec![(0x070, 3), (0x024, 1), (0x020, 1 | (features >> 32) as u32), (0x024, 0)];
        steps.extend([(0x020, features as u32), (0x070, 11)]);
        for queue in 0..self.mmio.device().queue_sizes().len() as u32 {
            let at = queue * RINGS as u32;
            steps.extend([(0x030, queue), (0x038, SIZE.into()), (0x080, at)]);
            steps.extend([(0x090, at + AVAILABLE as u32), (0x0a0, at + USED as u32), (0x044, 1)]);
        }
        steps.push((0x070, 15));
        for (register, value) in steps {
            self.write(register, value).expect("this is how it is done");
        }
    }

    fn step(&mut self, input: &mut Input<'_>, make: &impl Fn() -> (D, H)) -> Result<(), Fault> {
        match input.byte() % 8 {
            0 => _ = self.write(u64::from(input.byte()) * 4, input.word())?,
            1 => {
                let at = address(input);
                let _ = self.ram.write_slice(input.text(), at);
            }
            2 => _ = self.request(input)?,
            3 => _ = self.write(0x050, input.byte().into())?,
            4 => {
                let mut data = [0; 8];
                let (at, width) = (input.half(), input.byte() % 9);
                self.mmio.read(at.into(), &mut data[..usize::from(width)]);
            }
            5 => {
                let (at, width) = (input.half(), input.byte() % 9);
                self.mmio.write(at.into(), input.bytes(width.into()), self.ram)?;
            }
            6 => self.host.act(input, &mut self.mmio, self.ram)?,
            _ => self.save_and_load(make),
        }
        Ok(())
    }

    /// Writes a chain, makes it available and notifies.
    fn request(&mut self, input: &mut Input<'_>) -> Result<Progress, Fault> {
        let shape = input.byte();
        let (queue, parts) = (usize::from(shape & 3), 1 + u16::from(shape >> 4));
        let (first, index) = self.next[queue];
        let rings = queue as u64 * RINGS;
        for part in 0..parts {
            let slot = (first + part) % SIZE;
            let has_next = if part + 1 < parts { NEXT } else { 0 };
            let descriptor = self.descriptor(input, has_next, (slot + 1) % SIZE);
            self.store(rings + u64::from(slot) * 16, &descriptor);
        }
        self.store(rings + AVAILABLE + 4 + u64::from(index % SIZE) * 2, &first.to_le_bytes());
        self.store(rings + AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
        self.next[queue] = ((first + parts) % SIZE, index.wrapping_add(1));
        self.write(0x050, queue as u32)
    }

    fn descriptor(&mut self, input: &mut Input<'_>, has_next: u16, next: u16) -> [u8; 16] {
        let kind = input.byte();
        let is = |bit| kind & bit != 0;
        let mut at = if is(ANYWHERE) { GuestAddress(input.long()) } else { address(input) };
        let mut length = if is(ANY_LENGTH) { input.word() } else { input.half().into() };
        let next = if is(ANY_NEXT) { input.byte().into() } else { next };
        if is(FILLED) {
            let _ = self.ram.write_slice(input.text(), at);
        }
        if is(NUMBERS) {
            let _ =
                self.ram.write_slice(&[input.edge().to_le_bytes(), input.edge().to_le_bytes()].concat(), at);
        }
        let flags = u16::from(kind & 3) ^ has_next;
        if !is(INDIRECT as u8) {
            return raw(at, length, flags, next);
        }
        let count = input.half() % TABLE_MAX;
        for entry in 0..count {
            let has_next = if entry + 1 < count { NEXT } else { 0 };
            let bytes = raw(at, length, flags & WRITE | has_next, entry + 1);
            self.store(TABLE + u64::from(entry) * 16, &bytes);
        }
        (at, length) = (GuestAddress(TABLE), u32::from(count) * 16);
        raw(at, length, has_next | INDIRECT, next)
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("rings and tables are in memory");
    }

    /// A device that can be saved goes on as another one that has loaded it.
    fn save_and_load(&mut self, make: &impl Fn() -> (D, H)) {
        let Ok(saved) = self.mmio.save() else { return };
        let (device, host) = make();
        (self.mmio, self.host) = (Mmio::new(device), host);
        self.mmio.load(&saved, self.ram).expect("what was saved can be loaded");
        if let Ok(again) = self.mmio.save() {
            assert_eq!(saved, again, "it is the same device");
        }
    }
}

/// Even addresses in both ranges and in the hole.
fn address(input: &mut Input<'_>) -> GuestAddress {
    GuestAddress(u64::from(input.half()) * 2)
}

/// `struct virtq_desc` (VIRTIO 1.2, section 2.7.5).
fn raw(at: GuestAddress, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&at.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}
