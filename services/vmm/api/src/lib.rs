//! What is said about virtual machines: the [`Monitor`] that runs them, and the messages of the owner process that
//! keeps one guest each.
//!
//! Reading order: [`unit`], [`spec`], [`monitor`], then [`owner`] for whoever starts and asks owner processes. Nothing
//! here starts anything.

pub mod unit;

pub mod spec;

pub mod monitor;

pub mod owner;

pub use monitor::{Guest, Monitor, MonitorError, Place, SnapshotFiles, Stats};
pub use spec::{
    ImageFiles, MacAddress, MemoryBacking, MonitorChoice, NetworkSpec, Purpose, TemplateDigests, VmSpec,
};
pub use unit::{Bytes, MemoryMib, MibSeconds, Millis, UnixMillis, Vcpus};
