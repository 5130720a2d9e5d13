//! What a processor consists of: made for a boot, read for a snapshot, written at a restore. The order is part of it.

use std::io;

use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use omnirun_vmm_api::MonitorError;
use serde::{Deserialize, Serialize};

use super::counter::Counter;
use crate::kvm::{boot, failed};

/// Intel's manual, volume 4.
pub(super) const IA32_TSC: u32 = 0x10;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SYSCALL_MASK: u32 = 0xc000_0084;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Fast strings.
const FAST_STRING: u64 = 1;
/// Ranges enabled, memory of no range is written back.
const WRITE_BACK: u64 = 1 << 11 | 6;
/// Registers that are read with one call.
const MSRS_MAX: usize = 256;

/// Offsets of the local vector table's pins in the local controller's registers, and their delivery modes.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const FROM_OLD_CONTROLLER: u32 = 7 << 8;
const NON_MASKABLE: u32 = 4 << 8;
const DELIVERY_MODE: u32 = 7 << 8;

/// A processor in a snapshot.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    tsc_khz: u32,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp: kvm_mp_state,
}

fn kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> MonitorError {
    move |error| failed(step)(error.into())
}

/// The registers of this host that a snapshot must hold.
pub fn msr_list(kvm_device: &Kvm) -> Result<Vec<u32>, MonitorError> {
    let list = kvm_device.get_msr_index_list().map_err(kvm("list the registers of"))?;
    Ok(list.as_slice().to_vec())
}

/// Makes a fresh processor ready to boot. The first gets the address of the first instruction, the others wait for it
/// to start them.
pub fn prepare(vcpu: &VcpuFd, cpuid: &[kvm_cpuid_entry2], entry: Option<u64>) -> Result<(), MonitorError> {
    set_cpuid(vcpu, cpuid)?;
    let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = [
        msr(IA32_SYSENTER_CS, 0),
        msr(IA32_SYSENTER_ESP, 0),
        msr(IA32_SYSENTER_EIP, 0),
        msr(STAR, 0),
        msr(CSTAR, 0),
        msr(KERNEL_GS_BASE, 0),
        msr(SYSCALL_MASK, 0),
        msr(LSTAR, 0),
        msr(IA32_TSC, 0),
        msr(IA32_MISC_ENABLE, FAST_STRING),
        msr(IA32_MTRR_DEF_TYPE, WRITE_BACK),
    ];
    set_msrs(vcpu, &msrs)?;
    if let Some(entry) = entry {
        let mut sregs = vcpu.get_sregs().map_err(kvm("read a processor of"))?;
        boot::long_mode(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(kvm("set up a processor of"))?;
        vcpu.set_regs(&boot::registers(entry)).map_err(kvm("set up a processor of"))?;
    }
    let mut lapic = vcpu.get_lapic().map_err(kvm("read a processor of"))?;
    set_pin(&mut lapic, LVT_LINT0, FROM_OLD_CONTROLLER);
    set_pin(&mut lapic, LVT_LINT1, NON_MASKABLE);
    vcpu.set_lapic(&lapic).map_err(kvm("set up a processor of"))
}

fn set_pin(lapic: &mut kvm_lapic_state, at: usize, mode: u32) {
    let mut word = [0; 4];
    for (byte, register) in word.iter_mut().zip(&lapic.regs[at..]) {
        *byte = *register as u8;
    }
    let value = u32::from_le_bytes(word) & !DELIVERY_MODE | mode;
    for (register, byte) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
        *register = byte as _;
    }
}

fn set_cpuid(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), MonitorError> {
    let cpuid = CpuId::from_entries(entries).map_err(|_| failed("describe a processor of")(too_many()))?;
    vcpu.set_cpuid2(&cpuid).map_err(kvm("describe a processor to"))
}

fn too_many() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

fn set_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), MonitorError> {
    for chunk in entries.chunks(MSRS_MAX) {
        let msrs = Msrs::from_entries(chunk).map_err(|_| failed("set registers of")(too_many()))?;
        let set = vcpu.set_msrs(&msrs).map_err(kvm("set registers of"))?;
        if let Some(refused) = chunk.get(set) {
            let refused = io::Error::other(format!("register {:#x} is refused", refused.index));
            return Err(failed("set registers of")(refused));
        }
    }
    Ok(())
}

/// Reads what can be read: some registers of the list exist only where the guest's processor has the feature.
pub(super) fn get_msrs(vcpu: &VcpuFd, list: &[u32]) -> Result<Vec<kvm_msr_entry>, MonitorError> {
    let mut read = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let asked: Vec<_> = rest
            .iter()
            .take(MSRS_MAX)
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&asked).map_err(|_| failed("read registers of")(too_many()))?;
        let count = vcpu.get_msrs(&mut msrs).map_err(kvm("read registers of"))?;
        read.extend_from_slice(&msrs.as_slice()[..count]);
        // The one at which it stopped cannot be read.
        let skipped = usize::from(count < asked.len());
        rest = &rest[count + skipped..];
    }
    Ok(read)
}

