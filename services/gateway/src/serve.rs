//! Connections: accepted up to a limit, served in HTTP/1.1 or HTTP/2, and let go when their client is slow or gone.

mod stalled;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::config::Config;
use crate::gateway::{Gateway, duration};
use crate::head;
use stalled::Stalled;

/// Headers of one request that are read at all, in number and bytes: twice what is allowed, so that most refusals are ours.
const HEADERS_READ: usize = 2 * head::HEADERS_MAX;
const HEADER_BYTES_READ: u32 = 2 * head::HEADER_BYTES_MAX as u32;

/// Bytes of an HTTP/1.1 connection that are read ahead, and so the largest head.
const BUFFER_BYTES: usize = 2 * (head::HEADER_BYTES_MAX + head::URL_BYTES_MAX);

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long requests may take to end once the gateway is being stopped.
const DRAIN: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, which is a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The client's address, as an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

impl Gateway {
    /// Serves until `stop` is done; then takes no more requests, and lets those that run end within ten seconds.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let config = Arc::new(self.app.config.clone());
        let router = self.router();
        let places = Arc::new(Semaphore::new(config.limits.connections as usize));
        let (stopping, _) = watch::channel(());
        let mut connections = JoinSet::new();
        // Ends when it is dropped.
        let mut watching = JoinSet::new();
        watching.spawn({
            let app = self.app.clone();
            async move { app.watch_log().await }
        });
        watching.spawn({
            let app = self.app.clone();
            async move { app.data_path.let_go_unused().await }
        });
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let Some((tcp, peer, place)) = accepted else { continue };
            let serving = connection(tcp, peer, router.clone(), config.clone(), stopping.subscribe());
            connections.spawn(async move {
                serving.await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        stopping.send_replace(());
        let all = async { while connections.join_next().await.is_some() {} };
        // What is still running after that is cut off when the set is dropped.
        let _ = tokio::time::timeout(DRAIN, all).await;
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((tcp, peer)) => Some((tcp, peer, place)),
        Err(_) => {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

async fn connection(
    tcp: TcpStream,
    peer: SocketAddr,
    router: Router,
    config: Arc<Config>,
    mut stopping: watch::Receiver<()>,
) {
    // Without it answers are slower, and that is all.
    let _ = tcp.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request)
    });
    let builder = builder(&config);
    let io = TokioIo::new(Stalled::new(tcp, duration(config.times.head), duration(config.times.stalled)));
    let serving = builder.serve_connection(io, service);
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stopping.changed() => serving.as_mut().graceful_shutdown(),
    }
    // How a connection ends is its client's business.
    let _ = serving.await;
}

fn builder(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(duration(config.times.head))
        .max_headers(HEADERS_READ)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.limits.streams)
        .max_header_list_size(HEADER_BYTES_READ)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    builder
}
