//! The ACPI tables that announce everything the guest may find: processors, interrupt controllers, virtio devices, and
//! the serial port where there is one. Pure.
//!
//! "Hardware reduced" (ACPI 6.5, section 4.1): no legacy interrupts exist, so a device that is not in the DSDT has none.

use acpi_tables::{
    Aml, AmlSink,
    aml::{self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ResourceTemplate},
    fadt::{FADTBuilder, Flags},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use omnirun_vmm_api::Vcpus;

use super::layout;

const OEM: [u8; 6] = *b"OMNIRN";
const OEM_TABLE: [u8; 8] = *b"OMNIRUN ";
const OEM_REVISION: u32 = 1;
/// ACPI 6.5, section 5.2.9.3: no VGA (2), no CMOS clock (5); the bit of the keyboard controller (1) stays clear.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;

/// Where each table goes in guest memory.
pub type Tables = Vec<(u64, Vec<u8>)>;

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Processors.
    pub vcpus: Vcpus,
    /// virtio devices, from the first window and the first interrupt on.
    pub devices: u32,
    /// Whether there is a serial port.
    pub serial: Serial,
}

/// Whether the guest has a serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serial {
    /// It has none.
    Absent,
    /// It has COM1.
    Present,
}

#[derive(Default)]
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Bytes::default();
    table.to_aml_bytes(&mut bytes);
    bytes.0
}

/// All tables, 16-byte aligned, from [`layout::ACPI_TABLES`] on; the root pointer at [`layout::RSDP`].
pub fn tables(announced: Announced) -> Tables {
    let mut tables = Tables::new();
    let mut next = layout::ACPI_TABLES;
    let mut place = |table: Vec<u8>| {
        let at = next;
        next = (next + table.len() as u64).next_multiple_of(16);
        tables.push((at, table));
        at
    };
    let dsdt = place(dsdt(announced));
    let fadt = place(fadt(dsdt));
    let madt = place(madt(announced.vcpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(bytes(&xsdt));
    tables.push((layout::RSDP, bytes(&Rsdp::new(OEM, xsdt))));
    tables
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut builder = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .dsdt_64(dsdt);
    builder.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    bytes(&builder.finalize())
}

fn madt(vcpus: Vcpus) -> Vec<u8> {
    let mut madt =
        MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(layout::LOCAL_APIC));
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    for id in 0..vcpus.0 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    bytes(&madt)
}

fn dsdt(announced: Announced) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    for index in 0..announced.devices.min(layout::DEVICES_MAX) {
        table.append_slice(&virtio(index));
    }
    if announced.serial == Serial::Present {
        table.append_slice(&serial());
    }
    table.as_slice().to_vec()
}

/// Edge, active high, not shared: what an irqfd can raise without being told of its end.
fn interrupt(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

/// `LNRO0005` is the name under which Linux' virtio_mmio looks for devices.
fn virtio(index: u32) -> Vec<u8> {
    let base = layout::DEVICES as u32 + index * layout::PAGE as u32;
    let window = Memory32Fixed::new(true, base, layout::PAGE as u32);
    let interrupt = interrupt(layout::FIRST_INTERRUPT + index);
    bytes(&Device::new(
        format!("_SB_.V{index:03}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&window, &interrupt])),
        ],
    ))
}

fn serial() -> Vec<u8> {
    let ports = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORTS as u8);
    let interrupt = interrupt(layout::SERIAL_INTERRUPT);
    bytes(&Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(vcpus: u8, devices: u32, serial: Serial) -> Tables {
        tables(Announced { vcpus: Vcpus(vcpus), devices, serial })
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_has_its_length_and_a_checksum_of_zero() {
        for (_, table) in made(8, 3, Serial::Present).iter().take(4) {
            assert_eq!(sum(table), 0, "{:?}", &table[..4]);
            assert_eq!(u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize, table.len());
        }
        let (at, root) = made(1, 3, Serial::Absent).pop().expect("the root pointer is last");
        assert_eq!((at, root.len()), (layout::RSDP, 36));
        assert_eq!((&root[..8], sum(&root[..20]), sum(&root)), (&b"RSD PTR "[..], 0, 0));
    }

    #[test]
    fn tables_follow_each_other_and_stay_below_the_area_of_the_bios() {
        let tables = made(8, layout::DEVICES_MAX, Serial::Present);
        for pair in tables.windows(2) {
            assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
            assert_eq!(pair[1].0 % 16, 0);
        }
        let names: Vec<_> = tables.iter().map(|(_, table)| table[..4].to_vec()).collect();
        assert_eq!(names, [&b"DSDT"[..], b"FACP", b"APIC", b"XSDT", b"RSD "]);
    }

    #[test]
    fn the_kernel_is_told_that_nothing_of_a_pc_is_there() {
        let fadt = &made(1, 2, Serial::Present)[1].1;
        assert_eq!(fadt.len(), 276);
        assert_eq!(&fadt[109..111], &0x24_u16.to_le_bytes(), "no VGA, no CMOS clock, no keyboard controller");
        assert_eq!(&fadt[112..116], &0x0010_0030_u32.to_le_bytes(), "hardware reduced, no buttons");
        assert_eq!(&fadt[140..148], &layout::ACPI_TABLES.to_le_bytes(), "the DSDT by its long address");
        assert_eq!(&fadt[40..44], &[0; 4], "and not by its short one");
    }

    #[test]
    fn one_processor_has_the_madt_that_was_measured() {
        let madt = &made(1, 2, Serial::Present)[2].1;
        assert_eq!(madt.len(), 64);
        assert_eq!(&madt[36..44], &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0], "local APIC, and no old controllers");
        assert_eq!(
            &madt[44..56],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            "I/O APIC from interrupt 0 on"
        );
        assert_eq!(&madt[56..64], &[0, 8, 0, 0, 1, 0, 0, 0], "processor 0, enabled");
        assert_eq!(made(8, 2, Serial::Present)[2].1.len(), 64 + 7 * 8);
    }

    #[test]
    fn a_device_is_announced_byte_for_byte_as_linux_took_it() {
        let expected = [
            &[0x5b, 0x82, 0x46, 4, b'.'][..], // Device, package of 0x46 bytes, a name of two parts
            b"_SB_V001\x08_HID\x0dLNRO0005\0",
            b"\x08_UID\x01\x08_CCA\x01\x08_CRS\x11\x1a\x0a\x17",
            &[0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0], // 32-bit window, writable, 0xd0001000, one page
            &[0x89, 6, 0, 3, 1, 6, 0, 0, 0],                   // interrupt 6: consumer, edge, active high
            &[0x79, 0],
        ]
        .concat();
        assert_eq!(virtio(1), expected);
    }

    #[test]
    fn the_serial_port_is_announced_only_where_there_is_one() {
        let with = &made(1, 2, Serial::Present)[0].1;
        assert_eq!(with.len(), 236);
        assert!(with.windows(4).any(|name| name == b"COM1"));
        assert!(!made(1, 2, Serial::Absent)[0].1.windows(4).any(|name| name == b"COM1"));
    }
}
