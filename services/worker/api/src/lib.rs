//! The data path from gateway to worker: HTTP/2 over TLS, the worker's certificate pinned by its HostJoined event.
//!
//! A request is `/<sandbox>/<path of the agent's API>` with a [`capability`] in the header [`CAPABILITY_HEADER`]. Nothing that goes this way
//! is logged or stored.

pub mod capability;

/// The header that carries the capability, in base64url without padding.
pub const CAPABILITY_HEADER: &str = "omnirun-capability";
