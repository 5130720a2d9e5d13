//! The devices of one guest, by address and by port, and the thread that moves bytes of the agent port when the host's
//! side changes. Everything else is done by the vCPU that asks for it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_ioctls::VmFd;
use omnirun_vmm_api::MonitorError;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    ended::{End, Ended},
    failed,
    jail::filter::ThreadFilters,
    layout,
    memory::Memory,
    serial::SerialPort,
    vcpu::STACK_BYTES,
    virtio::{
        Fault, Progress,
        block::Block,
        console::Console,
        entropy::Entropy,
        mmio::{Mmio, Saved},
    },
};

/// virtio devices, in the order of their windows and interrupts: root, agent port, entropy.
pub const DEVICES: u32 = 3;
const BLOCK: u64 = 0;
const CONSOLE: u64 = 1;
const ENTROPY: u64 = 2;

/// Whether the thread may touch the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Paused,
    Closing,
}

/// The devices.
pub struct Bus {
    memory: Memory,
    block: Mutex<Mmio<Block>>,
    console: Mutex<Mmio<Console>>,
    entropy: Mutex<Mmio<Entropy>>,
    interrupts: [EventFd; DEVICES as usize],
    serial: Option<Mutex<SerialPort>>,
    mode: Mutex<Mode>,
    wake: OwnedFd,
}

/// What a port write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing more.
    Nothing,
    /// The end of the machine.
    Reset,
}

/// The devices in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SavedDevices([Saved; DEVICES as usize]);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// Connects the devices with a machine's interrupt controller. The thread stands still until [`Bus::go_on`].
    pub fn new(
        vm: &VmFd,
        memory: Memory,
        block: Block,
        console: Console,
        serial: Option<SerialPort>,
    ) -> Result<Self, MonitorError> {
        let event = || EventFd::new(EFD_NONBLOCK).map_err(failed("make interrupts"));
        let interrupts = [event()?, event()?, event()?];
        for (event, number) in interrupts.iter().zip(layout::FIRST_INTERRUPT..) {
            vm.register_irqfd(event, number).map_err(|error| failed("connect interrupts")(error.into()))?;
        }
        if let Some(serial) = &serial {
            vm.register_irqfd(serial.interrupt(), layout::SERIAL_INTERRUPT)
                .map_err(|error| failed("connect interrupts")(error.into()))?;
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            memory,
            block: Mutex::new(Mmio::new(block)),
            console: Mutex::new(Mmio::new(console)),
            entropy: Mutex::new(Mmio::new(Entropy::default())),
            interrupts,
            serial: serial.map(Mutex::new),
            mode: Mutex::new(Mode::Paused),
            wake: wake.map_err(|errno| failed("wake the devices")(errno.into()))?,
        })
    }

    /// A vCPU reads memory that is not there.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some((device, offset)) = window(address) else { return data.fill(0) };
        match device {
            BLOCK => locked(&self.block).read(offset, data),
            CONSOLE => locked(&self.console).read(offset, data),
            ENTROPY => locked(&self.entropy).read(offset, data),
            _ => data.fill(0),
        }
    }

    /// A vCPU writes memory that is not there.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let Some((device, offset)) = window(address) else { return Ok(()) };
        let ram = self.memory.ram();
        let progress = match device {
            BLOCK => locked(&self.block).write(offset, data, ram)?,
            CONSOLE => {
                let mut console = locked(&self.console);
                let before = console.device().interest();
                let progress = console.write(offset, data, ram)?;
                if console.device().interest() != before {
                    self.wake();
                }
                progress
            }
            ENTROPY => locked(&self.entropy).write(offset, data, ram)?,
            _ => Progress::Nothing,
        };
        self.interrupt(device, progress);
        Ok(())
    }

    /// A vCPU reads a port. What is not there reads as zeros: ones would look like a busy clock.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0);
        if let (Some(serial), Some(register)) = (&self.serial, serial_register(port)) {
            let mut serial = locked(serial);
            data.iter_mut().for_each(|byte| *byte = serial.read(register));
        }
    }

    /// A vCPU writes a port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Asked {
        /// The keyboard controller's command that pulls the processor's reset line.
        const RESET: u8 = 0xfe;
        if port == layout::KEYBOARD_COMMAND && data.first() == Some(&RESET) {
            return Asked::Reset;
        }
        if let (Some(serial), Some(register)) = (&self.serial, serial_register(port)) {
            let mut serial = locked(serial);
            data.iter().for_each(|byte| serial.write(register, *byte));
        }
        Asked::Nothing
    }

    fn interrupt(&self, device: u64, progress: Progress) {
        if let (Progress::Used, Some(event)) = (progress, self.interrupts.get(device as usize)) {
            // It fails only when 2^64 - 2 are pending, which is as good as one.
            let _ = event.write(1);
        }
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn set_mode(&self, mode: Mode) {
        // Under the console's lock, so that the thread is not in the middle of something when this returns.
        let _console = locked(&self.console);
        *locked(&self.mode) = mode;
        self.wake();
    }

    /// Lets the thread move bytes.
    pub fn go_on(&self) {
        self.set_mode(Mode::Running);
    }

    /// Nothing but a vCPU touches the guest when this returns.
    pub fn stand_still(&self) {
        self.set_mode(Mode::Paused);
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.set_mode(Mode::Closing);
    }

    /// What the thread does, to its end.
    pub fn watch(&self, ended: &Ended) {
        loop {
            let mode = *locked(&self.mode);
            let watched = match mode {
                Mode::Closing => return,
                Mode::Paused => None,
                Mode::Running => locked(&self.console).device().watch(),
            };
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(ended.event(), PollFlags::IN),
            ];
            if let Some((host, interest)) = &watched {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.input);
                flags.set(PollFlags::OUT, interest.output);
                fds.push(PollFd::from_borrowed_fd(host.as_fd(), flags));
            }
            // A signal interrupts it; then it is looked at again.
            let _ = poll(&mut fds, None);
            if fds[0].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            if fds[1].revents().contains(PollFlags::IN) {
                // Whoever waits for the guest at the other end of its port need not wait any longer.
                locked(&self.console).device_mut().close();
                return;
            }
            let happened = fds.get(2).map_or(PollFlags::empty(), PollFd::revents);
            if !happened.is_empty()
                && let Err(fault) = self.host_changed(happened)
            {
                ended.note(End::Fault(fault));
            }
        }
    }

    fn host_changed(&self, happened: PollFlags) -> Result<(), Fault> {
        let mut console = locked(&self.console);
        if *locked(&self.mode) != Mode::Running {
            return Ok(());
        }
        let has_gone = happened.intersects(PollFlags::HUP | PollFlags::ERR);
        let progress = console.serve(self.memory.ram(), |console, queues, ram| {
            if has_gone { console.hang_up(queues, ram) } else { console.pump(queues, ram) }
        })?;
        self.interrupt(CONSOLE, progress);
        Ok(())
    }

    /// All devices, while nothing touches them.
    pub fn save(&self) -> Result<SavedDevices, &'static str> {
        if self.serial.is_some() {
            return Err("a guest with a serial port is for looking at, not for snapshots");
        }
        Ok(SavedDevices([
            locked(&self.block).save()?,
            locked(&self.console).save()?,
            locked(&self.entropy).save()?,
        ]))
    }

    /// Becomes what was saved.
    pub fn load(&self, saved: &SavedDevices) -> Result<(), Fault> {
        let SavedDevices([block, console, entropy]) = saved;
        let ram = self.memory.ram();
        let fault = |device| move |what| Fault { device, what };
        locked(&self.block).load(block, ram).map_err(fault("block"))?;
        locked(&self.entropy).load(entropy, ram).map_err(fault("entropy"))?;
        let mut device = locked(&self.console);
        device.load(console, ram).map_err(fault("console"))?;
        // The host is there again: the guest is told as soon as it runs.
        device.serve(ram, |console, queues, ram| console.pump(queues, ram))?;
        // KVM raises interrupts by and by, so one may have been on its way when the snapshot was taken. One too many does
        // no harm.
        let pending =
            [locked(&self.block).is_pending(), device.is_pending(), locked(&self.entropy).is_pending()];
        for (device, _) in (0..).zip(pending).filter(|(_, is_pending)| *is_pending) {
            self.interrupt(device, Progress::Used);
        }
        Ok(())
    }
}

