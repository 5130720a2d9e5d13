//! One guest in this process.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    thread::JoinHandle,
};

use kvm_ioctls::{VcpuFd, VmFd};
use omnirun_vmm_api::{
    Bytes, Guest, MemoryMib, MonitorError, Purpose, SnapshotFiles, Stats, Vcpus, VmSpec, owner::EndReason,
};

use super::{
    CONSOLE_MAX, Kvm,
    acpi::{Announced, Serial},
    boot,
    bus::{self, Bus, Devices},
    cpuid,
    ended::{End, Ended},
    failed,
    files::Files,
    jail::filter::ThreadFilters,
    machine::{self, MachineState},
    memory::Memory,
    moment::Moment,
    serial::{SerialPort, Sink},
    snapshot::{self, Loaded, State},
    usage,
    vcpu::{
        self, Vcpu,
        counter::Counter,
        state::{self, VcpuState},
    },
    virtio::{Fault, block::Block, console::Console, net::Net},
};

/// Shapes that a guest may have.
const VCPUS: std::ops::RangeInclusive<u8> = 1..=8;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 128..=32 * 1024;

/// What the kernel is told besides the console. `cryptomgr.notests` alone is more than half of a boot; without
/// `pci=off` it looks for a bus that is not there, and `reboot=k` is the one way to restart that exists.
const COMMAND_LINE: &str =
    "quiet panic=1 reboot=k pci=off nokaslr cryptomgr.notests random.trust_cpu=on tsc=reliable";
const NO_CONSOLE: &str = "8250.nr_uarts=0";
const CONSOLE: &str = "console=ttyS0 8250.nr_uarts=1";

/// A guest and its threads.
pub struct KvmGuest {
    running: Option<Running>,
    ended: Arc<Ended>,
    port: Option<UnixStream>,
    spec: VmSpec,
    /// What it used in all; known once it has ended.
    used: Stats,
}

struct Running {
    vm: VmFd,
    memory: Memory,
    bus: Arc<Bus>,
    vcpus: Vec<Vcpu>,
    devices: Option<JoinHandle<()>>,
    msrs: Arc<[u32]>,
    fingerprint: Arc<[u32]>,
    files: Arc<Files>,
    /// Since when it is paused.
    paused: Option<Moment>,
}

/// What a boot and a restore have in common before the processors.
struct Parts {
    vm: VmFd,
    memory: Memory,
    bus: Arc<Bus>,
    ended: Arc<Ended>,
    port: UnixStream,
    msrs: Arc<[u32]>,
    fingerprint: Arc<[u32]>,
    files: Arc<Files>,
    filters: Option<Arc<ThreadFilters>>,
}

fn check_shape(vcpus: Vcpus, memory: MemoryMib) -> Result<(), MonitorError> {
    if VCPUS.contains(&vcpus.0) && MEMORY_MIB.contains(&memory.0) {
        return Ok(());
    }
    let reason = format!(
        "a guest of {} vCPUs and {} MiB is not possible: ask for {} to {} vCPUs and {} to {} MiB",
        vcpus.0,
        memory.0,
        VCPUS.start(),
        VCPUS.end(),
        MEMORY_MIB.start(),
        MEMORY_MIB.end(),
    );
    Err(MonitorError::Refused { command: "start", reason })
}

fn assemble(
    kvm: &Kvm,
    spec: &VmSpec,
    files: Arc<Files>,
    vm: VmFd,
    memory: Memory,
) -> Result<Parts, MonitorError> {
    let block = Block::of(&files.images.root)?;
    let (port, ours) = UnixStream::pair().map_err(failed("make a port for"))?;
    let console = Console::new(ours).map_err(failed("make a port for"))?;
    let serial = kvm.console.as_ref().map(|file| {
        let file = file.try_clone().map_err(failed("make a serial port for"))?;
        SerialPort::new(Sink { file, left: CONSOLE_MAX })
    });
    let net = kvm.network.as_ref().map(|(tap, mac)| Net::new(tap.clone(), *mac));
    machine::add_memory(&vm, &memory, spec.memory)?;
    let devices = Devices { block, console, net, serial: serial.transpose()? };
    let bus = Arc::new(Bus::new(&vm, memory.clone(), devices)?);
    Ok(Parts {
        vm,
        memory,
        bus,
        ended: Arc::new(Ended::not_yet()?),
        port,
        msrs: kvm.msrs.clone(),
        fingerprint: kvm.fingerprint.clone(),
        files,
        filters: kvm.filters.clone(),
    })
}

/// The processors, fresh.
fn processors(vm: &VmFd, vcpus: Vcpus) -> Result<Vec<VcpuFd>, MonitorError> {
    let make = |id| vm.create_vcpu(id).map_err(|error| failed("make a processor of")(error.into()));
    (0..u64::from(vcpus.0)).map(make).collect()
}

