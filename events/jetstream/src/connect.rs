//! Connecting: who we are, whether the server can be trusted, whether its streams are the ones we want.
//!
//! Nothing is created here. With a wrong encryption key a server says that its streams do not exist, and whoever then creates one
//! deletes the data (measured on 2.12 to 2.15); so only an operator creates streams, with [`apply_streams`](crate::apply_streams).
//! The exception is AUTH, which is in memory: a server on its own forgets it at every restart, and nothing can be lost by making it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use futures_util::future::try_join_all;
use omnirun_events::{Log, Millis};

use crate::committer::Committer;
use crate::error::Source;
use crate::server::{Patience, Server};
use crate::streams::{Difference, differences, wanted};
use crate::version::{self, TooOld};
use crate::{JetStreamLog, Replicas};

/// Longest wait between two tries to reach a server that is away.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Who connects. The text of a key never shows in `Debug`.
#[derive(Clone, Default)]
pub enum Identity {
    /// Nobody: for a server without users.
    #[default]
    None,
    /// The seed of an nkey (`SU…`), as `nsc` or `nk` makes it.
    Nkey(String),
    /// A credentials file with a JWT and a seed.
    Credentials(PathBuf),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Nkey(_) => f.write_str("Nkey(redacted)"),
            Self::Credentials(path) => f.debug_tuple("Credentials").field(path).finish(),
        }
    }
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// As the address says: `tls://` is encrypted, `nats://` when the server asks for it; trust is the system's.
    #[default]
    ByAddress,
    /// Always, trusting the certificates in this PEM file and no plaintext server.
    Roots(PathBuf),
}

/// How to reach the log and how patient to be with it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses of the servers, such as `nats://127.0.0.1:4222`; any that answers will do.
    pub servers: Vec<String>,
    /// Who connects.
    pub identity: Identity,
    /// How it is encrypted.
    pub tls: Tls,
    /// What the server's monitoring calls the connection.
    pub name: String,
    /// First token of the subjects that answers arrive on, so that permissions can tell users' answers apart; `_INBOX` by default.
    pub inbox_prefix: String,
    /// The logs that will be used. Each must exist as we want it.
    pub logs: Vec<Log>,
    /// Patience for one answer of the server; 5 s by default.
    pub answer_within: Millis,
    /// Patience for the outcome of an append, tries included; 15 s by default.
    pub settle_within: Millis,
    /// How long a member of a queue may hold a record in silence; 30 s by default. Fixed by the first to join a group.
    pub acknowledge_within: Millis,
}

impl Options {
    /// Every log on the server at `address`, with the defaults.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            servers: vec![address.into()],
            identity: Identity::None,
            tls: Tls::ByAddress,
            name: "omnirun".to_owned(),
            inbox_prefix: "_INBOX".to_owned(),
            logs: Log::kept().chain([Log::Auth]).collect(),
            answer_within: Millis(5_000),
            settle_within: Millis(15_000),
            acknowledge_within: Millis(30_000),
        }
    }
}

/// Why there is no log to work with.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server address that cannot be read.
    #[error("{address} is no address of a server")]
    Address {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The credentials file cannot be read.
    #[error("cannot read the credentials file {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No server takes the connection.
    #[error("cannot connect to nats-server at {servers}")]
    Unreachable {
        /// The addresses that were tried.
        servers: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The server is too old.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    /// A stream does not exist.
    #[error(
        "the stream {log} does not exist; on a new server run omnirun ops streams apply; on one that had it, look for a wrong \
         encryption key or store directory first, since creating the stream deletes what is there"
    )]
    Missing {
        /// The log.
        log: Log,
    },
    /// A stream exists but is not as we need it.
    #[error("the stream {log} is not as wanted: {}; run omnirun ops streams apply", list(differences))]
    Differs {
        /// The log.
        log: Log,
        /// In what.
        differences: Vec<Difference>,
    },
    /// The server does not tell about a stream, which is also how missing permissions look.
    #[error("cannot look at the stream {log}; if it was a time-out, the user may lack the permission")]
    Look {
        /// The log.
        log: Log,
        /// Why.
        #[source]
        source: Source,
    },
}

