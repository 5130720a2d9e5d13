//! HTTP/2 connections to workers: one for each account on each host, made when it is first needed and again when it broke or the worker
//! announced itself anew.
//!
//! No two accounts share one. A connection has one budget for answers that nobody has read yet, and ends when it is spent: whoever reads
//! slowly takes from themselves alone. There are no more of them than accounts with a running sandbox on a host, and those that are not used
//! are let go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_events::id::{AccountId, HostId};
use omnirun_events::keys::Digest;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{GuestBody, Target, pin};
use crate::error::ApiError;

/// Time between two pings on a connection, and how long one may go unanswered: a worker whose host vanished is noticed by then.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Bytes on the way for one request: a slow one holds no more than this of the gateway's memory.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes on the way for all requests of a connection. h2 takes half of it as the budget for short frames that nobody has read, each of which
/// costs what it is shorter than 256 bytes (h2 0.4.20, `Counts::record_data_frame`): this is enough for some 48 streams that are full of the
/// shortest lines that a guest's agent writes, 70 bytes.
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// Time between two looks for connections that were not used since the last one.
const LOOK_EVERY: Duration = Duration::from_secs(60);

type Sender = SendRequest<GuestBody>;

/// A connection and what it was made to.
struct Connection {
    address: String,
    certificate: Digest,
    sender: Sender,
}

/// Where the connection of one account to one worker is kept.
#[derive(Default)]
struct Slot {
    /// Held while it is made, so that many requests make one.
    kept: tokio::sync::Mutex<Option<Connection>>,
    /// Whether anybody has asked for it since the last look.
    is_used: AtomicBool,
}

/// Connections to workers.
pub(crate) struct Pool {
    slots: Mutex<HashMap<(HostId, AccountId), Arc<Slot>>>,
    connect_within: Duration,
}

pub(super) const fn unreachable() -> ApiError {
    ApiError::unavailable("host_unreachable", "The host of the sandbox cannot be reached now.")
}

impl Pool {
    pub fn new(connect_within: Duration) -> Self {
        Self { slots: Mutex::default(), connect_within }
    }

    fn slot(&self, host: HostId, account: AccountId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry((host, account)).or_default();
        slot.is_used.store(true, Ordering::Relaxed);
        slot.clone()
    }

    /// Lets those go that nobody has asked for since the last look. What is on its way on one still comes to its end.
    fn let_go(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| slot.is_used.swap(false, Ordering::Relaxed));
    }

    /// Lets unused connections go, for ever.
    pub async fn let_go_unused(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.let_go();
        }
    }

    /// A sender on the account's connection to the target's worker, which is open now.
    pub async fn sender(&self, target: &Target) -> Result<Sender, ApiError> {
        let slot = self.slot(target.host, target.account);
        let mut kept = slot.kept.lock().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_kept_as_long_as_it_is_asked_for_between_two_looks() {
        let pool = Pool::new(Duration::ZERO);
        let (host, account) = (HostId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
        let kept = Arc::downgrade(&pool.slot(host, account));
        pool.let_go();
        pool.slot(host, account);
        pool.let_go();
        assert!(kept.upgrade().is_some(), "it was asked for");
        pool.let_go();
        assert!(kept.upgrade().is_none(), "nobody has");
    }
}