impl KvmGuest {
    /// Boots a guest; it runs when this returns.
    pub fn boot(kvm: &Kvm, spec: &VmSpec) -> Result<Self, MonitorError> {
        check_shape(spec.vcpus, spec.memory)?;
        let (serial, console) = match kvm.console {
            Some(_) => (Serial::Present, CONSOLE),
            None => (Serial::Absent, NO_CONSOLE),
        };
        let devices = bus::DEVICES + u32::from(kvm.network.is_some());
        let announced = Announced { vcpus: spec.vcpus, devices, serial };
        let files = kvm.files(spec)?;
        let command_line = format!("{COMMAND_LINE} {console}");
        let (vm, (memory, entry)) = kvm.machine_beside(|| {
            let memory = match &files.memory {
                Some(file) => Memory::of_memfd(spec.memory, file)?,
                None => Memory::empty(spec.memory)?,
            };
            let entry = boot::load(memory.ram(), spec.memory, &files.images, &command_line, announced)?;
            Ok((memory, entry))
        })?;
        let parts = assemble(kvm, spec, files, vm, memory)?;
        let vcpus = processors(&parts.vm, spec.vcpus)?;
        for (id, vcpu) in (0..).zip(&vcpus) {
            let entries = cpuid::for_vcpu(&kvm.supported, id, spec.vcpus);
            state::prepare(vcpu, &entries, (id == 0).then_some(entry))?;
        }
        Self::run(spec, parts, vcpus)
    }

    /// Restores a guest from a template's snapshot; it runs when this returns.
    pub fn restore(kvm: &Kvm, spec: &VmSpec, files: &SnapshotFiles) -> Result<Self, MonitorError> {
        check_shape(spec.vcpus, spec.memory)?;
        if kvm.network.is_some() {
            let reason = "a snapshot has no network device; boot the guest instead".to_owned();
            return Err(MonitorError::Refused { command: "restore", reason });
        }
        let (vm, (loaded, template)) =
            kvm.machine_beside(|| Ok((kvm.loaded(spec, files)?, kvm.files(spec)?)))?;
        let Loaded { state, memory } = loaded;
        let parts = assemble(kvm, spec, template, vm, memory)?;
        let vcpus = processors(&parts.vm, spec.vcpus)?;
        let refused = |error| snapshot::refused(files, &error);
        let counter = Counter::of(&parts.vm);
        for (vcpu, saved) in vcpus.iter().zip(&state.processors) {
            saved.load(vcpu, counter).map_err(refused)?;
        }
        state.machine.load(&parts.vm).map_err(refused)?;
        let foreign = |fault: Fault| snapshot::unusable(files, snapshot::STATE, &fault.to_string());
        parts.bus.load(&state.devices).map_err(foreign)?;
        Self::run(spec, parts, vcpus)
    }

    fn run(spec: &VmSpec, parts: Parts, vcpus: Vec<VcpuFd>) -> Result<Self, MonitorError> {
        let Parts { vm, memory, bus, ended, port, msrs, fingerprint, files, filters } = parts;
        let mut running = Running {
            vm,
            memory,
            bus,
            vcpus: Vec::new(),
            devices: None,
            msrs,
            fingerprint,
            files,
            paused: None,
        };
        running.devices = Some(bus::start(&running.bus, &ended, filters.as_ref())?);
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            running.vcpus.push(vcpu::start(index, vcpu, &running.bus, &ended, filters.as_ref())?);
        }
        running.go_on();
        let used = Stats::default();
        Ok(Self { running: Some(running), ended, port: Some(port), spec: spec.clone(), used })
    }

    fn running(&mut self, command: &'static str) -> Result<&mut Running, MonitorError> {
        let gone = || MonitorError::Refused { command, reason: "the guest has ended".to_owned() };
        self.running.as_mut().ok_or_else(gone)
    }
}

impl Running {
    fn go_on(&self) {
        self.bus.go_on();
        self.vcpus.iter().for_each(Vcpu::resume);
    }

    /// All processors at once, then the devices.
    fn stand_still(&self) -> Result<(), MonitorError> {
        let pausing: Vec<_> = self.vcpus.iter().map(Vcpu::begin_pause).collect();
        pausing.into_iter().try_for_each(vcpu::Pausing::wait)?;
        self.bus.stand_still();
        Ok(())
    }