/// Differences as one line.
pub(crate) fn list(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Connects and checks the server's version; looks at no stream. For everything on the bus that is not the log.
pub async fn connect(options: &Options) -> Result<Client, ConnectError> {
    let servers = options.servers.iter().map(|address| {
        let parsed = address.parse::<ServerAddr>();
        parsed.map_err(|source| ConnectError::Address { address: address.clone(), source })
    });
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    let client = with_identity(basics(options), &options.identity).await?;
    let client = client.connect(servers).await.map_err(|source| {
        // An address may carry a password; the parsed form without it is what may be shown.
        let shown: Vec<_> = options.servers.iter().map(|address| without_password(address)).collect();
        ConnectError::Unreachable { servers: shown.join(", "), source }
    })?;
    version::check(&client.server_info().version)?;
    Ok(client)
}

fn without_password(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}

fn basics(options: &Options) -> ConnectOptions {
    let connection = ConnectOptions::new()
        .name(&options.name)
        .custom_inbox_prefix(&options.inbox_prefix)
        .request_timeout(Some(duration(options.answer_within)))
        .connection_timeout(duration(options.answer_within))
        .reconnect_delay_callback(|tries| {
            RECONNECT_MAX.min(Duration::from_millis(50).saturating_mul(tries as u32))
        })
        .event_callback(|event| async move { report(&event) });
    match &options.tls {
        Tls::ByAddress => connection,
        Tls::Roots(path) => connection.add_root_certificates(path.clone()).require_tls(true),
    }
}

async fn with_identity(options: ConnectOptions, identity: &Identity) -> Result<ConnectOptions, ConnectError> {
    match identity {
        Identity::None => Ok(options),
        Identity::Nkey(seed) => Ok(options.nkey(seed.clone())),
        Identity::Credentials(path) => {
            let with_file = options.credentials_file(path).await;
            with_file.map_err(|source| ConnectError::Credentials { path: path.clone(), source })
        }
    }
}

/// A refused publish shows to its caller as a time-out only; the reason arrives here.
fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to the event log's server"),
        Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(event = %event, "the event log's server complains; a missing permission looks like a time-out elsewhere");
        }
        _ => tracing::warn!(event = %event, "the connection to the event log's server changed"),
    }
}

pub(crate) fn duration(time: Millis) -> Duration {
    Duration::from_millis(time.0)
}

impl JetStreamLog {
    /// Connects, checks the server's version, and that every wanted stream exists as wanted. Creates
    /// nothing but AUTH.
    pub async fn connect(options: &Options) -> Result<Self, ConnectError> {
        Self::open(connect(options).await?, options).await
    }

    /// The logs behind a connection that [`connect`] made; it may be shared with other users of the bus.
    pub async fn open(client: Client, options: &Options) -> Result<Self, ConnectError> {
        let patience = Patience {
            answer: duration(options.answer_within),
            outcome: duration(options.settle_within),
            acknowledgement: duration(options.acknowledge_within),
        };
        let context =
            ContextBuilder::new().timeout(patience.answer).backpressure_on_inflight(true).build(client);
        let (memory, kept): (Vec<Log>, Vec<Log>) = options.logs.iter().partition(|log| **log == Log::Auth);
        let replicas = try_join_all(kept.iter().map(|log| check_stream(&context, *log))).await?;
        let replicas = replicas.into_iter().max_by_key(|replicas| replicas.0).unwrap_or(Replicas(1));
        let server = Server { context, patience, replicas };
        for log in memory {
            check_auth(&server, log).await?;
        }
        let committers: HashMap<_, _> =
            options.logs.iter().map(|log| (*log, Committer::start(server.clone(), *log))).collect();
        Ok(Self { server, committers: Arc::new(committers) })
    }

    /// The connection, for other uses of the bus.
    pub fn client(&self) -> Client {
        self.server.context.client()
    }
}

/// AUTH is in memory and gone after a restart of the server; then it is made anew.
async fn check_auth(server: &Server, log: Log) -> Result<(), ConnectError> {
    match check_stream(&server.context, log).await {
        Err(ConnectError::Missing { .. }) => {
            server.make_auth().await.map_err(|source| ConnectError::Look { log, source })
        }
        checked => checked.map(|_| ()),
    }
}

/// Whether the stream of `log` is as wanted, by what the server says it keeps. Answers how many copies of it there are, which
/// is the operator's choice.
async fn check_stream(context: &Context, log: Log) -> Result<Replicas, ConnectError> {
    let stream = context.get_stream(log.to_string()).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            ConnectError::Missing { log }
        }
        _ => ConnectError::Look { log, source: error.into() },
    })?;
    let found = &stream.cached_info().config;
    let replicas = Replicas(found.num_replicas);
    let differences = differences(&wanted(log, replicas), found);
    if differences.is_empty() { Ok(replicas) } else { Err(ConnectError::Differs { log, differences }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_of_a_key_does_not_show() {
        let mut options = Options::new("nats://127.0.0.1:4222");
        options.identity = Identity::Nkey("SUAMARKER".to_owned());
        assert!(!format!("{options:?}").contains("MARKER"));
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_password("nats://user:secret@host:4222"), "host:4222");
        assert_eq!(without_password("nats://host:4222"), "nats://host:4222");
    }
}
