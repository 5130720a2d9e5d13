//! Events of worker hosts, on `sys.host.<host>`.

use serde::{Deserialize, Serialize};

use crate::keys::Digest;
use crate::log::Sequence;
use crate::unit::{Mebibytes, Millis, Vcpus};

/// How long a host that can say nothing on the log keeps its sandboxes: after that it ends them itself.
pub const CUT_OFF_AFTER: Millis = Millis(15 * 60 * 1000);

/// How long a guest lives on while no worker of its host is there.
pub const UNATTENDED_AFTER: Millis = Millis(10 * 60 * 1000);

/// A host that has sandboxes and says nothing for this long is given up. By then they have ended, though its worker may have died at the last moment
/// of being cut off. An end takes a minute at most, and the clocks of two machines are not needed for it.
pub const LEASE: Millis = Millis(30 * 60 * 1000);

const _: () = assert!(CUT_OFF_AFTER.0 + UNATTENDED_AFTER.0 + 2 * 60 * 1000 < LEASE.0);

/// A template that a host can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTemplate {
    /// Its name, as users ask for it.
    pub name: String,
    /// SHA-256 of its root image.
    pub root: Digest,
}

/// A worker takes requests from here on; also written when what it offers has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostJoined {
    /// `address:port` of its data path, where gateways connect.
    pub address: String,
    /// SHA-256 of its TLS certificate (DER); gateways accept no other.
    pub certificate: Digest,
    /// Guests that it runs at once.
    pub sandboxes_max: u32,
    /// Virtual processors that one guest may have.
    pub vcpus_max: Vcpus,
    /// Memory that one guest may have.
    pub memory_max: Mebibytes,
    /// Which monitor it uses, such as `qemu-tcg`.
    pub monitor: String,
    /// What it can start.
    pub templates: Vec<HostTemplate>,
}

/// The worker was stopped in order; its sandboxes had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLeft {}

/// The host was given up, by an operator or because its [`LEASE`] was over: each of its sandboxes ends with
/// [`crate::sandbox::StopReason::HostLost`]. It is back once it joins again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLost {
    /// Which operator decided so, in their own words; the commands service where nobody did.
    pub operator: String,
    /// Why, in their own words.
    pub reason: String,
}

/// Everything that this host will ever say about sandboxes that were final at a position is on the log. Said only while an account is being
/// erased, which waits for it; no account is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCaughtUp {
    /// The position in EVENTS.
    pub through: Sequence,
}
