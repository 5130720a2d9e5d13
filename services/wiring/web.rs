//! Where the HTTP API is, and how requests from outside reach it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::net::TcpListener;

/// Where the HTTP API is
#[derive(Debug, Args)]
pub struct WebOptions {
    /// Where the HTTP API listens; port 0 takes any free one. TLS belongs in front of it
    #[arg(long, env = "OMNIRUN_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Scheme, host and port that browsers see, such as https://omnirun.example
    #[arg(long, env = "OMNIRUN_ORIGIN")]
    pub origin: Option<String>,
    /// Proxies of ours that requests from outside pass; each appends the address that it saw to X-Forwarded-For
    #[arg(long, env = "OMNIRUN_PROXIES", value_name = "COUNT", default_value_t = 0)]
    pub proxies: u8,
}

impl WebOptions {
    /// Takes the address.
    pub async fn bind(&self) -> Result<TcpListener> {
        let listener = TcpListener::bind(self.listen).await;
        listener.with_context(|| format!("cannot listen on {}; choose another --listen", self.listen))
    }
}
