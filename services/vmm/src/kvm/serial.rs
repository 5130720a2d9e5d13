//! A serial port for looking at a guest that does not come up. Off by default: what a guest prints goes nowhere. Where it
//! is on, it writes a bounded amount and drops the rest.

use std::{
    fs::File,
    io::{self, Write},
};

use omnirun_vmm_api::{Bytes, MonitorError};
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::failed;

/// Where what the guest prints goes, and how much of it.
#[derive(Debug)]
pub struct Sink {
    /// The place.
    pub file: File,
    /// How much is still taken.
    pub left: Bytes,
}

impl Write for Sink {
    /// Takes everything, and keeps what fits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = usize::try_from(self.left.0).unwrap_or(usize::MAX).min(bytes.len());
        // A place that takes nothing more must not stop the guest.
        let _ = self.file.write_all(&bytes[..fits]);
        self.left.0 -= fits as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port: a 16550A.
pub struct SerialPort(Serial<Interrupt, NoEvents, Sink>);

impl SerialPort {
    /// A port that prints there.
    pub fn new(sink: Sink) -> Result<Self, MonitorError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(failed("make interrupts"))?;
        Ok(Self(Serial::new(Interrupt(event), sink)))
    }

    /// Its interrupt.
    pub fn interrupt(&self) -> &EventFd {
        &self.0.interrupt_evt().0
    }

    /// A register is read.
    pub fn read(&mut self, register: u8) -> u8 {
        self.0.read(register)
    }

    /// A register is written. What cannot be done is not done, as on a port that nobody has plugged in.
    pub fn write(&mut self, register: u8, value: u8) {
        let _ = self.0.write(register, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_talkative_guest_is_cut_off_and_goes_on() {
        let mut file = tempfile::tempfile().expect("a file for the test");
        let sink = Sink { file: file.try_clone().expect("it is open"), left: Bytes(3) };
        let mut port = SerialPort::new(sink).expect("an event");
        b"hello".iter().for_each(|byte| port.write(0, *byte));
        assert_eq!(port.read(5) & 0x20, 0x20, "it would take more");
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("it is text");
        assert_eq!(text, "hel");
    }
}
