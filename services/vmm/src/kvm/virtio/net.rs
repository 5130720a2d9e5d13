//! The network device (VIRTIO 1.2, section 5.1): frames to and from a [`Wire`], one for one, without offloads. A frame for
//! which there is no room is dropped, as on any wire.

use omnirun_vmm_api::MacAddress;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_queue::{Queue, QueueT};

use super::{
    Device, Progress,
    queue::{give, put_back, take},
};
use crate::{PLANTED_BUG, kvm::memory::Ram};

const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;

/// `struct virtio_net_hdr`, `num_buffers` included, which begins every frame in a queue (VIRTIO 1.2, section 5.1.6).
const HEADER_BYTES: usize = 12;
/// Where its `num_buffers` is, which is 1 of every frame to the guest (section 5.1.6.4.1); all else is 0.
const BUFFERS: usize = 10;
/// Longest frame: the largest packet of IP behind an Ethernet header with a VLAN tag.
const FRAME_BYTES_MAX: usize = 65_535 + 18;
/// An Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
/// Frames to the guest in one turn of the thread, so that a flood does not keep it from the agent port.
const TURN_FRAMES_MAX: usize = 256;

/// Where frames come from and go to. Nothing waits.
pub trait Wire: Send {
    /// Takes a frame, or drops it.
    fn send(&mut self, frame: &[u8]) -> Sent;
    /// Gives the next frame; of one that is longer than the buffer, the beginning.
    fn receive(&mut self, frame: &mut [u8]) -> Received;
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was taken.
    Whole,
    /// There was no room for it, or nobody listens.
    Dropped,
    /// The wire is gone for good.
    Vanished,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame of this length.
    Frame(usize),
    /// Nothing for now.
    Nothing,
    /// The wire is gone for good.
    Vanished,
}

/// Bytes of frames, as the guest counts directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// To the guest.
    pub received: u64,
    /// From the guest.
    pub sent: u64,
}

/// The device.
pub struct Net<W> {
    wire: W,
    has_vanished: bool,
    /// As far as is known, the guest has offered something to put frames into.
    has_room: bool,
    counts: Counts,
    /// A header that never changes, and room for a frame.
    incoming: Vec<u8>,
    config: [u8; 6],
}

impl<W: Wire> Net<W> {
    /// A device with this address.
    pub fn new(wire: W, MacAddress(config): MacAddress) -> Self {
        let mut incoming = vec![0; HEADER_BYTES + FRAME_BYTES_MAX];
        incoming[BUFFERS] = 1;
        Self { wire, has_vanished: false, has_room: false, counts: Counts::default(), incoming, config }
    }

    /// Its other end.
    pub fn wire(&self) -> &W {
        &self.wire
    }

    /// Whether a frame could be given to the guest.
    pub fn has_room(&self) -> bool {
        self.has_room && !self.has_vanished
    }

    /// Whether the wire is gone for good.
    pub fn has_vanished(&self) -> bool {
        self.has_vanished
    }

    /// All that went through.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Gives the guest what has come, as long as it has room.
    pub fn pump(&mut self, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        let queue = &mut queues[TO_GUEST];
        let mut progress = Progress::Nothing;
        for _ in 0..TURN_FRAMES_MAX {
            // A queue that was taken away has no room: its next notification says when there is some again.
            self.has_room &= queue.ready();
            if !self.has_room() {
                break;
            }
            let Some(chain) = take(queue, ram)? else {
                self.has_room = false;
                break;
            };
            if !chain.readable.is_empty() {
                return Err("a buffer that is not to be written");
            }
            let length = match self.wire.receive(&mut self.incoming[HEADER_BYTES..]) {
                Received::Frame(length) => HEADER_BYTES + length,
                nothing => {
                    put_back(queue);
                    self.has_vanished |= nothing == Received::Vanished;
                    break;
                }
            };
            if chain.writable_length() < length as u64 {
                put_back(queue);
                continue;
            }
            let written = chain.write(ram, &self.incoming[..length])?;
            give(queue, ram, &chain, written)?;
            self.counts.received += (length - HEADER_BYTES) as u64;
            progress = Progress::Used;
        }
        Ok(progress)
    }

