//! Which monitor a host gets.

use omnirun_vmm_api::{Monitor, MonitorChoice, MonitorError};

use crate::qemu::Qemu;

/// The monitor that was asked for, or the best that works here.
///
/// There is no probe of KVM yet: a host whose `/dev/kvm` only emulates accepts every ioctl and then fails at the first
/// SSE instruction, so its presence says nothing. Until the `kvm` monitor and its probe exist, `auto` is QEMU with TCG
/// on every host: slow where KVM would work, right everywhere.
pub fn choose(choice: MonitorChoice) -> Result<Box<dyn Monitor>, MonitorError> {
    match choice {
        MonitorChoice::Auto | MonitorChoice::Qemu => Ok(Box::new(Qemu::find()?)),
        MonitorChoice::Kvm => Err(MonitorError::Unavailable {
            monitor: "kvm",
            reason: "this build has none: choose auto or qemu".to_owned(),
        }),
    }
}