/// Which device's window an address is in, and where in it.
fn window(address: u64) -> Option<(u64, u64)> {
    let from = address.checked_sub(layout::DEVICES)?;
    Some((from / layout::PAGE, from % layout::PAGE)).filter(|(device, _)| *device < DEVICES.into())
}

fn serial_register(port: u16) -> Option<u8> {
    let register =
        port.checked_sub(layout::SERIAL_PORT).filter(|register| *register < layout::SERIAL_PORTS)?;
    u8::try_from(register).ok()
}

/// Starts the thread.
pub fn start(
    bus: &Arc<Bus>,
    ended: &Arc<Ended>,
    filters: Option<&Arc<ThreadFilters>>,
) -> Result<std::thread::JoinHandle<()>, MonitorError> {
    let (bus, ended, filters) = (bus.clone(), ended.clone(), filters.cloned());
    std::thread::Builder::new()
        .name("devices".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || match filters.map_or(Ok(()), |filters| filters.devices.apply()) {
            Ok(()) => bus.watch(&ended),
            Err(error) => ended.note(End::Kvm(error.to_string())),
        })
        .map_err(failed("start a thread"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_of_the_windows_belong_to_no_device() {
        assert_eq!(window(layout::DEVICES), Some((0, 0)));
        assert_eq!(window(layout::DEVICES + 0x2fff), Some((2, 0xfff)));
        for outside in [0, layout::DEVICES - 1, layout::DEVICES + 0x3000, u64::MAX] {
            assert_eq!(window(outside), None);
        }
        assert_eq!((serial_register(0x3f8), serial_register(0x3ff)), (Some(0), Some(7)));
        assert_eq!((serial_register(0x3f7), serial_register(0x400)), (None, None));
    }
}
