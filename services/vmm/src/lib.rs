//! Monitors for virtual machines. Here is the one that runs QEMU as its child; an own one on KVM will stand beside it,
//! behind the same trait. No async runtime, no message bus, no events.
//!
//! Reading order: [`choose`], [`store`] (where a template's files are), then [`qemu`].

mod choose;

pub mod store;

pub mod qemu;

pub use choose::choose;
