//! Our own monitor on KVM, inside the process that owns the guest: processors as threads, a root, the agent port, entropy
//! and, where it is wished for, a network as virtio devices, nothing else.
//!
//! Reading order: [`layout`], [`memory`], [`acpi`], [`boot`] (what a guest finds), [`cpuid`], [`vcpu`], [`machine`] (what
//! runs it), [`virtio`], [`tap`] and [`bus`] (its devices), [`ended`], [`moment`], [`guest`], which puts them together, [`snapshot`], and [`jail`]
//! (what is left of the host for whoever breaks out of all that).

pub mod files;

pub mod jail;

pub mod layout;

pub mod memory;

pub mod acpi;

pub mod boot;

mod mapped;

pub mod cpuid;

pub mod virtio;

pub mod tap;

pub mod bus;

pub mod serial;

pub mod ended;

pub mod vcpu;

pub mod machine;

mod moment;

pub mod snapshot;

mod guest;

mod program;

mod usage;

use std::{
    fs::File,
    io, mem,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::VmFd;
use omnirun_vmm_api::{
    Bytes, Guest, MacAddress, Monitor, MonitorError, NetworkSpec, Place, SnapshotFiles, VmSpec,
};

use files::Files;
use guest::KvmGuest;
use jail::filter::{self, ThreadFilters};
use snapshot::Loaded;
use tap::Tap;

use crate::{edition, probe::Verdict};

/// The only version that there has ever been (Linux' Documentation/virt/kvm/api.rst).
pub const API_VERSION: i32 = 12;

/// KVM of this host.
pub struct Kvm {
    device: Arc<kvm_ioctls::Kvm>,
    /// What a processor may have here, and its registers that are named by numbers: asked for once.
    supported: Vec<kvm_cpuid_entry2>,
    fingerprint: Arc<[u32]>,
    msrs: Arc<[u32]>,
    /// A machine made beforehand.
    spare: Mutex<Spare>,
    /// A snapshot that was read beforehand.
    loaded: Mutex<Option<Loaded>>,
    console: Option<File>,
    /// Opened beforehand, for one who will not be able to.
    files: Option<Arc<Files>>,
    /// For the threads of guests in a jail.
    filters: Option<Arc<ThreadFilters>>,
    /// What a guest's network device leads to, and its address.
    network: Option<(Arc<Tap>, MacAddress)>,
}

/// How long whoever begins to make a machine leaves its processor to the thread that makes it, unless that ends before: a new
/// thread runs last, and with one processor that is after all that could be done while the kernel makes it wait.
const HEAD_START: Duration = Duration::from_millis(1);

/// The next guest's machine.
enum Spare {
    None,
    Ready(VmFd),
    /// In a thread, which ends with it.
    Making(JoinHandle<Result<VmFd, MonitorError>>),
}

/// An operation on KVM or on the guest's threads that failed.
fn failed(step: &'static str) -> impl Fn(io::Error) -> MonitorError {
    move |source| MonitorError::Kvm { step, source }
}

impl Kvm {
    /// Opens KVM. That it opens does not say that it can run a stock kernel: [`Verdict::of_this_host`] does. All threads
    /// that are started from now on share one heap: a guest's threads need little, and a heap for each takes time and memory.
    pub fn find() -> Result<Self, MonitorError> {
        let device = kvm_ioctls::Kvm::new();
        let device = device.map_err(|error| Verdict::of_refused_open(error.into()).refusal())?;
        if device.get_api_version() != API_VERSION {
            let why = "it is of another version, or no KVM at all".to_owned();
            return Err(Verdict::Broken { why }.refusal());
        }
        filter::share_one_heap();
        vcpu::prepare_signal()?;
        let supported = device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let supported = supported.map_err(|error| failed("describe a processor to")(error.into()))?;
        let supported = supported.as_slice().to_vec();
        let fingerprint = cpuid::fingerprint(&supported).into();
        let msrs = vcpu::state::msr_list(&device)?.into();
        let device = Arc::new(device);
        Ok(Self {
            device,
            supported,
            fingerprint,
            msrs,
            spare: Mutex::new(Spare::None),
            loaded: Mutex::new(None),
            console: None,
            files: None,
            filters: None,
            network: None,
        })
    }

    /// Gives every guest a serial port that prints the first [`CONSOLE_MAX`] bytes into a new file at this path. For
    /// looking at guests that do not come up: it makes the boot slower and forbids snapshots.
    pub fn with_console(mut self, path: &Path) -> Result<Self, MonitorError> {
        let bad =
            |error: io::Error| MonitorError::BadFile { path: path.to_owned(), reason: error.to_string() };
        self.console = Some(File::create(path).map_err(bad)?);
        Ok(self)
    }

    /// Makes the next guest's machine now, so that its start need not.
    pub fn make_spare(&self) -> Result<(), MonitorError> {
        let machine = self.machine()?;
        self.put_spare(Spare::Ready(machine));
        Ok(())
    }

    /// Begins to make it beside what the caller does next: the host's kernel spends most of that time waiting.
    fn begin_spare(&self) -> Result<(), MonitorError> {
        let device = self.device.clone();
        let (lives, ended) = mpsc::channel::<()>();
        let making = std::thread::Builder::new()
            .name("machine".to_owned())
            .stack_size(vcpu::STACK_BYTES)
            .spawn(move || {
                let _lives = lives;
                machine::create(&device)
            })
            .map_err(failed("start a thread for"))?;
        self.put_spare(Spare::Making(making));
        let _ = ended.recv_timeout(HEAD_START);
        Ok(())
    }

    fn put_spare(&self, spare: Spare) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = spare;
    }

    fn files(&self, spec: &VmSpec) -> Result<Arc<Files>, MonitorError> {
        self.files.clone().map_or_else(|| Ok(Arc::new(Files::open(spec)?)), Ok)
    }

    /// The snapshot that was read beforehand, or else this one.
    fn loaded(&self, spec: &VmSpec, files: &SnapshotFiles) -> Result<Loaded, MonitorError> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        loaded.map_or_else(|| snapshot::load(files, spec, &self.fingerprint), Ok)
    }

    fn take_spare(&self) -> Spare {
        mem::replace(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner), Spare::None)
    }

    fn machine(&self) -> Result<VmFd, MonitorError> {
        match self.take_spare() {
            Spare::Ready(machine) => Ok(machine),
            Spare::Making(making) => making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Spare::None => machine::create(&self.device),
        }
    }

    /// Makes a machine while something is done that takes long.
    fn machine_beside<T>(
        &self,
        work: impl FnOnce() -> Result<T, MonitorError>,
    ) -> Result<(VmFd, T), MonitorError> {
        let spare = self.take_spare();
        if matches!(spare, Spare::None) {
            self.begin_spare()?;
        } else {
            self.put_spare(spare);
        }
        let done = work();
        // It is waited for in any case, so that no thread is left behind.
        Ok((self.machine()?, done?))
    }
}

