//! The devices of one guest, by address and by port. What does not come from the host's side is done by the vCPU that asks for it, the
//! rest by a [`thread`].

mod thread;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_ioctls::VmFd;
use omnirun_vmm_api::MonitorError;
use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    failed, layout,
    memory::Memory,
    serial::SerialPort,
    tap::Tap,
    virtio::{
        Fault, Progress,
        block::Block,
        console::Console,
        entropy::Entropy,
        mmio::{Mmio, Saved},
        net::{Counts, Net},
    },
};

pub use self::thread::start;

/// virtio devices that every guest has, in the order of their windows and interrupts: root, agent port, entropy. A
/// network device comes after them.
pub const DEVICES: u32 = 3;
const BLOCK: u64 = 0;
const CONSOLE: u64 = 1;
const ENTROPY: u64 = 2;
const NET: u64 = 3;

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
    net: Option<Mutex<Mmio<Net<Arc<Tap>>>>>,
    interrupts: Vec<EventFd>,
    serial: Option<Mutex<SerialPort>>,
    mode: Mutex<Mode>,
    wake: OwnedFd,
}

/// What the devices of a guest are made of.
pub struct Devices {
    /// Its root.
    pub block: Block,
    /// Its agent port.
    pub console: Console,
    /// Its network, if it has one.
    pub net: Option<Net<Arc<Tap>>>,
    /// Its serial port, if it has one.
    pub serial: Option<SerialPort>,
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
    pub fn new(vm: &VmFd, memory: Memory, devices: Devices) -> Result<Self, MonitorError> {
        let Devices { block, console, net, serial } = devices;
        let event = |_| EventFd::new(EFD_NONBLOCK).map_err(failed("make interrupts"));
        let count = DEVICES + u32::from(net.is_some());
        let interrupts = (0..count).map(event).collect::<Result<Vec<_>, _>>()?;
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
            net: net.map(|net| Mutex::new(Mmio::new(net))),
            interrupts,
            serial: serial.map(Mutex::new),
            mode: Mutex::new(Mode::Paused),
            wake: wake.map_err(|errno| failed("wake the devices")(errno.into()))?,
        })
    }

    /// A vCPU reads memory that is not there.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some((device, offset)) = window(address) else { return data.fill(0) };
        match (device, &self.net) {
            (BLOCK, _) => locked(&self.block).read(offset, data),
            (CONSOLE, _) => locked(&self.console).read(offset, data),
            (ENTROPY, _) => locked(&self.entropy).read(offset, data),
            (NET, Some(net)) => locked(net).read(offset, data),
            _ => data.fill(0),
        }
    }

    /// A vCPU writes memory that is not there.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let Some((device, offset)) = window(address) else { return Ok(()) };
        let ram = self.memory.ram();
        let progress = match (device, &self.net) {
            (BLOCK, _) => locked(&self.block).write(offset, data, ram)?,
            (CONSOLE, _) => {
                let mut console = locked(&self.console);
                let before = console.device().interest();
                let progress = console.write(offset, data, ram)?;
                if console.device().interest() != before {
                    self.wake();
                }
                progress
            }
            (ENTROPY, _) => locked(&self.entropy).write(offset, data, ram)?,
            (NET, Some(net)) => {
                let mut net = locked(net);
                let before = (net.device().has_room(), net.device().has_vanished());
                let progress = net.write(offset, data, ram)?;
                if (net.device().has_room(), net.device().has_vanished()) != before {
                    self.wake();
                }
                progress
            }
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
        // Under the locks of what the thread touches, so that it is not in the middle of something when this returns.
        let _console = locked(&self.console);
        let _net = self.net.as_ref().map(locked);
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

    /// All that went through the guest's network device.
    pub fn network_counts(&self) -> Counts {
        self.net.as_ref().map(|net| locked(net).device().counts()).unwrap_or_default()
    }

    /// All devices, while nothing touches them.
    pub fn save(&self) -> Result<SavedDevices, &'static str> {
        if self.serial.is_some() {
            return Err("a guest with a serial port is for looking at, not for snapshots");
        }
        if let Some(net) = &self.net {
            locked(net).save()?;
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
    Some((from / layout::PAGE, from % layout::PAGE)).filter(|(device, _)| *device <= NET)
}

fn serial_register(port: u16) -> Option<u8> {
    let register =
        port.checked_sub(layout::SERIAL_PORT).filter(|register| *register < layout::SERIAL_PORTS)?;
    u8::try_from(register).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_of_the_windows_belong_to_no_device() {
        assert_eq!(window(layout::DEVICES), Some((0, 0)));
        assert_eq!(window(layout::DEVICES + 0x3fff), Some((3, 0xfff)));
        for outside in [0, layout::DEVICES - 1, layout::DEVICES + 0x4000, u64::MAX] {
            assert_eq!(window(outside), None);
        }
        assert_eq!((serial_register(0x3f8), serial_register(0x3ff)), (Some(0), Some(7)));
        assert_eq!((serial_register(0x3f7), serial_register(0x400)), (None, None));
    }
}
