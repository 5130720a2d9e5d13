//! Chains of descriptors, taken from a queue and checked whole before any byte of them is used.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::memory::Ram;

/// A chain has no more parts than the longest queue of ours; tables of indirect ones could be longer.
const PARTS_MAX: usize = 256;

/// A part of a chain: memory of the guest that was found to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub at: GuestAddress,
    /// How many bytes, never none.
    pub length: u32,
}

/// A chain of a queue: what the guest has written, then what it wants written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    /// To be read.
    pub readable: Vec<Part>,
    /// To be written.
    pub writable: Vec<Part>,
}

/// Takes the next chain; `None` when the guest has made no other one available.
pub fn take(queue: &mut Queue, ram: &Ram) -> Result<Option<Chain>, &'static str> {
    let mut available = queue.iter(ram).map_err(|_| "an index beyond its ring")?;
    let Some(descriptors) = available.next() else { return Ok(None) };
    let mut chain = Chain { head: descriptors.head_index(), ..Chain::default() };
    // What ends a chain: a last part, or the iterator's refusal to follow it further.
    let mut is_whole = false;
    for descriptor in descriptors {
        let part = Part { at: descriptor.addr(), length: descriptor.len() };
        if part.length == 0 {
            return Err("an empty descriptor");
        }
        if !ram.check_range(part.at, part.length as usize) {
            return Err("a descriptor outside of memory");
        }
        if chain.readable.len() + chain.writable.len() == PARTS_MAX {
            return Err("a chain that is too long");
        }
        match (descriptor.is_write_only(), chain.writable.is_empty()) {
            (true, _) => chain.writable.push(part),
            (false, true) => chain.readable.push(part),
            (false, false) => return Err("a chain that is read after it is written"),
        }
        is_whole = !descriptor.has_next();
    }
    if is_whole { Ok(Some(chain)) } else { Err("a chain that leads nowhere") }
}

/// Gives back the chain that was taken last, unused, so that it is taken again.
pub fn put_back(queue: &mut Queue) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
}

/// Tells the guest that a chain has been used and how many bytes were written into it.
pub fn give(queue: &mut Queue, ram: &Ram, chain: &Chain, written: u32) -> Result<(), &'static str> {
    queue.add_used(ram, chain.head, written).map_err(|_| "a used ring outside of memory")
}

impl Chain {
    /// Bytes to be read.
    pub fn readable_length(&self) -> u64 {
        self.readable.iter().map(|part| u64::from(part.length)).sum()
    }

    /// Bytes to be written.
    pub fn writable_length(&self) -> u64 {
        self.writable.iter().map(|part| u64::from(part.length)).sum()
    }

    /// Copies what is to be read, all of it, which must not be more than `most` bytes.
    pub fn read(&self, ram: &Ram, most: u64) -> Result<Vec<u8>, &'static str> {
        if self.readable_length() > most {
            return Err("a message that is too long");
        }
        let mut bytes = Vec::with_capacity(self.readable_length() as usize);
        for part in &self.readable {
            let start = bytes.len();
            bytes.resize(start + part.length as usize, 0);
            ram.read_slice(&mut bytes[start..], part.at).map_err(|_| "a descriptor outside of memory")?;
        }
        Ok(bytes)
    }

    /// Writes from the start of what is to be written; what does not fit is left out. Answers with how much was.
    pub fn write(&self, ram: &Ram, bytes: &[u8]) -> Result<u32, &'static str> {
        let mut rest = bytes;
        for part in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(part.length as usize));
            ram.write_slice(now, part.at).map_err(|_| "a descriptor outside of memory")?;
            rest = later;
        }
        u32::try_from(bytes.len() - rest.len()).map_err(|_| "a chain that is too long")
    }
}

