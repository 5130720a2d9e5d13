//! Which monitor a host gets.

use omnirun_vmm_api::{Monitor, MonitorChoice, MonitorError};

use crate::{kvm::Kvm, qemu::Qemu};

/// The monitor that was asked for, or the best that works here.
///
/// There is no probe of KVM yet: a host whose `/dev/kvm` only emulates accepts every ioctl and then fails at the first
/// SSE instruction, so its presence says nothing. Until there is one, `auto` is QEMU with TCG on every host: slow where
/// KVM would work, right everywhere.
pub fn choose(choice: MonitorChoice) -> Result<Box<dyn Monitor>, MonitorError> {
    match choice {
        MonitorChoice::Auto | MonitorChoice::Qemu => Ok(Box::new(Qemu::find()?)),
        MonitorChoice::Kvm => Ok(Box::new(Kvm::find()?)),
    }
}
