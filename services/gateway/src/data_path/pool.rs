//! One HTTP/2 connection per worker, made when it is first needed and again when it broke or the worker announced itself anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_events::id::HostId;
use omnirun_events::keys::Digest;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{GuestBody, Target, pin};
use crate::error::ApiError;

/// Time between two pings on a connection, and how long one may go unanswered: a worker whose host vanished is noticed by then.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Bytes on the way for one request: a slow one holds no more than this of the gateway's memory.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes on the way for all requests of a connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

type Sender = SendRequest<GuestBody>;

/// A connection and what it was made to.
struct Connection {
    address: String,
    certificate: Digest,
    sender: Sender,
}

/// Where one worker's connection is kept. Held while it is made, so that many requests make one.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

/// Connections to workers.
pub(crate) struct Pool {
    slots: Mutex<HashMap<HostId, Slot>>,
    connect_within: Duration,
}

pub(super) const fn unreachable() -> ApiError {
    ApiError::unavailable("host_unreachable", "The host of the sandbox cannot be reached now.")
}

impl Pool {
    pub fn new(connect_within: Duration) -> Self {
        Self { slots: Mutex::default(), connect_within }
    }

    /// A sender on a connection to the target's worker that is open now.
    pub async fn sender(&self, target: &Target) -> Result<Sender, ApiError> {
        let slot =
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(target.host).or_default().clone();
        let mut kept = slot.lock().await;
        if let Some(connection) = kept.as_ref()
            && connection.address == target.address
            && connection.certificate == target.certificate
            && !connection.sender.is_closed()
        {
            let mut sender = connection.sender.clone();
            let ready = tokio::time::timeout(self.connect_within, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Ok(sender);
            }
        }
        *kept = None;
        let connecting = tokio::time::timeout(self.connect_within, connect(target)).await;
        let sender = connecting.ok().flatten().ok_or_else(|| {
            tracing::warn!(host = %target.host, "a worker cannot be reached");
            unreachable()
        })?;
        let Target { address, certificate, .. } = target;
        *kept =
            Some(Connection { address: address.clone(), certificate: *certificate, sender: sender.clone() });
        Ok(sender)
    }
}

async fn connect(target: &Target) -> Option<Sender> {
    let tcp = TcpStream::connect(&target.address).await.ok()?;
    tcp.set_nodelay(true).ok()?;
    let config = pin::client(target.certificate).ok()?;
    // The name is not looked at: the certificate is pinned.
    let name = ServerName::try_from("worker.invalid").ok()?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .handshake(TokioIo::new(tls))
        .await
        .ok()?;
    tokio::spawn(async move {
        // Its requests learn of its end by themselves.
        let _ = connection.await;
    });
    Some(sender)
}
