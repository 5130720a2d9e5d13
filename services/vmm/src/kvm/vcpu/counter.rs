//! A processor's time-stamp counter: its rate, and how it is put back.

use std::{ffi::c_ulong, io, ptr};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use omnirun_vmm_api::MonitorError;
use vmm_sys_util::ioctl::{_IOC_WRITE, ioctl_expr, ioctl_with_ref};

use super::state;
use crate::kvm::failed;

/// How far two rates of time-stamp counters may be apart to count as one: KVM's own limit (its parameter
/// `tsc_tolerance_ppm`). A rate is measured at each start of a host, and is never quite the same.
const RATE_TOLERANCE_PPM: u64 = 250;

/// KVM_SET_DEVICE_ATTR and KVM_GET_DEVICE_ATTR, which the bindings do not have for processors of this kind.
const SET: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xe1, size_of::<kvm_device_attr>() as u32);
const GET: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0xe2, size_of::<kvm_device_attr>() as u32);

/// What a host can do about the rate of a guest's time-stamp counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Give it any.
    AnyRate,
    /// Give it the host's own.
    OwnRate,
}

impl Counter {
    /// Of this machine's host.
    pub fn of(vm: &VmFd) -> Self {
        if vm.check_extension(Cap::TscControl) { Self::AnyRate } else { Self::OwnRate }
    }

    /// Whether a guest that has counted at this rate can go on where the processor counts at another one. KVM would
    /// take a slower processor too, and correct its counter at each exit.
    pub(super) fn keeps(self, made_khz: u32, here_khz: u32) -> bool {
        let apart = u64::from(made_khz.abs_diff(here_khz)) * 1_000_000;
        self == Self::AnyRate || apart <= u64::from(here_khz) * RATE_TOLERANCE_PPM
    }
}

/// What a processor's counter shows.
pub fn read(vcpu: &VcpuFd) -> Result<u64, MonitorError> {
    // A KVM that could not put it back, older than Linux 5.16, refuses the pause here and not its end.
    offset(vcpu)?;
    let read = state::get_msrs(vcpu, &[state::IA32_TSC])?;
    let counter =
        read.first().ok_or_else(|| failed("read the time of")(io::ErrorKind::Unsupported.into()))?;
    Ok(counter.data)
}

/// Puts a processor's counter back. By its offset: a value written to the counter itself that is less than a second from where
/// KVM expects the counter, it takes for a wish to be in step, and leaves the counter as it was.
pub fn put_back(vcpu: &VcpuFd, by: u64) -> Result<(), MonitorError> {
    let mut offset = offset(vcpu)?.wrapping_sub(by);
    with_offset(vcpu, SET, &mut offset)
}

/// What KVM adds to the host's counter.
fn offset(vcpu: &VcpuFd) -> Result<u64, MonitorError> {
    let mut offset = 0;
    with_offset(vcpu, GET, &mut offset)?;
    Ok(offset)
}

/// Linux' Documentation/virt/kvm/devices/vcpu.rst, section 4.1.
fn with_offset(vcpu: &VcpuFd, request: c_ulong, offset: &mut u64) -> Result<(), MonitorError> {
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: ptr::from_mut(offset).expose_provenance() as u64,
    };
    // SAFETY: KVM reads the attribute, and reads or writes the eight bytes at its address; both live as long as the call.
    let done = unsafe { ioctl_with_ref(vcpu, request, &attribute) };
    if done == 0 { Ok(()) } else { Err(failed("put back the time of")(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_goes_on_at_its_own_rate_or_where_the_rate_is_as_good_as_its_own() {
        for here in [1_999_501, 2_000_000, 2_000_499] {
            assert!(Counter::OwnRate.keeps(2_000_000, here), "{here}");
        }
        for here in [1_000_000, 1_999_499, 2_000_501, 3_000_000, 0] {
            assert!(!Counter::OwnRate.keeps(2_000_000, here), "{here}");
            assert!(Counter::AnyRate.keeps(2_000_000, here), "{here}");
        }
    }

    #[test]
    fn the_calls_are_those_of_the_kernels_header() {
        assert_eq!((SET, GET), (0x4018_aee1, 0x4018_aee2));
    }
}
