//! The entropy device (VIRTIO 1.2, section 5.4): gives the guest the host's randomness.

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_queue::Queue;

use super::{
    Device, Progress,
    queue::{give, take},
};
use crate::{PLANTED_BUG, kvm::memory::Ram};

/// The most that one request gets; the guest asks again for more.
const ANSWER_MAX: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Entropy(());

/// Answers every request of the queue with bytes of `fill`.
pub fn serve(
    queue: &mut Queue,
    ram: &Ram,
    mut fill: impl FnMut(&mut [u8]),
) -> Result<Progress, &'static str> {
    let mut progress = Progress::Nothing;
    while let Some(chain) = take(queue, ram)? {
        if !chain.readable.is_empty() || chain.writable.is_empty() {
            return Err("a request that is not to be written");
        }
        // Planted: no limit.
        let most = if PLANTED_BUG { usize::MAX } else { ANSWER_MAX };
        let length = usize::try_from(chain.writable_length()).unwrap_or(ANSWER_MAX).min(most);
        let mut bytes = [0; ANSWER_MAX];
        fill(&mut bytes[..length]);
        let written = chain.write(ram, &bytes[..length])?;
        give(queue, ram, &chain, written)?;
        progress = Progress::Used;
    }
    Ok(progress)
}

/// The host kernel's random bytes, which cannot fail once it has been seeded.
fn fill(mut rest: &mut [u8]) {
    while !rest.is_empty() {
        match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Ok(filled) => rest = &mut rest[filled..],
            Err(error) => assert_eq!(error, rustix::io::Errno::INTR, "only a signal interrupts it"),
        }
    }
}

impl Device for Entropy {
    fn name(&self) -> &'static str {
        "entropy"
    }

    fn id(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn notified(&mut self, queue: usize, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str> {
        serve(&mut queues[queue], ram, fill)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<Vec<u8>, &'static str> {
        Ok(Vec::new())
    }

    fn load(&mut self, saved: &[u8]) -> Result<(), &'static str> {
        if saved.is_empty() { Ok(()) } else { Err("an entropy device has no state") }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::{super::queue::tests, *};

    #[test]
    fn a_request_is_answered_in_full_up_to_a_page() {
        let ram = tests::ram();
        let mut queue = tests::queue_of(&ram, &[(0x8000, 8192, 2, 0)]);
        assert_eq!(serve(&mut queue, &ram, |bytes| bytes.fill(7)), Ok(Progress::Used));
        let last = |at| ram.read_obj::<u8>(GuestAddress(at)).expect("it is memory");
        assert_eq!((last(0x8000), last(0x8fff), last(0x9000)), (7, 7, 0));
        assert_eq!(serve(&mut queue, &ram, |_| panic!("nothing is asked for")), Ok(Progress::Nothing));
    }

    #[test]
    fn a_request_that_gives_bytes_instead_is_a_fault() {
        let ram = tests::ram();
        let mut queue = tests::queue_of(&ram, &[(0x8000, 16, 0, 0)]);
        assert!(serve(&mut queue, &ram, |_| ()).is_err());
    }

    #[test]
    fn two_requests_get_different_bytes() {
        let (mut one, mut other) = ([0; 300], [0; 300]);
        fill(&mut one);
        fill(&mut other);
        assert_ne!(one, other);
    }
}
