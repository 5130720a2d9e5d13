//! A worker: HTTP/2 over TLS, checks capabilities, and answers for the guest by a few fixed rules.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::unit::Timestamp;
use omnirun_worker_api::CAPABILITY_HEADER;
use omnirun_worker_api::capability::{Capability, Verb};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// A request that reached the guest.
#[derive(Debug, Clone)]
pub struct Seen {
    pub verb: Verb,
    pub path: String,
    pub body: Result<Bytes, ()>,
}

pub struct Worker {
    pub address: SocketAddr,
    pub certificate: Digest,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    /// Pieces of the stream that `/commands/7/stream` answers with. Its other end tells when the gateway let go.
    pub pieces: Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Worker {
    pub async fn start(ring: KeyRing) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["worker".to_owned()]).expect("a certificate");
        let certificate = Digest(sha2::Sha256::digest(made.cert.der()).into());
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a good key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (seen, pieces) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let state = (Arc::new(ring), seen.clone(), pieces.clone());
        let connections = Arc::<AtomicUsize>::default();
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), state, connections.clone()));
        Self { address, certificate, seen, connections, pieces }
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

type State = (Arc<KeyRing>, Arc<Mutex<Vec<Seen>>>, Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>);

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: State, connections: Arc<AtomicUsize>) {
    while let Ok((tcp, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(request, state).await) }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = serving.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, (ring, seen, pieces): State) -> Response<Body> {
    let (head, body) = request.into_parts();
    let text = head.headers[CAPABILITY_HEADER].to_str().expect("base64").to_owned();
    let full = head.uri.path_and_query().expect("a path").as_str().to_owned();
    let (sandbox, path) = full[1..].split_once('/').expect("a sandbox and a path");
    let Ok(capability) = Capability::verify(&text, &ring, now()) else { return refusal(403, "capability") };
    let verb = capability.verbs[0];
    if !capability.allows(verb, sandbox.parse().expect("an id")) {
        return refusal(403, "capability");
    }
    let body = body.collect().await.map(|all| all.to_bytes()).map_err(|_| ());
    let path = format!("/{path}");
    let record = Seen { verb, path: path.clone(), body: body.clone() };
    seen.lock().expect("no panic").push(record);
    let size = body.map_or(0, |body| body.len());
    match (head.method.as_str(), path.split('?').next().expect("a path")) {
        ("POST", "/envs") | ("DELETE", _) => with_status(204, ""),
        ("POST", "/commands" | "/code") => with_status(200, r#"{"stdout":"out","stderr":"","exit_code":0}"#),
        ("GET", "/commands/7/stream") => {
            let pieces = pieces.lock().expect("no panic").take().expect("the test put pieces there");
            let frames = stream::unfold(pieces, async |mut pieces| {
                let piece = pieces.recv().await?;
                Some((Ok(Frame::data(piece)), pieces))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        ("GET", "/commands/8") => refusal(404, "not_found"),
        ("GET", "/commands/9") => refusal(404, "A LIE\nof the guest"),
        ("PUT", "/files/upload") => {
            with_status(200, &format!(r#"{{"name":"f","path":"/f","is_dir":false,"size":{size}}}"#))
        }
        ("GET", "/files/download") => with_status(200, "the bytes"),
        _ => with_status(200, "[]"),
    }
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    with_status(status, &serde_json::json!({"code": code, "message": "no"}).to_string())
}

fn with_status(status: u16, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status.try_into().expect("a status");
    response.headers_mut().insert("set-cookie", "omnirun_token=planted".parse().expect("a header"));
    response
}

pub fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(elapsed.as_millis() as u64)
}
