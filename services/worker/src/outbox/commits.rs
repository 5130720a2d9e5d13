//! Commit ids of what a worker says. Each derives from what it is about, so that saying it again after a crash is the same commit.

use omnirun_events::id::{CommitId, HostId, SandboxId};

/// The claim of a sandbox by a host.
pub fn claimed(host: HostId, sandbox: SandboxId) -> CommitId {
    CommitId::derive(&[host.as_bytes().as_slice(), sandbox.as_bytes()].concat(), "worker/claimed")
}

/// A sandbox's guest is ready.
pub fn started(sandbox: SandboxId) -> CommitId {
    CommitId::derive(sandbox.as_bytes(), "worker/started")
}

/// A sandbox has been paused, after so many earlier pauses.
pub fn paused(sandbox: SandboxId, earlier: u32) -> CommitId {
    CommitId::derive(&[sandbox.as_bytes().as_slice(), &earlier.to_be_bytes()].concat(), "worker/paused")
}

/// A sandbox's end, whichever it is: it has one.
pub fn ended(sandbox: SandboxId) -> CommitId {
    CommitId::derive(sandbox.as_bytes(), "worker/ended")
}

/// One reading of a sandbox's meter.
pub fn metered(sandbox: SandboxId, period: u32) -> CommitId {
    CommitId::derive(&[sandbox.as_bytes().as_slice(), &period.to_be_bytes()].concat(), "worker/metered")
}
