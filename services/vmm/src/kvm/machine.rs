//! The machine without its processors: what KVM keeps of it.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data,
    kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use omnirun_vmm_api::{MemoryMib, MonitorError};
use serde::{Deserialize, Serialize};

use super::{failed, layout, memory::Memory};

/// What KVM keeps, in a snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub struct MachineState {
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

fn kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> MonitorError {
    move |error| failed(step)(error.into())
}

/// A machine with interrupt controllers and a timer, without memory and processors. Making it costs the host's kernel
/// ten times as much as all the rest of a restore.
pub fn create(device: &Kvm) -> Result<VmFd, MonitorError> {
    let make = kvm("make the machine of");
    let vm = device.create_vm().map_err(&make)?;
    vm.set_tss_address(layout::TSS).map_err(&make)?;
    vm.create_irq_chip().map_err(&make)?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(&make)?;
    Ok(vm)
}

/// Gives a machine its memory, which must live as long as it.
pub fn add_memory(vm: &VmFd, memory: &Memory, size: MemoryMib) -> Result<(), MonitorError> {
    for (index, slot) in memory.slots(size).into_iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: index as u32,
            flags: 0,
            guest_phys_addr: slot.guest,
            memory_size: slot.length,
            userspace_addr: slot.host,
        };
        // SAFETY: the range is mapped, belongs to this guest alone, and is kept by the devices as long as the machine.
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm("give memory to"))?;
    }
    Ok(())
}

/// The clock of a machine whose processors stand still, without the host's time beside it: a guest that goes on by it sees no
/// jump, and its agent sets the wall clock.
pub fn clock(vm: &VmFd) -> Result<kvm_clock_data, MonitorError> {
    let clock = vm.get_clock().map_err(kvm("read the machine of"))?;
    Ok(kvm_clock_data { flags: 0, ..clock })
}

/// Sets it.
pub fn set_clock(vm: &VmFd, clock: &kvm_clock_data) -> Result<(), MonitorError> {
    vm.set_clock(clock).map_err(kvm("set the clock of"))
}

impl MachineState {
    /// Reads a machine whose processors stand still.
    pub fn save(vm: &VmFd) -> Result<Self, MonitorError> {
        let read = kvm("read the machine of");
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map(|()| chip)
        };
        let irqchips = [
            chip(KVM_IRQCHIP_PIC_MASTER).map_err(&read)?,
            chip(KVM_IRQCHIP_PIC_SLAVE).map_err(&read)?,
            chip(KVM_IRQCHIP_IOAPIC).map_err(&read)?,
        ];
        let pit = vm.get_pit2().map_err(&read)?;
        Ok(Self { irqchips, pit, clock: clock(vm)? })
    }

    /// Writes a fresh machine.
    pub fn load(&self, vm: &VmFd) -> Result<(), MonitorError> {
        let write = kvm("restore the machine of");
        vm.set_pit2(&self.pit).map_err(&write)?;
        set_clock(vm, &self.clock)?;
        self.irqchips.iter().try_for_each(|chip| vm.set_irqchip(chip).map_err(&write))
    }
}