impl VcpuState {
    /// Reads a processor that stands still. What is pending comes last: reading the rest may change it.
    pub fn save(vcpu: &VcpuFd, msr_list: &[u32]) -> Result<Self, MonitorError> {
        let read = kvm("read a processor of");
        let mp = vcpu.get_mp_state().map_err(&read)?;
        let regs = vcpu.get_regs().map_err(&read)?;
        let sregs = vcpu.get_sregs().map_err(&read)?;
        let xsave = vcpu.get_xsave().map_err(&read)?;
        let xcrs = vcpu.get_xcrs().map_err(&read)?;
        let debug = vcpu.get_debug_regs().map_err(&read)?;
        let lapic = vcpu.get_lapic().map_err(&read)?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(&read)?;
        let cpuid = vcpu.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(&read)?.as_slice().to_vec();
        let msrs = get_msrs(vcpu, msr_list)?;
        let events = vcpu.get_vcpu_events().map_err(&read)?;
        Ok(Self { cpuid, tsc_khz, regs, sregs, xsave, xcrs, debug, lapic, msrs, events, mp })
    }

    /// Writes a fresh processor. CPUID comes before the system registers and the local controller, which are checked
    /// against it, and the timer's deadline after the local controller, which must be in deadline mode to take it.
    pub fn load(&self, vcpu: &VcpuFd, counter: Counter) -> Result<(), MonitorError> {
        let write = kvm("restore a processor of");
        let (made, here) = (self.tsc_khz, vcpu.get_tsc_khz().map_err(&write)?);
        if !counter.keeps(made, here) {
            let why = format!("it counted at {made} kHz, and this host's processor counts at {here} alone");
            return Err(failed("keep the time of")(io::Error::other(why)));
        }
        if counter == Counter::AnyRate && made != here {
            vcpu.set_tsc_khz(self.tsc_khz).map_err(&write)?;
        }
        set_cpuid(vcpu, &self.cpuid)?;
        vcpu.set_mp_state(self.mp).map_err(&write)?;
        vcpu.set_regs(&self.regs).map_err(&write)?;
        vcpu.set_sregs(&self.sregs).map_err(&write)?;
        // SAFETY: the state that the file holds is of the processor's plain size; larger ones exist only after a
        // process has asked for AMX, which this one never does.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(&write)?;
        vcpu.set_xcrs(&self.xcrs).map_err(&write)?;
        vcpu.set_debug_regs(&self.debug).map_err(&write)?;
        vcpu.set_lapic(&self.lapic).map_err(&write)?;
        set_msrs(vcpu, &self.ordered_msrs())?;
        vcpu.set_vcpu_events(&self.events).map_err(&write)?;
        // Refused where the guest has no such clock; it then needs no telling.
        let _ = vcpu.kvmclock_ctrl();
        Ok(())
    }

    /// The deadline last. One that has passed reads as 0, which would disarm the timer: it is due now.
    fn ordered_msrs(&self) -> Vec<kvm_msr_entry> {
        let now = self.msrs.iter().find(|msr| msr.index == IA32_TSC).map_or(0, |msr| msr.data);
        let (mut deadline, mut msrs): (Vec<_>, Vec<_>) =
            self.msrs.iter().copied().partition(|msr: &kvm_msr_entry| msr.index == IA32_TSC_DEADLINE);
        for msr in &mut deadline {
            if msr.data == 0 {
                msr.data = now;
            }
        }
        msrs.append(&mut deadline);
        msrs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_last_and_one_that_has_passed_is_due() {
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let state = state_with(vec![msr(IA32_TSC_DEADLINE, 0), msr(IA32_TSC, 77), msr(STAR, 1)]);
        let ordered: Vec<_> = state.ordered_msrs().iter().map(|msr| (msr.index, msr.data)).collect();
        assert_eq!(ordered, [(IA32_TSC, 77), (STAR, 1), (IA32_TSC_DEADLINE, 77)]);
    }

    fn state_with(msrs: Vec<kvm_msr_entry>) -> VcpuState {
        VcpuState {
            cpuid: Vec::new(),
            tsc_khz: 0,
            regs: Default::default(),
            sregs: Default::default(),
            xsave: Default::default(),
            xcrs: Default::default(),
            debug: Default::default(),
            lapic: Default::default(),
            msrs,
            events: Default::default(),
            mp: Default::default(),
        }
    }

    #[test]
    fn pins_change_their_mode_and_nothing_else() {
        let mut lapic = kvm_lapic_state::default();
        (lapic.regs[LVT_LINT0], lapic.regs[LVT_LINT0 + 2]) = (0x21, 1);
        set_pin(&mut lapic, LVT_LINT0, FROM_OLD_CONTROLLER);
        assert_eq!(lapic.regs[LVT_LINT0..LVT_LINT0 + 4], [0x21, 7, 1, 0]);
    }
}
