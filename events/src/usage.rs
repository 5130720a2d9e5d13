//! Meter readings, on `usage.<slot>.<account>.<sandbox>`. Kept at most 90 days.

use serde::{Deserialize, Serialize};

use crate::unit::{Bytes, MebibyteSeconds, Millis, Shape, Timestamp};

/// What a sandbox has used since it started. Every figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meter {
    /// Time that it ran; what it was paused is no part of it.
    pub wall: Millis,
    /// Processor time of its vCPUs.
    pub vcpu: Millis,
    /// Memory held over that time and over what it was paused.
    pub memory: MebibyteSeconds,
    /// Bytes that came in from the network.
    pub received: Bytes,
    /// Bytes that went out to the network.
    pub sent: Bytes,
}

impl Meter {
    /// The running time that a sandbox of this shape is charged for: what it ran, and for its memory while it was paused the part that
    /// [`Shape::paused`] says. Grows with each figure; a reading without memory was never paused.
    pub fn counted(&self, shape: Shape) -> Millis {
        let running = u128::from(self.wall.0) * u128::from(shape.memory.0);
        let paused = (u128::from(self.memory.0) * 1000).saturating_sub(running);
        let counted = paused / u128::from(shape.paused_memory());
        self.wall.plus(Millis(u64::try_from(counted).unwrap_or(u64::MAX)))
    }
}

/// A cumulative reading, every 60 s and once at the end. A later reading replaces an earlier one, so that a lost or
/// repeated one changes no bill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageMetered {
    /// Number of the reading, from 1; a fold ignores one that it has already seen.
    pub period: u32,
    /// When it was read.
    pub observed_at: Timestamp,
    /// What it read.
    pub meter: Meter,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Mebibytes, Vcpus};

    #[test]
    fn a_pause_is_charged_for_its_memory_and_running_for_its_time_alone() {
        let shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };
        let counted = |wall, memory| {
            Meter { wall: Millis(wall), memory: MebibyteSeconds(memory), ..Meter::default() }.counted(shape).0
        };
        assert_eq!(counted(60_000, 512 * 60), 60_000);
        assert_eq!(counted(60_000, 0), 60_000);
        assert_eq!(counted(60_000, 512 * 60 + 512 * 160), 60_000 + 10_000);
    }
}
