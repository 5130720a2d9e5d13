//! The throw-away guest: 1 MiB of memory, one processor in long mode, no devices, a few instructions.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use omnirun_vmm_api::MemoryMib;
use vm_memory::{Bytes, GuestAddress};

use super::{Verdict, program};
use crate::kvm::{API_VERSION, boot, layout, machine, memory::Memory};

const MEMORY: MemoryMib = MemoryMib(1);
/// Where its code and its data are: below the page tables.
const CODE: u64 = 0x1000;
const DATA: u64 = 0x2000;
/// CR4: SSE, its exceptions, XSAVE (Intel's manual, volume 3, section 2.5).
const CR4: u64 = 1 << 9 | 1 << 10 | 1 << 18;

/// Something that KVM refused.
struct Refused {
    step: &'static str,
    error: io::Error,
}

fn refused<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Refused {
    move |error| Refused { step, error: error.into() }
}

/// Runs a guest with this code until it halts, is refused, or is to give up. It is to leave [`program::result`].
pub fn run(device: &Kvm, code: &[u8], give_up: &AtomicBool) -> Verdict {
    if device.get_api_version() != API_VERSION {
        return Verdict::Broken { why: "it is of another version, or no KVM at all".to_owned() };
    }
    attempt(device, code, give_up).unwrap_or_else(|Refused { step, error }| Verdict::Broken {
        why: format!("it cannot {step} ({error})"),
    })
}

fn attempt(device: &Kvm, code: &[u8], give_up: &AtomicBool) -> Result<Verdict, Refused> {
    let memory = Memory::empty(MEMORY).map_err(|_| out_of_memory())?;
    let mut placed: Vec<_> = boot::page_tables().into();
    placed.extend([(CODE, code.to_vec()), (DATA, program::data())]);
    for (at, bytes) in placed {
        memory.ram().write_slice(&bytes, GuestAddress(at)).map_err(|_| out_of_memory())?;
    }
    // No interrupt controller: a processor that halts then comes back, instead of waiting inside of KVM.
    let vm = device.create_vm().map_err(refused("make a machine"))?;
    vm.set_tss_address(layout::TSS).map_err(refused("make a machine"))?;
    machine::add_memory(&vm, &memory, MEMORY).map_err(|_| out_of_memory())?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused("make a processor"))?;
    prepare(device, &vcpu)?;
    let verdict = execute(&mut vcpu, give_up)?;
    let mut data = program::data();
    memory.ram().read_slice(&mut data, GuestAddress(DATA)).map_err(|_| out_of_memory())?;
    Ok(match verdict {
        Verdict::Works if data != program::result() => {
            Verdict::Broken { why: "it executes instructions wrongly".to_owned() }
        }
        verdict => verdict,
    })
}

fn out_of_memory() -> Refused {
    Refused { step: "give memory to a machine", error: io::ErrorKind::OutOfMemory.into() }
}

fn prepare(device: &Kvm, vcpu: &VcpuFd) -> Result<(), Refused> {
    let supported = device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("list features"))?;
    vcpu.set_cpuid2(&supported).map_err(refused("describe a processor"))?;
    let mut sregs = vcpu.get_sregs().map_err(refused("read a processor"))?;
    boot::long_mode(&mut sregs);
    sregs.cr4 |= CR4;
    vcpu.set_sregs(&sregs).map_err(refused("set up a processor with SSE and XSAVE"))?;
    let regs = kvm_regs {
        rip: CODE,
        rdi: DATA,
        rax: program::OLD[0],
        rdx: program::OLD[1],
        rbx: program::NEW[0],
        rcx: program::NEW[1],
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("set up a processor"))
}

fn execute(vcpu: &mut VcpuFd, give_up: &AtomicBool) -> Result<Verdict, Refused> {
    let said = loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(Verdict::Works),
            // The emulator met what it lacks; or it made an exception of it, for which the guest has no handler.
            Ok(VcpuExit::InternalError | VcpuExit::Shutdown) => break None,
            Ok(other) => break Some(format!("a guest of six instructions made it ask for {other:?}")),
            Err(error) => match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::Interrupted => {
                    if give_up.load(Ordering::SeqCst) {
                        break Some("it was interrupted".to_owned());
                    }
                }
                error => return Err(refused("run a machine")(error)),
            },
        }
    };
    if let Some(why) = said {
        return Ok(Verdict::Broken { why });
    }
    let regs = vcpu.get_regs().map_err(refused("read a processor"))?;
    Ok(Verdict::Emulates { stops_at: program::name_at(regs.rip.wrapping_sub(CODE)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None on a host without KVM.
    fn tried(code: &[u8]) -> Option<Verdict> {
        let device = Kvm::new().ok()?;
        Some(run(&device, code, &AtomicBool::new(false)))
    }

    #[test]
    fn a_guest_that_halts_without_having_done_its_work_is_found_out() {
        if let Some(verdict) = tried(b"\xf4") {
            assert_eq!(verdict, Verdict::Broken { why: "it executes instructions wrongly".to_owned() });
        }
    }

    #[test]
    fn an_instruction_that_is_not_executed_is_named() {
        // movdqa, and ud2 where pxor would be.
        if let Some(verdict) = tried(b"\x66\x0f\x6f\x07\x0f\x0b") {
            assert_eq!(verdict, Verdict::Emulates { stops_at: "PXOR (SSE)" });
        }
    }
}
