//! The registers of a virtio device (VIRTIO 1.2, section 4.2.2), its negotiation and its queues. Whatever a guest writes
//! either is allowed at that moment or is a [`Fault`].

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_queue::{Queue, QueueState, QueueT};

use super::{Device, Fault, Progress};
use crate::kvm::memory::Ram;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"OMNI");
/// The configuration space begins here.
const CONFIG: u64 = 0x100;
/// The one kind of interrupt that is raised: a used buffer.
const USED_BUFFER: u32 = 1;

/// A device behind its registers. Raising its interrupt is the caller's.
pub struct Mmio<D> {
    device: D,
    queues: Vec<Queue>,
    state: Registers,
}

/// What the guest has written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    status: u32,
    interrupts: u32,
    /// Addresses of each queue's three parts, as they are before the queue is ready.
    rings: Vec<[u64; 3]>,
}

/// A device in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    registers: Registers,
    queues: Vec<SavedQueue>,
    #[serde(with = "serde_bytes")]
    device: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedQueue {
    size: u16,
    ready: bool,
    next_avail: u16,
    next_used: u16,
}

impl<D: Device> Mmio<D> {
    /// A device that the guest has not touched.
    pub fn new(device: D) -> Self {
        let queue = |size: &u16| Queue::new(*size).expect("our devices' sizes are powers of two");
        let queues: Vec<Queue> = device.queue_sizes().iter().map(queue).collect();
        let state = Registers { rings: vec![[0; 3]; queues.len()], ..Registers::default() };
        Self { device, queues, state }
    }

