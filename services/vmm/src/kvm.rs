//! Our own monitor on KVM, inside the process that owns the guest: processors as threads, a root, the agent port and
//! entropy as virtio devices, nothing else.
//!
//! Reading order: [`layout`], [`memory`], [`acpi`], [`boot`] (what a guest finds), [`cpuid`], [`vcpu`], [`machine`] (what
//! runs it), [`virtio`] and [`bus`] (its devices), [`ended`], [`guest`], which puts them together, and [`snapshot`].

pub mod layout;

pub mod memory;

pub mod acpi;

pub mod boot;

mod mapped;

pub mod cpuid;

pub mod virtio;

pub mod bus;

pub mod serial;

pub mod ended;

pub mod vcpu;

pub mod machine;

pub mod snapshot;

mod guest;

mod usage;

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use kvm_ioctls::VmFd;
use omnirun_vmm_api::{Bytes, Guest, Monitor, MonitorError, SnapshotFiles, VmSpec};

use guest::KvmGuest;

use crate::probe::Verdict;

/// The only version that there has ever been (Linux' Documentation/virt/kvm/api.rst).
pub const API_VERSION: i32 = 12;

/// KVM of this host.
pub struct Kvm {
    device: kvm_ioctls::Kvm,
    /// A machine made beforehand.
    spare: Mutex<Option<VmFd>>,
    console: Option<PathBuf>,
}

/// An operation on KVM or on the guest's threads that failed.
fn failed(step: &'static str) -> impl Fn(io::Error) -> MonitorError {
    move |source| MonitorError::Kvm { step, source }
}

impl Kvm {
    /// Opens KVM. That it opens does not say that it can run a stock kernel: [`Verdict::of_this_host`] does.
    pub fn find() -> Result<Self, MonitorError> {
        let device = kvm_ioctls::Kvm::new();
        let device = device.map_err(|error| Verdict::of_refused_open(error.into()).refusal())?;
        if device.get_api_version() != API_VERSION {
            let why = "it is of another version, or no KVM at all".to_owned();
            return Err(Verdict::Broken { why }.refusal());
        }
        vcpu::prepare_signal()?;
        Ok(Self { device, spare: Mutex::new(None), console: None })
    }

    /// Gives every guest a serial port that prints the first [`CONSOLE_MAX`] bytes into a new file at this path. For
    /// looking at guests that do not come up: it makes the boot slower and forbids snapshots.
    pub fn with_console(mut self, path: PathBuf) -> Self {
        self.console = Some(path);
        self
    }

    /// Makes the next guest's machine now, so that its start need not.
    pub fn make_spare(&self) -> Result<(), MonitorError> {
        let machine = machine::create(&self.device)?;
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(machine);
        Ok(())
    }

    fn take_spare(&self) -> Option<VmFd> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn machine(&self) -> Result<VmFd, MonitorError> {
        self.take_spare().map_or_else(|| machine::create(&self.device), Ok)
    }

    /// Makes a machine while something is done that takes long: the host's kernel spends most of that time waiting.
    fn machine_beside<T>(
        &self,
        work: impl FnOnce() -> Result<T, MonitorError>,
    ) -> Result<(VmFd, T), MonitorError> {
        if let Some(spare) = self.take_spare() {
            return Ok((spare, work()?));
        }
        std::thread::scope(|scope| {
            let making = std::thread::Builder::new()
                .name("machine".to_owned())
                .stack_size(vcpu::STACK_BYTES)
                .spawn_scoped(scope, || machine::create(&self.device))
                .map_err(failed("start a thread for"))?;
            let done = work();
            let machine = making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((machine, done?))
        })
    }
}

/// The most that a guest's serial port prints.
pub const CONSOLE_MAX: Bytes = Bytes(1 << 20);

impl Monitor for Kvm {
    fn identity(&self) -> Result<String, MonitorError> {
        Ok(format!("kvm.{}.{}", env!("CARGO_PKG_VERSION"), snapshot::VERSION))
    }

    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
        Ok(Box::new(KvmGuest::boot(self, spec)?))
    }

    fn restore(&self, spec: &VmSpec, files: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
        Ok(Box::new(KvmGuest::restore(self, spec, &files)?))
    }
}
