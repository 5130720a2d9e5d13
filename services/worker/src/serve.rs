//! The data path: HTTP/2 over TLS from gateways, relayed to the guests. Nothing that passes here is looked at, logged or stored.
//!
//! Who may pass is in [`guard`].

mod guard;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_events::id::SandboxId;
use omnirun_projections::sandboxes::State;
use omnirun_vmm_api::owner::AGENT;
use omnirun_worker_api::CAPABILITY_HEADER;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::context::Context;
use crate::guests::{Guest, Life};
use crate::owner::{Body, Owner};
use guard::{Passage, Refused};

/// Requests that one gateway connection may have open.
const STREAMS_MAX: u32 = 1024;
/// Bytes on the way to one guest's request, and of a connection in all. Half of the latter is the budget for short pieces of uploads that a
/// guest has not taken yet; a connection on which it is spent ends (see [`omnirun_agent_api::window`]).
const STREAM_WINDOW: u32 = 128 * 1024;
const SESSION_WINDOW: u32 = 32 * 1024 * 1024;
/// Bytes of one request's headers, at most.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a request may wait until its sandbox, which was just resumed, runs: the log's way to this host and a word to the owner process.
const RESUME_WAIT_MAX: Duration = Duration::from_secs(5);
/// Time before accepting again after the system had no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Time between two pings of a silent gateway, and how long it may take to answer, so that a vanished one frees what it held.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT_MAX: Duration = Duration::from_secs(20);

/// Serves the data path for ever. Dropping it ends every connection.
pub async fn run(context: Context, listener: TcpListener, acceptor: TlsAcceptor) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(session(context.clone(), stream, acceptor.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The address that was listened on.
pub async fn listen(at: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(at).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn session(context: Context, stream: TcpStream, acceptor: TlsAcceptor) {
    // Small answers must not wait for more; without it they are a little later.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_WAIT_MAX, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else {
        metrics::counter!("omnirun_worker_handshakes_refused_total").increment(1);
        return;
    };
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(&context, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A gateway that goes away is no error of this host.
    let _ = served.await;
}

async fn answer(context: &Context, request: Request<Incoming>) -> Response<Body> {
    let answer = match relay(context, request).await {
        Ok(answer) => answer,
        Err(refused) => refusal(refused),
    };
    metrics::counter!("omnirun_worker_relayed_total", "status" => answer.status().as_u16().to_string())
        .increment(1);
    answer
}

/// Relays a request and its answer, both bodies as streams. When the gateway resets or goes away, the request to the guest is dropped, which
/// the guest sees.
async fn relay(context: &Context, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let capability = parts.headers.get(CAPABILITY_HEADER).map(|value| value.as_bytes());
    let Passage { sandbox, rest } = admit(context, path, capability).await?;
    let owner = running(context, sandbox).await?;
    let mut inner = Request::new(body.boxed_unsync());
    *inner.method_mut() = parts.method;
    *inner.uri_mut() = format!("http://owner{AGENT}{rest}").parse().map_err(|_| guard::NOT_FOUND)?;
    *inner.headers_mut() = passing(parts.headers);
    let (method, asked) = (inner.method().as_str().to_owned(), Instant::now());
    let answer = owner.send(inner).await.map_err(|_| guard::GUEST_GONE)?;
    metrics::histogram!("omnirun_worker_guest_seconds", "method" => method)
        .record(asked.elapsed().as_secs_f64());
    let (head, body) = answer.into_parts();
    let mut relayed = Response::new(body.boxed_unsync());
    *relayed.status_mut() = head.status;
    *relayed.headers_mut() = head.headers;
    Ok(relayed)
}

/// Who may pass now. A gateway lets nobody through to a sandbox that it knows to be paused, so it knows of a resumption that this host has not
/// read yet: that is waited for.
async fn admit<'a>(
    context: &Context,
    path: &'a str,
    capability: Option<&[u8]>,
) -> Result<Passage<'a>, Refused> {
    let check = || {
        context.directory.view(|directory, verifier| {
            let (host, now) = (context.host, context.now());
            guard::check(path, capability, &directory.sandboxes, verifier.ring(), host, now)
        })
    };
    let found = check();
    let Some(id) = guard::named(path).filter(|_| found == Err(guard::PAUSED)) else { return found };
    let is_paused = |state| matches!(state, State::Pausing | State::Paused);
    let resumed = context.directory.until(RESUME_WAIT_MAX, |directory| {
        let sandbox = directory.sandboxes.get(id)?;
        (!is_paused(sandbox.state)).then_some(())
    });
    resumed.await.map_err(|_| guard::PAUSED)?;
    check()
}

/// The owner process of a sandbox's guest, once the guest runs: one that was resumed does so in a moment.
async fn running(context: &Context, sandbox: SandboxId) -> Result<Owner, Refused> {
    let found = context.guests.until(RESUME_WAIT_MAX, |guests| match guests.of(sandbox) {
        Some((_, Guest { life: Life::Paused(_), .. })) => None,
        Some((_, guest)) => Some(guest.owner.ok_or(guard::NOT_RUNNING)),
        None => Some(Err(guard::NOT_RUNNING)),
    });
    found.await.unwrap_or(Err(guard::PAUSED))
}

/// The headers without the capability, which is nobody's business behind this point. The owner process drops what a guest needs not see.
fn passing(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(CAPABILITY_HEADER);
    headers.remove(header::HOST);
    headers
}

fn refusal(refused: Refused) -> Response<Body> {
    let Refused { status, code, message } = refused;
    let text = format!(r#"{{"code":"{code}","message":"{message}"}}"#);
    let mut answer =
        Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
