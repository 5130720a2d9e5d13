//! The console device (VIRTIO 1.2, section 5.3) with one port and no console: the agent's port, `org.omnirun.agent`.
//!
//! The port's other end is a socket. Bytes wait in it until the guest reads them, and in the guest until the host reads
//! them. A host that closes its end ends the session: what neither side has received is dropped. [`control`] has the
//! messages about the port.

pub mod control;

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
};

use virtio_queue::Queue;

use super::{
    Device, Progress,
    queue::{self, give, take},
};
use crate::{PLANTED_BUG, kvm::memory::Ram};
use control::Control;

/// VIRTIO 1.2, section 5.3.3: ports are announced by control messages.
const MULTIPORT: u64 = 1 << 1;
/// Queues of a device with one port: to and from port 0, then control messages to and from the guest.
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const CONTROL_TO_GUEST: usize = 2;
const CONTROL_FROM_GUEST: usize = 3;

/// The longest message that a guest may send in one chain. Linux sends at most 32 KiB.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// The most that is put into one chain of the guest.
const INPUT_BYTES_MAX: u64 = 64 << 10;

/// The device.
pub struct Console {
    /// This end of the socket; `None` when the host has gone.
    host: Option<Arc<UnixStream>>,
    control: Control,
    /// A message of the guest that the socket has not taken whole, and how much of it is done.
    unsent: Option<(Vec<u8>, usize)>,
    /// The guest has offered nothing to put more input into.
    is_full: bool,
    config: [u8; 12],
}

/// What the socket should be watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// The guest would take bytes.
    pub input: bool,
    /// Bytes of the guest wait.
    pub output: bool,
}

impl Console {
    /// A console whose port leads to this end of a socket.
    pub fn new(host: UnixStream) -> std::io::Result<Self> {
        host.set_nonblocking(true)?;
        // struct virtio_console_config: max_nr_ports at 4.
        let mut config = [0; 12];
        config[4] = 1;
        let control = Control::default();
        Ok(Self { host: Some(Arc::new(host)), control, unsent: None, is_full: false, config })
    }

    /// The socket and what to watch it for; its end is always of interest. `None` when the host has gone.
    pub fn watch(&self) -> Option<(Arc<UnixStream>, Interest)> {
        Some((self.host.clone()?, self.interest()))
    }

    /// What the socket should be watched for while the host is there.
    pub fn interest(&self) -> Interest {
        let input = self.control.guest_listens() && !self.is_full;
        Interest { input, output: self.unsent.is_some() }
    }

    /// Moves whatever can be moved, after the socket has become ready.
    pub fn pump(&mut self, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        let output = self.pump_output(queues, ram)?;
        let input = self.pump_input(queues, ram)?;
        Ok(output.or(input).or(self.control.send(&mut queues[CONTROL_TO_GUEST], ram)?))
    }

    /// The guest has gone: closes this end of the socket.
    pub fn close(&mut self) {
        self.host = None;
        self.unsent = None;
    }

    /// The host has gone: drops what it has not received, and tells the guest.
    pub fn hang_up(&mut self, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        self.drop_host();
        self.pump(queues, ram)
    }

    fn drop_host(&mut self) {
        if self.host.take().is_some() {
            self.unsent = None;
            self.control.host_went();
        }
    }

    /// From the guest: message after message, each given back as soon as it is copied, so that at most one waits.
    fn pump_output(&mut self, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        let mut progress = Progress::Nothing;
        loop {
            if !self.send_unsent() || !queues[FROM_GUEST].ready_now() {
                return Ok(progress);
            }
            let queue = &mut queues[FROM_GUEST];
            let Some(chain) = take(queue, ram)? else { return Ok(progress) };
            // Planted: a message of any length.
            let most = if PLANTED_BUG { u64::MAX } else { MESSAGE_BYTES_MAX };
            let bytes = chain.read(ram, most)?;
            give(queue, ram, &chain, 0)?;
            progress = Progress::Used;
            if self.host.is_some() {
                self.unsent = Some((bytes, 0));
            }
        }
    }

    /// Whether nothing waits any more.
    fn send_unsent(&mut self) -> bool {
        while let Some((bytes, done)) = &mut self.unsent {
            let Some(host) = &self.host else { break };
            match (&**host).write(&bytes[*done..]) {
                Ok(written) => *done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.drop_host();
                    break;
                }
            }
            if *done == bytes.len() {
                break;
            }
        }
        self.unsent = None;
        true
    }

    /// To the guest, while it listens and has room.
    fn pump_input(&mut self, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        let mut progress = Progress::Nothing;
        let queue = &mut queues[TO_GUEST];
        // A queue that was taken away has no room: its next notification says when there is some again.
        self.is_full |= !queue.ready_now();
        while self.control.guest_listens() && queue.ready_now() {
            let Some(host) = self.host.clone() else { break };
            let chain = take(queue, ram)?;
            self.is_full = chain.is_none();
            let Some(chain) = chain else { break };
            let room = usize::try_from(chain.writable_length().min(INPUT_BYTES_MAX)).unwrap_or(0);
            if room == 0 {
                return Err("a buffer that is not to be written");
            }
            let mut bytes = vec![0; room];
            match (&*host).read(&mut bytes) {
                Ok(0) => {
                    queue::put_back(queue);
                    self.drop_host();
                }
                Ok(read) => {
                    let written = chain.write(ram, &bytes[..read])?;
                    give(queue, ram, &chain, written)?;
                    progress = Progress::Used;
                }
                Err(error) => {
                    queue::put_back(queue);
                    match error.kind() {
                        ErrorKind::Interrupted => {}
                        ErrorKind::WouldBlock => break,
                        _ => self.drop_host(),
                    }
                }
            }
        }
        Ok(progress)
    }
}