/// Also what the tests of the devices make their queues with.
#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor},
        mock::MockSplitQueue,
    };

    use super::*;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    /// Memory of the tests.
    pub const RAM: usize = 1 << 20;

    /// Memory with a queue of 16 at its start.
    pub fn ram() -> Ram {
        Ram::from_ranges(&[(GuestAddress(0), RAM)]).expect("it is small")
    }

    /// Makes these descriptors (address, length, flags, next) available, the first of them as a chain's head.
    pub fn queue_of(ram: &Ram, descriptors: &[(u64, u32, u16, u16)]) -> Queue {
        let mock = MockSplitQueue::new(ram, 16);
        for (index, (at, length, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = RawDescriptor::from(Descriptor::new(*at, *length, *flags, *next));
            mock.desc_table().store(index as u16, descriptor).expect("it is in the table");
        }
        mock.avail().ring().ref_at(0).expect("it is in the ring").store(0);
        mock.avail().idx().store(1);
        mock.create_queue().expect("the mock's rings are in memory")
    }

    fn taken(descriptors: &[(u64, u32, u16, u16)]) -> Result<Option<Chain>, &'static str> {
        let ram = ram();
        take(&mut queue_of(&ram, descriptors), &ram)
    }

    #[test]
    fn a_chain_is_taken_in_order_once() {
        let ram = ram();
        let mut queue =
            queue_of(&ram, &[(0x8000, 16, NEXT, 1), (0x9000, 512, NEXT | WRITE, 2), (0xa000, 1, WRITE, 0)]);
        let chain = take(&mut queue, &ram).expect("it is right").expect("it is there");
        assert_eq!((chain.readable_length(), chain.writable_length(), chain.writable.len()), (16, 513, 2));
        assert_eq!(take(&mut queue, &ram), Ok(None));
        put_back(&mut queue);
        assert_eq!(take(&mut queue, &ram), Ok(Some(chain)));
    }

    #[test]
    fn every_kind_of_lie_is_told_apart() {
        let end = RAM as u64;
        assert_eq!(taken(&[(end - 8, 9, 0, 0)]), Err("a descriptor outside of memory"));
        assert_eq!(taken(&[(u64::MAX, 2, 0, 0)]), Err("a descriptor outside of memory"));
        assert_eq!(taken(&[(0x8000, 0, 0, 0)]), Err("an empty descriptor"));
        assert_eq!(taken(&[(0x8000, 8, NEXT, 0)]), Err("a chain that leads nowhere"), "a circle");
        assert_eq!(taken(&[(0x8000, 8, NEXT, 99)]), Err("a chain that leads nowhere"), "beyond the table");
        assert_eq!(
            taken(&[(0x8000, 24, INDIRECT, 0)]),
            Err("a chain that leads nowhere"),
            "half a descriptor"
        );
        let reversed = [(0x8000, 8, NEXT | WRITE, 1), (0x9000, 8, 0, 0)];
        assert_eq!(taken(&reversed), Err("a chain that is read after it is written"));
    }

    #[test]
    fn an_index_that_ran_ahead_of_its_ring_is_a_fault() {
        let ram = ram();
        let mut queue = queue_of(&ram, &[(0x8000, 8, 0, 0)]);
        ram.write_obj(17_u16, GuestAddress(queue.avail_ring() + 2)).expect("it is memory");
        assert_eq!(take(&mut queue, &ram), Err("an index beyond its ring"));
    }

    #[test]
    fn what_is_written_stops_at_the_end_of_the_chain() {
        let ram = ram();
        let mut queue = queue_of(&ram, &[(0x8000, 2, NEXT | WRITE, 1), (0x9000, 2, WRITE, 0)]);
        let chain = take(&mut queue, &ram).expect("it is right").expect("it is there");
        assert_eq!(chain.write(&ram, b"abcdef"), Ok(4));
        let read = |at| ram.read_obj::<[u8; 4]>(GuestAddress(at)).expect("it is memory");
        assert_eq!((read(0x8000), read(0x9000)), (*b"ab\0\0", *b"cd\0\0"));
    }

    proptest! {
        #[test]
        fn no_descriptors_make_it_panic(
            descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), 0..8_u16, 0..20_u16), 1..16),
            low in any::<bool>(),
        ) {
            let descriptors: Vec<_> = descriptors
                .into_iter()
                .map(|(at, length, flags, next)| if low { (at % RAM as u64, length % 4096, flags, next) } else { (at, length, flags, next) })
                .collect();
            let ram = ram();
            if let Ok(Some(chain)) = take(&mut queue_of(&ram, &descriptors), &ram) {
                prop_assert!(chain.read(&ram, 1 << 16).is_ok() || chain.readable_length() > 1 << 16);
                prop_assert!(chain.write(&ram, &[1; 64]).is_ok());
            }
        }
    }
}
