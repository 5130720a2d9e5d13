//! Monitors for virtual machines, behind one trait: one that runs QEMU as its child, and our own on KVM inside the
//! calling process. No async runtime, no message bus, no events.
//!
//! Reading order: [`choose`], [`probe`] (whether KVM works here), [`store`] (where a template's files are), then [`qemu`]
//! and [`kvm`].

mod choose;

mod edition;

pub mod probe;

pub mod store;

pub mod qemu;

pub mod kvm;

pub use choose::{Settled, choose, settle};

/// True only in a fuzzer's build that is to find a bug: each place that asks is one.
const PLANTED_BUG: bool = cfg!(all(fuzzing, feature = "planted-bug"));