    /// Sends what the guest has said. Its headers ask for nothing, since nothing was offered, and are not looked at.
    fn send(&mut self, queue: &mut Queue, ram: &Ram) -> Result<Progress, &'static str> {
        let mut progress = Progress::Nothing;
        while let Some(chain) = take(queue, ram)? {
            if !chain.writable.is_empty() {
                return Err("a frame that is to be written");
            }
            // Planted: a frame of any length.
            let most = if PLANTED_BUG { u64::MAX } else { (HEADER_BYTES + FRAME_BYTES_MAX) as u64 };
            let bytes = chain.read(ram, most)?;
            give(queue, ram, &chain, 0)?;
            progress = Progress::Used;
            let frame = bytes.get(HEADER_BYTES..).filter(|frame| frame.len() >= FRAME_BYTES_MIN);
            let frame = frame.ok_or("a frame without a header")?;
            match self.wire.send(frame) {
                Sent::Whole => self.counts.sent += frame.len() as u64,
                Sent::Dropped => {}
                Sent::Vanished => self.has_vanished = true,
            }
        }
        Ok(progress)
    }
}

impl<W: Wire> Device for Net<W> {
    fn name(&self) -> &'static str {
        "network"
    }

    fn id(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    /// `struct virtio_net_config` as far as the features reach: the address.
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, queue: usize, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        if queue == FROM_GUEST {
            return self.send(&mut queues[FROM_GUEST], ram);
        }
        // The thread that waits for frames finds room from now on.
        self.has_room = true;
        Ok(Progress::Nothing)
    }

    fn reset(&mut self) {
        self.has_room = false;
    }

    fn save(&self) -> Result<Vec<u8>, &'static str> {
        Err("a guest with a network device is one tenant's, and no template")
    }

    fn load(&mut self, _saved: &[u8]) -> Result<(), &'static str> {
        Err("a network device is in no snapshot")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::{super::queue::tests, *};

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    #[derive(Default)]
    struct Ends {
        come: VecDeque<Vec<u8>>,
        gone: Vec<Vec<u8>>,
        is_cut: bool,
    }

    impl Wire for Ends {
        fn send(&mut self, frame: &[u8]) -> Sent {
            if self.is_cut {
                return Sent::Vanished;
            }
            self.gone.push(frame.to_vec());
            Sent::Whole
        }

        fn receive(&mut self, buffer: &mut [u8]) -> Received {
            if self.is_cut {
                return Received::Vanished;
            }
            let Some(frame) = self.come.pop_front() else { return Received::Nothing };
            let length = frame.len().min(buffer.len());
            buffer[..length].copy_from_slice(&frame[..length]);
            Received::Frame(length)
        }
    }

    /// A device, and both queues with the same descriptors.
    fn open(descriptors: &[(u64, u32, u16, u16)], come: &[&[u8]]) -> (Net<Ends>, Ram, Vec<Queue>) {
        let ram = tests::ram();
        let queues = vec![tests::queue_of(&ram, descriptors), tests::queue_of(&ram, descriptors)];
        let wire = Ends { come: come.iter().map(|frame| frame.to_vec()).collect(), ..Ends::default() };
        (Net::new(wire, MAC), ram, queues)
    }

    fn said(length: u32) -> (Net<Ends>, Result<Progress, &'static str>) {
        let (mut net, ram, mut queues) = open(&[(0x8000, length, 0, 0)], &[]);
        ram.write_slice(b"headerheaderto----from--ty", GuestAddress(0x8000)).expect("it is memory");
        let progress = net.notified(FROM_GUEST, &mut queues, &ram);
        (net, progress)
    }

    #[test]
    fn a_frame_of_the_guest_is_sent_without_its_header() {
        let (net, progress) = said(26);
        assert_eq!((progress, &net.wire.gone[..]), (Ok(Progress::Used), &[b"to----from--ty".to_vec()][..]));
        assert_eq!(net.counts(), Counts { received: 0, sent: 14 });
    }

    #[test]
    fn what_is_shorter_than_its_headers_is_a_fault() {
        for length in [1, 12, 25] {
            assert_eq!(said(length).1, Err("a frame without a header"), "{length}");
        }
    }

    #[test]
    fn what_is_longer_than_any_frame_is_a_fault() {
        assert_eq!(said((HEADER_BYTES + FRAME_BYTES_MAX) as u32).1, Ok(Progress::Used));
        assert_eq!(said((HEADER_BYTES + FRAME_BYTES_MAX) as u32 + 1).1, Err("a message that is too long"));
    }

    #[test]
    fn a_frame_for_the_guest_waits_until_it_has_said_that_there_is_room() {
        let (mut net, ram, mut queues) = open(&[(0x8000, 64, 2, 0)], &[b"frame", b"another"]);
        assert_eq!(net.pump(&mut queues, &ram), Ok(Progress::Nothing));
        assert_eq!(net.notified(TO_GUEST, &mut queues, &ram), Ok(Progress::Nothing));
        assert!(net.has_room());
        assert_eq!(net.pump(&mut queues, &ram), Ok(Progress::Used));
        let given: [u8; 18] = ram.read_obj(GuestAddress(0x8000)).expect("it is memory");
        assert_eq!(&given, b"\0\0\0\0\0\0\0\0\0\0\x01\0frame\0");
        assert!(!net.has_room(), "there was one buffer");
        assert_eq!((net.wire.come.len(), net.counts().received), (1, 5));
    }

    #[test]
    fn a_frame_that_is_longer_than_its_buffer_is_dropped_and_the_next_one_is_not() {
        let (mut net, ram, mut queues) = open(&[(0x8000, 17, 2, 0)], &[b"longer", b"short"]);
        net.notified(TO_GUEST, &mut queues, &ram).expect("that is how it is done");
        assert_eq!(net.pump(&mut queues, &ram), Ok(Progress::Used));
        let given: [u8; 6] = ram.read_obj(GuestAddress(0x800c)).expect("it is memory");
        assert_eq!((&given, net.wire.come.len()), (b"short\0", 0));
    }

    #[test]
    fn a_buffer_to_be_read_is_a_fault_and_so_is_a_frame_to_be_written() {
        let (mut net, ram, mut queues) = open(&[(0x8000, 64, 0, 0)], &[b"frame"]);
        net.notified(TO_GUEST, &mut queues, &ram).expect("that is how it is done");
        assert_eq!(net.pump(&mut queues, &ram), Err("a buffer that is not to be written"));
        let (mut net, ram, mut queues) = open(&[(0x8000, 64, 2, 0)], &[]);
        assert_eq!(net.notified(FROM_GUEST, &mut queues, &ram), Err("a frame that is to be written"));
    }

    #[test]
    fn a_wire_that_has_vanished_is_found_in_either_direction() {
        let (mut net, ram, mut queues) = open(&[(0x8000, 64, 0, 0)], &[]);
        net.wire.is_cut = true;
        assert_eq!(net.notified(FROM_GUEST, &mut queues, &ram), Ok(Progress::Used));
        assert!(net.has_vanished() && net.counts() == Counts::default());
        let (mut net, ram, mut queues) = open(&[(0x8000, 64, 2, 0)], &[]);
        net.wire.is_cut = true;
        net.notified(TO_GUEST, &mut queues, &ram).expect("that is how it is done");
        assert_eq!(net.pump(&mut queues, &ram), Ok(Progress::Nothing));
        assert!(net.has_vanished() && !net.has_room());
    }

    #[test]
    fn it_is_in_no_snapshot() {
        let (mut net, ..) = open(&[], &[]);
        assert!(net.save().is_err() && net.load(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_descriptors_make_it_panic(
            descriptors in prop::collection::vec((0..2 * tests::RAM as u64, 0..90_000_u32, 0..4_u16, 0..6_u16), 1..6),
            come in prop::collection::vec(1..3000_usize, 0..4),
        ) {
            let frames: Vec<_> = come.iter().map(|length| vec![7; *length]).collect();
            let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
            let (mut net, ram, mut queues) = open(&descriptors, &frames);
            let _ = net.notified(FROM_GUEST, &mut queues, &ram);
            let _ = net.notified(TO_GUEST, &mut queues, &ram);
            let _ = net.pump(&mut queues, &ram);
        }
    }
}