/// The most that a guest's serial port prints.
pub const CONSOLE_MAX: Bytes = Bytes(1 << 20);

impl Monitor for Kvm {
    fn identity(&self) -> Result<String, MonitorError> {
        // The program that runs, also where another one has taken its place.
        Ok(format!("kvm.{}", edition::of(Path::new("/proc/self/exe"))?))
    }

    fn processor(&self) -> String {
        let words = cpuid::fingerprint(&self.supported);
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        format!("{:08x}", crc32fast::hash(&bytes))
    }

    fn place(&self) -> Place {
        Place::ThisProcess
    }

    fn attach(&mut self, network: &NetworkSpec) -> Result<(), MonitorError> {
        self.network = Some((Arc::new(Tap::open(&network.tap)?), network.mac));
        Ok(())
    }

    fn enclose(&mut self, spec: &VmSpec, snapshot: Option<&SnapshotFiles>) -> Result<(), MonitorError> {
        // The jail is made meanwhile. The thread has the rights of before, and ends before a guest's first instruction.
        self.begin_spare()?;
        self.files = Some(Arc::new(Files::open(spec)?));
        self.filters = Some(Arc::new(ThreadFilters::make()?));
        // One that is refused is read again, and refused, when a guest is to be made of it.
        let loaded = snapshot.and_then(|files| snapshot::load(files, spec, &self.fingerprint).ok());
        self.loaded = Mutex::new(loaded);
        Ok(())
    }

    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
        Ok(Box::new(KvmGuest::boot(self, spec)?))
    }

    fn restore(&self, spec: &VmSpec, files: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
        Ok(Box::new(KvmGuest::restore(self, spec, &files)?))
    }
}
