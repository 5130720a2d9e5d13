//! Where things are in a guest's physical address space and on its interrupt controller. Numbers only.

/// A page.
pub const PAGE: u64 = 4096;

/// Global descriptor table of the first vCPU, below the zero page.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table: one empty entry, since the kernel sets its own before it enables interrupts.
pub const IDT: u64 = 0x520;
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack of the first instructions.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables of the first instructions: one page for each of the three levels.
pub const PML4: u64 = 0x9000;
/// The second level.
pub const PDPT: u64 = 0xa000;
/// The third level: 512 entries of 2 MiB, the first GiB.
pub const PD: u64 = 0xb000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x20000;
/// Longest command line with its final zero: the kernel's own COMMAND_LINE_SIZE on x86.
pub const COMMAND_LINE_MAX: usize = 2048;

/// ACPI tables, the DSDT first; also where usable low memory ends.
pub const ACPI_TABLES: u64 = 0x9fc00;
/// The root pointer, in the area that BIOSes use, so that kernels that search for it find it too.
pub const RSDP: u64 = 0xe0000;
/// The kernel's memory begins here.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Memory below 4 GiB ends here at the latest; the rest of it begins at 4 GiB.
pub const LOW_MEMORY_END: u64 = 0xc000_0000;
/// Memory above the devices begins here.
pub const FAR_MEMORY: u64 = 0x1_0000_0000;

/// Register windows of the devices, one page each.
pub const DEVICES: u64 = 0xd000_0000;
/// The first device's interrupt. The controller has 24 inputs; those below belong to old hardware.
pub const FIRST_INTERRUPT: u32 = 5;
/// Devices that fit on the interrupt controller.
pub const DEVICES_MAX: u32 = 24 - FIRST_INTERRUPT;

/// The I/O interrupt controller and the local ones, where every PC has them.
pub const IO_APIC: u32 = 0xfec0_0000;
/// See above.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors, in the gap below 4 GiB.
pub const TSS: usize = 0xfffb_d000;

/// The serial port and its interrupt.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Ports of a serial port.
pub const SERIAL_PORTS: u16 = 8;
/// Its interrupt.
pub const SERIAL_INTERRUPT: u32 = 4;
/// Command port of the keyboard controller, which resets the machine.
pub const KEYBOARD_COMMAND: u16 = 0x64;
