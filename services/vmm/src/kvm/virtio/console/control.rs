//! Messages about the port (VIRTIO 1.2, section 5.3.6.2): the guest asks what ports there are, is told the port's name
//! and whether the host is there, and says whether a program has the port open.

use std::collections::VecDeque;

use virtio_queue::{Queue, QueueT};

use super::super::{
    Progress,
    queue::{give, take},
};
use crate::kvm::memory::Ram;

/// Events, by their numbers in VIRTIO 1.2, section 5.3.6.2.
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// The name under which the agent finds its port.
const NAME: &[u8] = b"org.omnirun.agent";
/// The only port.
const PORT: u32 = 0;
/// Port, event, value.
const MESSAGE_BYTES: usize = 8;
/// Longest message that is read; a guest has no reason for more than a header.
const MESSAGE_BYTES_MAX: u64 = 512;
/// Messages that may wait for the guest. It causes four at most before it makes room for them.
const WAITING_MAX: usize = 16;

/// What is known of the port, and what the guest is still to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Control {
    waiting: VecDeque<Vec<u8>>,
    is_ready: bool,
    is_open: bool,
}

fn message(event: u16, value: u16, text: &[u8]) -> Vec<u8> {
    [&PORT.to_le_bytes(), &event.to_le_bytes()[..], &value.to_le_bytes(), text].concat()
}

impl Control {
    /// Whether a program of the guest has the port open.
    pub fn guest_listens(&self) -> bool {
        self.is_open
    }

    /// The host has closed its end.
    pub fn host_went(&mut self) {
        if self.is_ready {
            self.waiting.push_back(message(PORT_OPEN, 0, b""));
        }
    }

    /// Reads what the guest says.
    pub fn receive(
        &mut self,
        queue: &mut Queue,
        ram: &Ram,
        host_is_there: bool,
    ) -> Result<Progress, &'static str> {
        let mut progress = Progress::Nothing;
        while let Some(chain) = take(queue, ram)? {
            let bytes = chain.read(ram, MESSAGE_BYTES_MAX)?;
            give(queue, ram, &chain, 0)?;
            self.hear(&bytes, host_is_there)?;
            progress = Progress::Used;
        }
        Ok(progress)
    }

    fn hear(&mut self, bytes: &[u8], host_is_there: bool) -> Result<(), &'static str> {
        let Some(&[p0, p1, p2, p3, e0, e1, v0, v1]) = bytes.first_chunk::<MESSAGE_BYTES>() else {
            return Err("a control message that is too short");
        };
        let (port, event) = (u32::from_le_bytes([p0, p1, p2, p3]), u16::from_le_bytes([e0, e1]));
        let says_yes = u16::from_le_bytes([v0, v1]) != 0;
        if event == DEVICE_READY {
            if says_yes {
                self.waiting.push_back(message(PORT_ADD, 1, b""));
            }
        } else if port != PORT {
            return Err("a message about a port that does not exist");
        } else if event == PORT_READY && says_yes {
            self.is_ready = true;
            self.waiting.push_back(message(PORT_NAME, 1, NAME));
            if host_is_there {
                self.waiting.push_back(message(PORT_OPEN, 1, b""));
            }
        } else if event == PORT_OPEN {
            self.is_open = says_yes;
        }
        if self.waiting.len() > WAITING_MAX {
            return Err("questions whose answers it does not take");
        }
        Ok(())
    }

    /// Tells the guest what waits for it, as far as it has room.
    pub fn send(&mut self, queue: &mut Queue, ram: &Ram) -> Result<Progress, &'static str> {
        let mut progress = Progress::Nothing;
        while queue.ready() && !self.waiting.is_empty() {
            let Some(chain) = take(queue, ram)? else { break };
            let Some(message) = self.waiting.pop_front() else { break };
            if chain.writable_length() < message.len() as u64 {
                return Err("a buffer too small for a control message");
            }
            let written = chain.write(ram, &message)?;
            give(queue, ram, &chain, written)?;
            progress = Progress::Used;
        }
        Ok(progress)
    }

    /// Two bytes, each 0 or 1: whether the guest knows the port, and whether it has it open.
    pub fn save(&self) -> Result<Vec<u8>, &'static str> {
        if !self.waiting.is_empty() {
            return Err("the guest has not heard yet that the host has gone");
        }
        Ok(vec![self.is_ready.into(), self.is_open.into()])
    }

    /// What was saved, for a host that is there.
    pub fn load(saved: &[u8]) -> Result<Self, &'static str> {
        let &[ready @ (0 | 1), open @ (0 | 1)] = saved else {
            return Err("a port is known or not, open or not");
        };
        let mut control = Self { is_ready: ready == 1, is_open: open == 1, ..Self::default() };
        if control.is_ready {
            control.waiting.push_back(message(PORT_OPEN, 1, b""));
        }
        Ok(control)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(port: u32, event: u16, value: u16) -> Vec<u8> {
        let mut bytes = message(event, value, b"");
        bytes[..4].copy_from_slice(&port.to_le_bytes());
        bytes
    }

    #[test]
    fn a_guest_that_starts_is_told_of_the_port_its_name_and_its_host() {
        let mut control = Control::default();
        control.hear(&said(0, DEVICE_READY, 1), true).expect("the first message");
        control.hear(&said(0, PORT_READY, 1), true).expect("the second message");
        let named = [&[0, 0, 0, 0, 7, 0, 1, 0], NAME].concat();
        assert_eq!(control.waiting, [vec![0, 0, 0, 0, 1, 0, 1, 0], named, vec![0, 0, 0, 0, 6, 0, 1, 0]]);
        assert!(!control.guest_listens());
        control.hear(&said(0, PORT_OPEN, 1), true).expect("a program opens it");
        assert!(control.guest_listens());
    }

    #[test]
    fn a_restored_guest_hears_that_the_host_is_back() {
        let control = Control { is_ready: true, is_open: true, ..Control::default() };
        let restored = Control::load(&control.save().expect("nothing waits")).expect("it was saved");
        assert_eq!(restored.waiting, [vec![0, 0, 0, 0, 6, 0, 1, 0]]);
        assert!(restored.guest_listens());
        assert!(Control::load(&[1, 2]).is_err() && Control::load(&[1]).is_err());
    }

    #[test]
    fn nonsense_and_floods_are_faults() {
        let mut control = Control::default();
        assert!(control.hear(&[0; 7], true).is_err());
        assert!(control.hear(&said(1, PORT_READY, 1), true).is_err());
        let asked = (0..=WAITING_MAX).map(|_| control.hear(&said(0, DEVICE_READY, 1), true));
        assert!(asked.collect::<Result<Vec<_>, _>>().is_err());
    }

    proptest! {
        #[test]
        fn no_messages_make_it_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..40)) {
            let mut control = Control::default();
            for bytes in messages {
                let _ = control.hear(&bytes, true);
            }
        }
    }
}
