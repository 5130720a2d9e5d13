//! Reaching nats-server as one role: the options, the first connection, and what to do when there is none.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectErrorKind};
use clap::Args;
use omnirun_events::subject::Log;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{ConnectError, Identity, JetStreamLog, Options, Tls};

use super::nkeys;

/// Where a server listens that was told nothing else.
const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// Pause before a server that is away is tried again at a start.
const AGAIN: Duration = Duration::from_secs(1);

/// Tries between two log lines about a server that is away.
const TRIES_PER_LINE: u32 = 15;

/// How long what was said last may take to reach the server when a role ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Which nats-server, and as whom.
#[derive(Debug, Clone, Args)]
pub struct BusOptions {
    /// Addresses of the nats-servers, with commas between them; roles use nats://127.0.0.1:4222 if none is given
    #[arg(long, env = "OMNIRUN_NATS", value_delimiter = ',', hide_env_values = true, global = true)]
    pub nats: Vec<String>,
    /// File with the seed of the nkey to show (`omnirun ops nkeys` makes them); none for a server without users
    #[arg(long, env = "OMNIRUN_NKEY", global = true)]
    pub nkey: Option<PathBuf>,
    /// PEM file with the certificates to trust; the connection is then always encrypted
    #[arg(long, env = "OMNIRUN_NATS_CA", global = true)]
    pub nats_ca: Option<PathBuf>,
}

impl BusOptions {
    /// How `role` connects, for these logs. Answers arrive below `_INBOX.<role>`, as nats.conf permits.
    pub fn as_role(&self, role: &str, logs: Vec<Log>) -> Result<Options> {
        let mut options = Options::new(DEFAULT_SERVER);
        if !self.nats.is_empty() {
            options.servers.clone_from(&self.nats);
        }
        if let Some(path) = &self.nkey {
            options.identity = Identity::Nkey(nkeys::read_seed(path)?);
        }
        if let Some(path) = &self.nats_ca {
            options.tls = Tls::Roots(path.clone());
        }
        options.name = format!("omnirun {role}");
        options.inbox_prefix = format!("_INBOX.{role}");
        options.logs = logs;
        Ok(options)
    }
}

/// Connects. A server that is away is waited for, since a role may start before it; one that refuses us is an error.
pub async fn reach(options: &Options) -> Result<Client> {
    let mut tries = 0;
    loop {
        match connect(options).await {
            Err(error) if is_away(&error) => {
                if tries % TRIES_PER_LINE == 0 {
                    let reason = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(
                        reason,
                        "nats-server is away; start it, or correct --nats; it is tried again until then"
                    );
                }
                tries += 1;
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer.with_context(advice),
        }
    }
}

/// Connects and checks the logs.
pub async fn open(options: &Options) -> Result<JetStreamLog> {
    Ok(JetStreamLog::open(reach(options).await?, options).await?)
}

/// Whether waiting may help.
pub fn is_away(error: &ConnectError) -> bool {
    let ConnectError::Unreachable { source, .. } = error else { return false };
    matches!(source.kind(), ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns)
}

/// What to look at when a server does not take us.
pub fn advice() -> &'static str {
    "cannot use nats-server; look at --nats, at --nkey (whose public half has to be in the server's environment), and at the server's own log"
}

/// Hands what was said last to the server, for as long as that is sensible.
pub async fn flush(client: &Client) {
    if !matches!(tokio::time::timeout(FLUSH_WITHIN, client.flush()).await, Ok(Ok(()))) {
        tracing::warn!("the connection to nats-server ended before everything was handed over");
    }
}
