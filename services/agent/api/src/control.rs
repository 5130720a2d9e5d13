//! Messages between the owner process and the agent about the guest itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Private, Timestamp, UnixMillis};

/// How far a guest has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Booted or restored; nothing of a user has run. Only health and personalise are answered.
    Barrier,
    /// Personalised; runs what it is asked to.
    Ready,
}

/// The answer to a health request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How far the guest has come.
    pub stage: Stage,
    /// Version of the agent's package.
    pub version: String,
}

/// Everything that a guest must not share with another one restored from the same snapshot, given by the host
/// before any user's code runs. The guest makes the rest (boot id, machine id, instance id) by itself after it has
/// mixed in the entropy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Personalise {
    /// 64 bytes from the host's `getrandom`, as 128 hexadecimal digits.
    pub entropy: Private,
    /// The host's wall clock.
    pub now: UnixMillis,
    /// The guest's host name: 1 to 63 characters of `[a-z0-9-]`.
    pub hostname: String,
    /// Environment of every command of this guest.
    #[serde(default)]
    pub envs: BTreeMap<String, Private>,
}

/// What a personalised guest says about itself. All random, made in the guest, and none of it secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personalised {
    /// The new `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The new `/etc/machine-id`.
    pub machine_id: String,
    /// 32 random bytes as hexadecimal digits: the agent's identity for the life of this guest.
    pub instance: String,
}

/// Sets the guest's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetClock {
    /// The host's wall clock.
    pub now: UnixMillis,
}

/// Adds to the environment that later commands start with; a name given again replaces its value.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetEnvs {
    /// Names and values.
    pub envs: BTreeMap<String, Private>,
}

/// What a guest uses at a moment, counted by its own kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// When it was counted.
    pub timestamp: Timestamp,
    /// Share of all vCPU time used since the last time metrics were asked for (or boot), 0 to 100.
    pub cpu_used_pct: f64,
    /// vCPUs.
    pub cpu_count: u32,
    /// Bytes of memory that are not available to new programs.
    pub mem_used: u64,
    /// Bytes of memory.
    pub mem_total: u64,
    /// Bytes written to the root's writable layer, which is memory as well.
    pub disk_used: u64,
    /// Bytes that the writable layer may hold.
    pub disk_total: u64,
}
