//! TLS for protocols that are not HTTP, on a connection that is already made: the address was checked, the name is proved.

use std::{fmt, sync::Arc};

use ap_core::capability::ExchangeError;
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::trust::TrustRoots;

/// Makes TLS connections: TLS 1.2 or newer, the certificate must be the server's by name and signed by a trusted authority.
#[derive(Clone)]
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
}

/// TLS could not be set up: a certificate that is none, or no trust roots on this machine.
#[derive(Debug, thiserror::Error)]
#[error("TLS could not be set up: {reason}")]
pub struct TlsSetupError {
    reason: String,
}

impl TlsClient {
    pub(super) fn new(roots: &TrustRoots) -> Result<Self, TlsSetupError> {
        let mut extra = Vec::new();
        for pem in roots.pem() {
            let before = extra.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                extra.push(certificate.map_err(|error| TlsSetupError { reason: error.to_string() })?);
            }
            if extra.len() == before {
                return Err(TlsSetupError { reason: "a trust root holds no certificate in PEM".to_owned() });
            }
        }
        // By name, not the process's default: a host may have another one.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let failed = |error: rustls::Error| TlsSetupError { reason: error.to_string() };
        let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider)).map_err(failed)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// Speaks TLS on `stream` with whoever proves to be `host`.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, ExchangeError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| ExchangeError::InvalidRequest {
            reason: "the host is no name that a certificate is for".to_owned(),
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await.map_err(|_| ExchangeError::Unreachable {
            reason: "the TLS handshake failed: the server must offer TLS 1.2 or newer, with a certificate for its name by an \
                     authority that this host trusts"
                .to_owned(),
        })
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}
