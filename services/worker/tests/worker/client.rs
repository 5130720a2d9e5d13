//! A gateway's end of the data path: HTTP/2 over TLS with the certificate pinned.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_agent_api::window;
use omnirun_events::id::SandboxId;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use omnirun_events::unit::Millis;
use omnirun_worker_api::CAPABILITY_HEADER;
use omnirun_worker_api::capability::{Capability, Verb};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use sha2::Digest as _;
use tokio::net::TcpStream;

use crate::bed::{account, now};

#[derive(Debug)]
struct Pinned(Digest, CryptoProvider);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Digest(sha2::Sha256::digest(end_entity).into());
        if found == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to a worker's data path.
pub struct Client(http2::SendRequest<Full<Bytes>>);

impl Client {
    pub async fn connect(address: SocketAddr, certificate: Digest) -> std::io::Result<Self> {
        let pinned = Arc::new(Pinned(certificate, ring::default_provider()));
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("omnirun-worker").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // Room for many short frames that a test leaves unread: see `omnirun_agent_api::window`.
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window::STREAM)
            .initial_connection_window_size(window::SESSION)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        capability: Option<&str>,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Bytes) {
        let answer = self.begin(method, path, capability, body).await;
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a whole answer").to_bytes())
    }

    /// The same, with the answer's body still on its way.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        capability: Option<&str>,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://worker{path}"))
            .header("content-type", "application/json");
        if let Some(capability) = capability {
            request = request.header(CAPABILITY_HEADER, capability);
        }
        let request = request.body(Full::new(body.into())).expect("a good request");
        self.0.clone().send_request(request).await.expect("the worker answers")
    }
}

pub fn capability(gateway: &Signer, sandbox: SandboxId, verb: Verb) -> String {
    let expires_at = now().after(Millis(20_000));
    Capability { sandbox, account: account(), verbs: vec![verb], expires_at }.sign(gateway)
}
