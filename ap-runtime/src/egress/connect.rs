//! A TCP connection to a checked address.

use std::{net::SocketAddr, time::Duration};

use ap_core::capability::ExchangeError;
use tokio::net::TcpStream;

use super::{
    guard::{Guard, Refusal, ResolveError},
    server::refuse,
};

impl Guard {
    /// Connects to `host`, at an address that the policy allows. Without TLS, to one in a network where the host lets
    /// credentials travel unencrypted.
    pub(super) async fn connect(&self, host: &str, port: u16, encrypted: bool) -> Result<TcpStream, ExchangeError> {
        let addresses = self.resolve(host, port).await.map_err(|error| match error {
            ResolveError::Refused(refusal) => refused(refusal),
            failed => ExchangeError::Unreachable { reason: failed.to_string() },
        })?;
        let plain = |address: &SocketAddr| self.policy().allows_plain_credentials(address.ip());
        if !encrypted && !addresses.iter().all(plain) {
            return Err(refuse(
                "the connection asks for no encryption: use TLS, or let the host allow plain credentials for the peer's \
                 network",
            ));
        }
        let mut reason = "the connection was not made in time";
        for address in addresses {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small messages go back and forth.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    reason = "the connection was refused";
                }
                Ok(Err(_)) => reason = "the connection could not be made",
                Err(_) => {}
            }
        }
        Err(ExchangeError::Unreachable { reason: reason.to_owned() })
    }
}

fn refused(refusal: Refusal) -> ExchangeError {
    match refusal {
        Refusal::Url { reason } => {
            ExchangeError::InvalidRequest { reason: format!("the host is not usable: {reason}") }
        }
        other => ExchangeError::Refused { reason: other.to_string() },
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
