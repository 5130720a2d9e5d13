//! virtio devices over memory-mapped registers (VIRTIO 1.2, section 4.2).
//!
//! Reading order: [`queue`] (what is taken from a guest's queue, checked), [`mmio`] (registers), then the devices:
//! [`block`], [`console`], [`entropy`], [`net`]. What serves a queue is a function of the queue and the memory, so that it can be
//! fed anything without a guest.

pub mod queue;

pub mod mmio;

pub mod block;

pub mod console;

pub mod entropy;

pub mod net;

use virtio_queue::Queue;

use super::memory::Ram;

/// A guest broke the rules. It ends its own monitor and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest broke the rules of its {device} device: {what}")]
pub struct Fault {
    /// The device's name.
    pub device: &'static str,
    /// What it did.
    pub what: &'static str,
}

/// Whether something was put into a used ring, which the guest must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was.
    Nothing,
    /// Something was.
    Used,
}

impl Progress {
    /// Either of the two made progress.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Used { self } else { other }
    }
}

/// What the registers know of a device.
pub trait Device: Send {
    /// For messages.
    fn name(&self) -> &'static str;
    /// VIRTIO 1.2, section 5.
    fn id(&self) -> u32;
    /// Features of its own; those of every device are added.
    fn features(&self) -> u64;
    /// Longest queue of each.
    fn queue_sizes(&self) -> &'static [u16];
    /// Its configuration space.
    fn config(&self) -> &[u8];
    /// The guest says that a queue, one of its own and ready, has something in it.
    fn notified(&mut self, queue: usize, queues: &mut [Queue], ram: &Ram) -> Result<Progress, &'static str>;
    /// Forgets everything that the guest has said.
    fn reset(&mut self);
    /// What a snapshot needs besides the queues, or why there can be none now.
    fn save(&self) -> Result<Vec<u8>, &'static str>;
    /// Becomes what was saved.
    fn load(&mut self, saved: &[u8]) -> Result<(), &'static str>;
}