    /// What the guest reads. Registers that do not exist, and reads of another width than theirs, are zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            let from = usize::try_from(offset - CONFIG).unwrap_or(usize::MAX);
            for (byte, value) in data.iter_mut().zip(self.device.config().iter().skip(from)) {
                *byte = *value;
            }
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.state.queue_select as usize);
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.device.id(),
            0x00c => VENDOR,
            0x010 => half(self.offered(), self.state.device_features_select),
            0x034 => queue.map_or(0, |queue| queue.max_size().into()),
            0x044 => queue.map_or(0, |queue| queue.ready().into()),
            0x060 => self.state.interrupts,
            0x070 => self.state.status,
            _ => 0,
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    /// What the guest writes. [`Progress::Used`] asks for its interrupt.
    pub fn write(&mut self, offset: u64, data: &[u8], ram: &Ram) -> Result<Progress, Fault> {
        // No device of ours has a configuration that can be written.
        let Ok(word) = <[u8; 4]>::try_from(data) else { return Ok(Progress::Nothing) };
        let device = self.device.name();
        self.write_register(offset, u32::from_le_bytes(word), ram).map_err(|what| Fault { device, what })
    }

    fn write_register(&mut self, offset: u64, value: u32, ram: &Ram) -> Result<Progress, &'static str> {
        let state = &mut self.state;
        match offset {
            0x014 => state.device_features_select = value,
            0x020 => set_half(&mut state.driver_features, state.driver_features_select, value),
            0x024 => state.driver_features_select = value,
            0x030 => state.queue_select = value,
            0x038 => {
                let size = u16::try_from(value).map_err(|_| "a queue of an impossible size")?;
                self.unused_queue()?.try_set_size(size).map_err(|_| "a queue of an impossible size")?;
            }
            0x044 => return self.set_ready(value, ram),
            0x050 => return self.notify(value, ram),
            0x064 => state.interrupts &= !value,
            0x070 => self.set_status(value),
            0x080 | 0x084 => self.set_ring(0, offset == 0x084, value)?,
            0x090 | 0x094 => self.set_ring(1, offset == 0x094, value)?,
            0x0a0 | 0x0a4 => self.set_ring(2, offset == 0x0a4, value)?,
            _ => {}
        }
        Ok(Progress::Nothing)
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.state = Registers { rings: vec![[0; 3]; self.queues.len()], ..Registers::default() };
            self.queues.iter_mut().for_each(QueueT::reset);
            self.device.reset();
            return;
        }
        let accepted = self.state.driver_features;
        let is_possible = accepted & !self.offered() == 0 && accepted & 1 << VIRTIO_F_VERSION_1 != 0;
        // Refusing features is leaving the bit clear (VIRTIO 1.2, section 3.1.1).
        let refused = if is_possible { 0 } else { VIRTIO_CONFIG_S_FEATURES_OK };
        self.state.status = value & !refused;
    }

    /// The selected queue, while it may still be changed.
    fn unused_queue(&mut self) -> Result<&mut Queue, &'static str> {
        let selected = self.queues.get_mut(self.state.queue_select as usize);
        let queue = selected.ok_or("a queue that does not exist")?;
        if queue.ready() { Err("a queue that is changed while it is in use") } else { Ok(queue) }
    }

    fn set_ring(&mut self, part: usize, is_high: bool, value: u32) -> Result<(), &'static str> {
        self.unused_queue()?;
        let ring = &mut self.state.rings[self.state.queue_select as usize][part];
        set_half(ring, is_high.into(), value);
        Ok(())
    }

    fn set_ready(&mut self, value: u32, ram: &Ram) -> Result<Progress, &'static str> {
        let selected = self.state.queue_select as usize;
        if value == 0 {
            self.queues.get_mut(selected).ok_or("a queue that does not exist")?.set_ready(false);
        } else {
            let size = self.unused_queue()?.size();
            let saved = SavedQueue { size, ready: true, next_avail: 0, next_used: 0 };
            self.queues[selected] = self.queue(selected, &saved, ram)?;
        }
        Ok(Progress::Nothing)
    }

    /// A queue from its rings' addresses, if it is in memory as a whole.
    fn queue(&self, index: usize, saved: &SavedQueue, ram: &Ram) -> Result<Queue, &'static str> {
        let [desc_table, avail_ring, used_ring] = self.state.rings[index];
        let max_size = self.queues[index].max_size();
        let SavedQueue { size, ready, next_avail, next_used } = *saved;
        let (desc_table, avail_ring, used_ring) =
            if ready { (desc_table, avail_ring, used_ring) } else { (0, 0, 0) };
        let state = QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled: false,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        };
        let queue = Queue::try_from(state).map_err(|_| "a queue that is not aligned")?;
        if ready && !queue.is_valid(ram) {
            return Err("a queue outside of memory");
        }
        Ok(queue)
    }

    fn notify(&mut self, queue: u32, ram: &Ram) -> Result<Progress, &'static str> {
        let index = queue as usize;
        let is_ready = self.queues.get(index).ok_or("a queue that does not exist")?.ready();
        if !is_ready || self.state.status & VIRTIO_CONFIG_S_DRIVER_OK == 0 {
            return Err("a queue that is used before it is ready");
        }
        let progress = self.device.notified(index, &mut self.queues, ram)?;
        Ok(self.note(progress))
    }

    fn note(&mut self, progress: Progress) -> Progress {
        if progress == Progress::Used {
            self.state.interrupts |= USED_BUFFER;
        }
        progress
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device itself, for what does not concern the guest.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Does something with the device because the host's side of it has changed.
    pub fn serve(
        &mut self,
        ram: &Ram,
        work: impl FnOnce(&mut D, &mut [Queue], &Ram) -> Result<Progress, &'static str>,
    ) -> Result<Progress, Fault> {
        let device = self.device.name();
        let progress =
            work(&mut self.device, &mut self.queues, ram).map_err(|what| Fault { device, what })?;
        Ok(self.note(progress))
    }

    /// Whether the guest has been sent an interrupt that it has not acknowledged.
    pub fn is_pending(&self) -> bool {
        self.state.interrupts != 0
    }

    /// The device's state; nothing may touch it meanwhile.
    pub fn save(&self) -> Result<Saved, &'static str> {
        let saved = |queue: &Queue| SavedQueue {
            size: queue.size(),
            ready: queue.ready(),
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
        };
        let queues = self.queues.iter().map(saved).collect();
        Ok(Saved { registers: self.state.clone(), queues, device: self.device.save()? })
    }

    /// Becomes what was saved, checked as if the guest had asked for it.
    pub fn load(&mut self, saved: &Saved, ram: &Ram) -> Result<(), &'static str> {
        let count = self.queues.len();
        if saved.registers.rings.len() != count || saved.queues.len() != count {
            return Err("another number of queues");
        }
        self.state = saved.registers.clone();
        for (index, queue) in saved.queues.iter().enumerate() {
            self.queues[index] = self.queue(index, queue, ram)?;
        }
        self.device.load(&saved.device)
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
