//! Who may pass to which guest: pure, from the request's path and capability and what the log says.

use omnirun_agent_api::route;
use omnirun_events::id::{HostId, SandboxId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::unit::Timestamp;
use omnirun_projections::sandboxes::{Sandboxes, State};
use omnirun_worker_api::capability::{Capability, CapabilityError, Verb};

/// A request that may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage<'a> {
    /// To this sandbox's guest.
    pub sandbox: SandboxId,
    /// Path and query for its agent, with the slash.
    pub rest: &'a str,
}

/// A request that may not pass. The texts are fixed: nothing of a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub message: &'static str,
}

/// The path names no sandbox, or none of this host. A sandbox of another account is not there either.
pub const NOT_FOUND: Refused =
    Refused { status: 404, code: "sandbox_not_found", message: "there is no such sandbox on this host" };
/// Not signed by a gateway.
pub const NO_CAPABILITY: Refused = Refused {
    status: 401,
    code: "capability_invalid",
    message: "the request has no capability of a known gateway",
};
/// Signed, for another time.
pub const EXPIRED: Refused =
    Refused { status: 401, code: "capability_expired", message: "the capability is not good at this time" };
/// Signed, for something else.
pub const NOT_ALLOWED: Refused =
    Refused { status: 403, code: "capability_insufficient", message: "the capability does not allow this" };
/// Its guest is not ready, or gone.
pub const NOT_RUNNING: Refused =
    Refused { status: 409, code: "sandbox_not_running", message: "the sandbox has no running guest" };
/// Its guest stands still.
pub const PAUSED: Refused =
    Refused { status: 409, code: "sandbox_paused", message: "the sandbox is paused; resume it first" };
/// Its guest ended while the request was on its way.
pub const GUEST_GONE: Refused = Refused { status: 502, code: "guest_gone", message: "the guest has ended" };

/// Whether a request to `path` with this capability may pass, and where to.
pub fn check<'a>(
    path: &'a str,
    capability: Option<&[u8]>,
    sandboxes: &Sandboxes,
    ring: &KeyRing,
    host: HostId,
    now: Timestamp,
) -> Result<Passage<'a>, Refused> {
    let text = capability.and_then(|text| std::str::from_utf8(text).ok()).ok_or(NO_CAPABILITY)?;
    let capability = Capability::verify(text, ring, now).map_err(|error| match error {
        CapabilityError::Expired => EXPIRED,
        _ => NO_CAPABILITY,
    })?;
    let (id, rest) = split(path).ok_or(NOT_FOUND)?;
    let verb = if rest.split('?').next() == Some(route::ENVS) { Verb::Prepare } else { Verb::Use };
    if !capability.allows(verb, id) {
        return Err(NOT_ALLOWED);
    }
    let sandbox = sandboxes.get(id).ok_or(NOT_FOUND)?;
    if sandbox.host != Some(host) || sandbox.account != capability.account {
        return Err(NOT_FOUND);
    }
    match sandbox.state {
        State::Starting | State::Running => Ok(Passage { sandbox: id, rest }),
        State::Pausing | State::Paused => Err(PAUSED),
        _ => Err(NOT_RUNNING),
    }
}

/// The sandbox that a path names.
pub fn named(path: &str) -> Option<SandboxId> {
    split(path).map(|(id, _)| id)
}

/// `/<sandbox>/<rest>` as the sandbox and `/<rest>`.
fn split(path: &str) -> Option<(SandboxId, &str)> {
    let path = path.strip_prefix('/')?;
    let (id, rest) = path.split_at(path.find('/')?);
    Some((id.parse().ok()?, rest))
}

#[cfg(test)]
mod tests;