/// A queue that the guest has not made ready yet has nothing to say.
trait ReadyNow {
    fn ready_now(&self) -> bool;
}

impl ReadyNow for Queue {
    fn ready_now(&self) -> bool {
        virtio_queue::QueueT::ready(self)
    }
}

impl Device for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn id(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 64, 16, 16]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, queue: usize, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        let received = match queue {
            CONTROL_FROM_GUEST => {
                self.control.receive(&mut queues[CONTROL_FROM_GUEST], ram, self.host.is_some())?
            }
            _ => Progress::Nothing,
        };
        Ok(received.or(self.pump(queues, ram)?))
    }

    fn reset(&mut self) {
        self.control = Control::default();
        self.unsent = None;
        self.is_full = false;
    }

    fn save(&self) -> Result<Vec<u8>, &'static str> {
        if self.host.is_some() {
            return Err("the host still has the agent port open");
        }
        self.control.save()
    }

    /// A restored guest finds the host connected again, and is told so.
    fn load(&mut self, saved: &[u8]) -> Result<(), &'static str> {
        self.control = Control::load(saved)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use virtio_queue::{Queue, QueueT};
    use vm_memory::{Bytes, GuestAddress};

    use super::{super::queue::tests, *};

    /// A console whose guest listens, the host's end, and queues with these descriptors in the first two.
    fn open(
        input: &[(u64, u32, u16, u16)],
        output: &[(u64, u32, u16, u16)],
    ) -> (Console, UnixStream, [Ram; 2], Vec<Queue>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut console = Console::new(ours).expect("a socket can be made not to block");
        console.control = Control::load(&[1, 1]).expect("open on both sides");
        let rams = [tests::ram(), tests::ram()];
        let mut queues = vec![tests::queue_of(&rams[0], input), tests::queue_of(&rams[1], output)];
        queues.extend([Queue::new(16).expect("a size"), Queue::new(16).expect("a size")]);
        (console, theirs, rams, queues)
    }

    #[test]
    fn bytes_of_the_host_wait_for_a_buffer_and_fill_it() {
        let (mut console, mut theirs, [ram, _], mut queues) = open(&[(0x8000, 4, 2, 0)], &[]);
        queues[FROM_GUEST].set_ready(false);
        theirs.write_all(b"abcdef").expect("it is open");
        assert_eq!(console.pump(&mut queues, &ram), Ok(Progress::Used));
        assert_eq!(ram.read_obj::<[u8; 6]>(GuestAddress(0x8000)).expect("it is memory"), *b"abcd\0\0");
        let (_, interest) = console.watch().expect("the host is there");
        assert_eq!(interest, Interest { input: false, output: false }, "there is no buffer for the rest");
    }

    #[test]
    fn bytes_of_the_guest_reach_the_host_in_order() {
        let (mut console, mut theirs, [_, ram], mut queues) =
            open(&[], &[(0x8000, 2, 1, 1), (0x9000, 3, 0, 0)]);
        queues[TO_GUEST].set_ready(false);
        ram.write_slice(b"he", GuestAddress(0x8000)).expect("it is memory");
        ram.write_slice(b"llo", GuestAddress(0x9000)).expect("it is memory");
        assert_eq!(console.pump(&mut queues, &ram), Ok(Progress::Used));
        let mut said = [0; 5];
        theirs.read_exact(&mut said).expect("it was sent");
        assert_eq!(&said, b"hello");
    }

    #[test]
    fn a_host_that_goes_takes_the_undelivered_bytes_with_it() {
        let (mut console, mut theirs, [ram, _], mut queues) = open(&[(0x8000, 64, 2, 0)], &[]);
        queues[FROM_GUEST].set_ready(false);
        theirs.write_all(b"too late").expect("it is open");
        drop(theirs);
        assert_eq!(console.save(), Err("the host still has the agent port open"));
        assert_eq!(console.hang_up(&mut queues, &ram), Ok(Progress::Nothing));
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x8000)).expect("it is memory"), 0);
        assert!(console.watch().is_none());
    }

    #[test]
    fn what_a_guest_says_after_the_host_went_is_swallowed() {
        let (mut console, theirs, [_, ram], mut queues) = open(&[], &[(0x8000, 2, 0, 0)]);
        queues[TO_GUEST].set_ready(false);
        drop(theirs);
        assert_eq!(console.hang_up(&mut queues, &ram), Ok(Progress::Used));
        assert!(console.unsent.is_none());
    }

    #[test]
    fn a_message_that_never_ends_is_a_fault() {
        let (mut console, _theirs, [_, ram], mut queues) =
            open(&[], &[(0x8000, 0x80000, 1, 1), (0x8000, 0x80001, 0, 0)]);
        assert_eq!(console.pump(&mut queues, &ram), Err("a message that is too long"));
    }
}
