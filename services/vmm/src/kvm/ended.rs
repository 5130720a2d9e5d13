//! How a guest ends, said once: the first reason stays, and whoever waits for the end is woken.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use omnirun_vmm_api::MonitorError;
use rustix::event::{EventfdFlags, eventfd};

use super::{failed, virtio::Fault};

/// Why a guest has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Its kernel restarted or stopped the machine.
    #[error("the guest stopped its machine")]
    Stopped,
    /// It broke a device's rules.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// KVM cannot run it.
    #[error("KVM cannot run the guest: {0}")]
    Kvm(String),
    /// The interface of the host that its network device led to was removed.
    #[error(
        "the host's tap {0}, which the guest's network device leads to, has vanished: make it anew, and then a guest"
    )]
    TapVanished(String),
    /// The host ended it.
    #[error("the host ended the guest")]
    Killed,
}

/// The end of one guest.
pub struct Ended {
    reason: OnceLock<End>,
    event: OwnedFd,
}

impl Ended {
    /// Of a guest that lives.
    pub fn not_yet() -> Result<Self, MonitorError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = event.map_err(|errno| failed("watch the guest")(errno.into()))?;
        Ok(Self { reason: OnceLock::new(), event })
    }

    /// Notes the end, unless it has been noted.
    pub fn note(&self, reason: End) {
        if self.reason.set(reason).is_ok() {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Why, once it has ended.
    pub fn reason(&self) -> Option<&End> {
        self.reason.get()
    }

    /// Readable once it has ended.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
