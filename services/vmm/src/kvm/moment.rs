//! The time of a guest that stands still. KVM's clock and the processors' counters run on meanwhile, and a guest keeps its time
//! by one or the other: both are put back before it goes on.

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use omnirun_vmm_api::MonitorError;

use super::{
    machine,
    vcpu::{Vcpu, counter},
};

/// When a guest stood still, by its own time.
pub struct Moment {
    counted: u64,
    clock: kvm_clock_data,
}

impl Moment {
    /// Now; none of its processors may run.
    pub fn of(vm: &VmFd, vcpus: &[Vcpu]) -> Result<Self, MonitorError> {
        Ok(Self { counted: vcpus[0].ask(counter::read)?, clock: machine::clock(vm)? })
    }

    /// Goes back to it. All counters are put back by the same, so that they stay in step.
    pub fn restore(&self, vm: &VmFd, vcpus: &[Vcpu]) -> Result<(), MonitorError> {
        let passed = vcpus[0].ask(counter::read)?.wrapping_sub(self.counted);
        for vcpu in vcpus {
            vcpu.ask(move |vcpu| counter::put_back(vcpu, passed))?;
        }
        machine::set_clock(vm, &self.clock)
    }
}