    fn pause(&mut self) -> Result<(), MonitorError> {
        if self.paused.is_some() {
            return Ok(());
        }
        match self.stand_still().and_then(|()| Moment::of(&self.vm, &self.vcpus)) {
            Ok(moment) => self.paused = Some(moment),
            Err(error) => {
                // Some of its processors may stand still, and nobody resumes a guest that was not paused.
                self.go_on();
                return Err(error);
            }
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MonitorError> {
        if let Some(moment) = self.paused.take() {
            moment.restore(&self.vm, &self.vcpus)?;
        }
        self.go_on();
        Ok(())
    }

    fn usage(&self) -> Stats {
        let threads = self.vcpus.iter().filter_map(Vcpu::counted);
        let threads = threads.chain(self.devices.as_ref().map(usage::Counted::new));
        let counts = self.bus.network_counts();
        Stats {
            tx: Bytes(counts.sent),
            rx: Bytes(counts.received),
            ..usage::now(threads, self.files.statm.as_ref())
        }
    }

    fn state(&self, spec: &VmSpec) -> Result<State, MonitorError> {
        let refused = |reason: &str| MonitorError::Refused { command: "snapshot", reason: reason.to_owned() };
        let devices = self.bus.save().map_err(refused)?;
        let save = |vcpu: &Vcpu| {
            let msrs = self.msrs.clone();
            vcpu.ask(move |vcpu| VcpuState::save(vcpu, &msrs))
        };
        Ok(State {
            id: snapshot::new_id(),
            vcpus: spec.vcpus,
            memory: spec.memory,
            template: spec.template.clone(),
            fingerprint: self.fingerprint.to_vec(),
            processors: self.vcpus.iter().map(save).collect::<Result<_, MonitorError>>()?,
            machine: MachineState::save(&self.vm)?,
            devices,
        })
    }
}

/// A start that fails half way ends here too.
impl Drop for Running {
    fn drop(&mut self) {
        self.vcpus.iter().for_each(Vcpu::begin_end);
        self.vcpus.iter_mut().for_each(Vcpu::join);
        self.bus.close();
        if let Some(devices) = self.devices.take() {
            let _ = devices.join();
        }
    }
}

impl Guest for KvmGuest {
    fn take_port(&mut self) -> Option<UnixStream> {
        self.port.take()
    }

    fn ended(&self) -> Result<OwnedFd, MonitorError> {
        self.ended.event().try_clone_to_owned().map_err(failed("watch"))
    }

    fn why_ended(&self) -> Option<String> {
        self.ended.reason().map(End::to_string)
    }

    fn end_reason(&self) -> EndReason {
        match self.ended.reason() {
            Some(End::Fault(_)) => EndReason::RuleBroken,
            Some(End::Kvm(_)) => EndReason::MonitorFailed,
            Some(End::TapVanished(_)) => EndReason::NetworkLost,
            Some(End::Stopped | End::Killed) | None => EndReason::GuestExited,
        }
    }

    fn process_id(&self) -> Option<u32> {
        None
    }

    fn pause(&mut self) -> Result<(), MonitorError> {
        self.running("pause")?.pause()
    }

    fn resume(&mut self) -> Result<(), MonitorError> {
        self.running("resume")?.resume()
    }

    fn snapshot(&mut self, files: SnapshotFiles) -> Result<(), MonitorError> {
        if self.spec.purpose != Purpose::Snapshot {
            let reason = "it was not started for a snapshot".to_owned();
            return Err(MonitorError::Refused { command: "snapshot", reason });
        }
        let spec = self.spec.clone();
        let running = self.running("snapshot")?;
        running.pause()?;
        let state = running.state(&spec)?;
        snapshot::write(&state, &running.memory, running.files.page_map.as_ref(), &files)
    }

    fn stats(&mut self) -> Result<Stats, MonitorError> {
        Ok(self.running.as_ref().map_or(self.used, Running::usage))
    }

    fn kill(&mut self) -> Result<Stats, MonitorError> {
        if let Some(running) = self.running.take() {
            // Counted while its threads are there and do nothing more.
            let _ = running.stand_still();
            self.used = Stats { resident: Bytes(0), ..running.usage() };
            drop(running);
            self.ended.note(End::Killed);
        }
        Ok(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_outside_of_the_limits_are_refused_with_the_limits() {
        for (vcpus, memory) in [(1, 128), (8, 32 * 1024)] {
            assert!(check_shape(Vcpus(vcpus), MemoryMib(memory)).is_ok());
        }
        for (vcpus, memory) in [(0, 128), (9, 128), (1, 127), (1, 32 * 1024 + 1)] {
            let said = check_shape(Vcpus(vcpus), MemoryMib(memory)).expect_err("it is refused").to_string();
            let expected =
                format!("{vcpus} vCPUs and {memory} MiB is not possible: ask for 1 to 8 vCPUs and 128 to");
            assert!(said.contains(&expected), "{said}");
        }
    }
}
