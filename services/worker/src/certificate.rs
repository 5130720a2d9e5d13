//! The data path's certificate: made anew at each start, kept in memory alone, and known to gateways by its fingerprint on the log.

use std::sync::Arc;

use omnirun_events::keys::Digest;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Digest as _;
use tokio_rustls::TlsAcceptor;

/// The name in the certificate. Nobody checks it: gateways accept exactly the certificate whose fingerprint the log has.
const NAME: &str = "omnirun-worker";

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The key or its signature.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// The TLS library does not take it.
    #[error("cannot serve the certificate")]
    Serve(#[source] rustls::Error),
}

/// A certificate in use.
pub struct Certificate {
    /// SHA-256 of its DER encoding.
    pub fingerprint: Digest,
    /// Serves TLS with it, HTTP/2 only.
    pub acceptor: TlsAcceptor,
}

impl Certificate {
    /// A new key and a certificate that it signs itself.
    pub fn generate() -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(CertificateError::Make)?;
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let fingerprint = Digest(sha2::Sha256::digest(&certificate).into());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(CertificateError::Serve)?
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .map_err(CertificateError::Serve)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { fingerprint, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
