//! Meter readings, on `usage.<slot>.<account>.<sandbox>`. Kept at most 90 days.

use serde::{Deserialize, Serialize};

use crate::unit::{Bytes, MebibyteSeconds, Millis, Timestamp};

/// What a sandbox has used since it started. Every figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meter {
    /// Time that it ran.
    pub wall: Millis,
    /// Processor time of its vCPUs.
    pub vcpu: Millis,
    /// Memory held over that time.
    pub memory: MebibyteSeconds,
    /// Bytes that came in from the network.
    pub received: Bytes,
    /// Bytes that went out to the network.
    pub sent: Bytes,
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
