//! What an operator sets. Every field has a default that is safe on a machine of one's own.

use std::net::SocketAddr;

use omnirun_events::unit::{Bytes, Seconds};
use serde::{Deserialize, Serialize};

/// The gateway's section of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens. TLS ends before it, on the same host or a trusted network.
    pub listen: SocketAddr,
    /// The name of this node in `/status`.
    pub node_id: String,
    /// Scheme, host and port that browsers see, such as `https://omnirun.example`. Without it, `Origin` is compared with `Host`.
    pub origin: Option<String>,
    /// Proxies of ours that a request from outside passes, each of which appends to `X-Forwarded-For` the address that it saw.
    pub proxies: u8,
    /// The template of a request that names none.
    pub default_template: String,
    /// Who may read `/metrics`.
    pub metrics: Audience,
    /// How large things may be.
    pub limits: Limits,
    /// How long things may take.
    pub times: Times,
}

/// Who may read something that needs no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Programs on this machine that came without a proxy.
    Loopback,
    /// Whoever reaches the gateway.
    Everyone,
}

/// How large things may be. A body is cut off while it comes in, at its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A control request.
    pub control: Bytes,
    /// Code, or a command with its environment.
    pub code: Bytes,
    /// Text for a file, or a batch of them. The agent takes no more than 24 MiB.
    pub file: Bytes,
    /// An upload; only what passes at once is in memory.
    pub upload: Bytes,
    /// An answer of a guest that is JSON. Streams and downloads have no limit.
    pub answer: Bytes,
    /// Connections at once; more wait in the listener's queue.
    pub connections: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Times {
    /// A request's head, from the connection's first byte.
    pub head: Seconds,
    /// The whole body of a request that is not an upload, and each piece of one.
    pub body: Seconds,
    /// How long a client may take none of an answer that is ready.
    pub stalled: Seconds,
    /// A command's way to the commands service and back.
    pub command: Seconds,
    /// Until the read model must have reached a command's position.
    pub read_your_writes: Seconds,
    /// A new connection to a worker.
    pub connect: Seconds,
    /// Until a guest begins its answer, beyond the time limit that the request itself set.
    pub guest: Seconds,
    /// How often the credential of a running stream is looked at again.
    pub recheck: Seconds,
    /// How long a browser's session may go unused until it has ended.
    pub session_idle: Seconds,
    /// How long credentials are answered from what was known when the log was last seen; then all are refused until it is seen again.
    pub without_log: Seconds,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            node_id: "gateway".to_owned(),
            origin: None,
            proxies: 0,
            default_template: "python-3.11".to_owned(),
            metrics: Audience::Loopback,
            limits: Limits::default(),
            times: Times::default(),
        }
    }
}

/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            control: Bytes(MIB / 4),
            code: Bytes(9 * MIB),
            file: Bytes(24 * MIB),
            upload: Bytes(1024 * MIB),
            answer: Bytes(256 * MIB),
            connections: 4096,
            streams: 100,
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: Seconds(10),
            body: Seconds(30),
            stalled: Seconds(60),
            command: Seconds(10),
            read_your_writes: Seconds(2),
            connect: Seconds(5),
            guest: Seconds(30),
            recheck: Seconds(10),
            session_idle: Seconds(24 * 3600),
            without_log: Seconds(60),
        }
    }
}
