//! Root keys, and secrets that connections refer to, from services: [`vault`] (feature `vault`), [`aws`] (feature `aws`).
//!
//! Small clients for the few calls it takes, and nothing of the services' own kits. They are asked for the root key when a runtime
//! is built, and for secrets when steps need them. The
//! addresses are the operator's, so the guard for flows' requests does not judge them; what holds is TLS, verified, unless the
//! service is on this machine.
//!
//! For a service that is not here, implement [`KeyProvider`](ap_crypto::provider::KeyProvider): one method, which gives the key;
//! or [`SecretResolver`](crate::secret::SecretResolver) for secrets.
//!
//! # Examples
//! ```
//! use ap_crypto::{error::KeyError, key::RootKey, provider::KeyProvider};
//!
//! /// Asks a service by the client that the host has for it anyway.
//! #[derive(Debug)]
//! struct CloudKey { name: String }
//!
//! #[async_trait::async_trait]
//! impl KeyProvider for CloudKey {
//!     async fn root_key(&self) -> Result<RootKey, KeyError> {
//!         // Google: `POST https://cloudkms.googleapis.com/v1/<key>:decrypt`, `{"ciphertext": …}` → `plaintext`, base64.
//!         // Azure: `POST https://<vault>.vault.azure.net/keys/<name>/<version>/unwrapkey` → `value`, base64url.
//!         let answer = access(&self.name).await.map_err(|error| KeyError::Provider(error.into()))?;
//!         RootKey::from_text(answer.as_bytes(), "the key service")
//!     }
//! }
//! # async fn access(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
//! ```

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "vault")]
pub mod vault;

mod answer;

use std::{fmt, time::Duration};

use ap_crypto::error::KeyError;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::secret::SecretError;

/// Why a key service did not give a key. Names the service and what is to be done; never what was sent or answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyServiceError {
    /// The address cannot be one.
    #[error(
        "the address of {service} must be an `https` URL without user information, query and fragment; plain `http` is for this machine only"
    )]
    Address {
        /// Which service.
        service: &'static str,
    },
    /// What it takes to be let in is missing or no text.
    #[error("{service} cannot be asked: {what} is missing or malformed")]
    Credentials {
        /// Which service.
        service: &'static str,
        /// What is missing.
        what: String,
    },
    /// It said no, or has nothing there.
    #[error("{service} answered {status}: {hint}")]
    Refused {
        /// Which service.
        service: &'static str,
        /// What it said.
        status: StatusCode,
        /// What that usually means.
        hint: &'static str,
    },
    /// It answered something else than it should.
    #[error("{service} answered without {what}")]
    Malformed {
        /// Which service.
        service: &'static str,
        /// What was looked for.
        what: String,
    },
    /// It could not be reached, or took too long.
    #[error("{service} cannot be reached")]
    Unreachable {
        /// Which service.
        service: &'static str,
        /// What happened, without the address.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<KeyServiceError> for KeyError {
    fn from(error: KeyServiceError) -> Self {
        Self::Provider(Box::new(error))
    }
}

/// Sends one request and reads one small answer.
#[derive(Clone)]
struct KeyClient {
    service: &'static str,
    client: reqwest::Client,
    timeout: Duration,
    /// Reads what an answer with status 400 is about.
    statuses: Option<ReadStatus>,
}

type ReadStatus = fn(&[u8]) -> Option<StatusCode>;

impl KeyClient {
    fn new(service: &'static str) -> Result<Self, KeyServiceError> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .build()
            .map_err(|error| unreachable(service, error))?;
        Ok(Self { service, client, timeout: DEFAULT_TIMEOUT, statuses: None })
    }

    #[cfg(feature = "aws")]
    fn with_statuses(self, statuses: ReadStatus) -> Self {
        Self { statuses: Some(statuses), ..self }
    }

    /// Sends a request whose head is `headers`, and gives the body of a good answer.
    async fn send(
        &self,
        (method, url): (Method, &Url),
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let request = self.client.request(method, url.clone()).headers(headers).timeout(self.timeout).body(body);
        let mut response = request.send().await.map_err(|error| unreachable(self.service, error))?;
        let status = response.status();
        if status != StatusCode::OK {
            let status = match self.statuses {
                Some(read) if status == StatusCode::BAD_REQUEST => {
                    self.body(&mut response).await.ok().and_then(|answer| read(&answer)).unwrap_or(status)
                }
                _ => status,
            };
            return Err(KeyServiceError::Refused { service: self.service, status, hint: hint(status) });
        }
        self.body(&mut response).await
    }

    async fn body(&self, response: &mut reqwest::Response) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        // Once and large enough: growing would leave copies behind.
        let mut answer = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(self.service, error))? {
            if answer.len() + chunk.len() > MOST_BYTES {
                return Err(self.malformed("a short answer"));
            }
            answer.extend_from_slice(&chunk);
        }
        // A list would be taken for the members of an object, in their order.
        if !answer.trim_ascii_start().starts_with(b"{") {
            return Err(self.malformed("a JSON object"));
        }
        Ok(answer)
    }

    fn malformed(&self, what: impl Into<String>) -> KeyServiceError {
        KeyServiceError::Malformed { service: self.service, what: what.into() }
    }
}

impl fmt::Debug for KeyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyClient").field("service", &self.service).field("timeout", &self.timeout).finish()
    }
}

/// What somebody may know who uses a connection; the operator's log says more.
fn of_secret(error: &KeyServiceError, (scheme, path): (&str, &str)) -> SecretError {
    tracing::warn!(reference = %format_args!("{scheme}:{path}"), %error, "a secret cannot be resolved");
    match error {
        KeyServiceError::Unreachable { .. } | KeyServiceError::Credentials { .. } => SecretError::Unavailable,
        KeyServiceError::Refused { status, .. } => match status.as_u16() {
            401 | 403 => SecretError::Denied,
            429 | 500.. => SecretError::Unavailable,
            _ => SecretError::Missing,
        },
        KeyServiceError::Address { .. } | KeyServiceError::Malformed { .. } => SecretError::Missing,
    }
}

/// Whether a name is one of `allowed`, or below one of them.
fn is_below(name: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| {
        let allowed = allowed.trim_end_matches('/');
        let rest = name.strip_prefix(allowed).filter(|_| !allowed.is_empty());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The error without the address, which may hold a name of the operator's.
fn unreachable(service: &'static str, error: reqwest::Error) -> KeyServiceError {
    KeyServiceError::Unreachable { service, source: Box::new(error.without_url()) }
}

/// An address that a credential may be sent to.
fn checked(service: &'static str, text: &str) -> Result<Url, KeyServiceError> {
    let wrong = || KeyServiceError::Address { service };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let safe = match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    };
    let plain = url.username().is_empty() && url.password().is_none();
    if safe && plain && url.query().is_none() && url.fragment().is_none() { Ok(url) } else { Err(wrong()) }
}

const fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "the request does not fit: look at the names, and at the wrapped key",
        401 | 403 => "the credentials are not known there, are over, or may not do this",
        404 => "there is nothing of that name, or these credentials may not see it",
        429 => "it is asked too often: try again later",
        500.. => "it is not well, or sealed: try again later",
        _ => "this is no answer of that service: look at the address",
    }
}

/// Longest answer.
const MOST_BYTES: usize = 64 << 10;
/// How long one question may take, connecting included.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_over_tls_or_stay_on_the_machine() {
        for good in ["https://vault.example:8200", "https://10.0.0.1/", "http://127.0.0.1:8200", "http://[::1]/"] {
            assert!(checked("Vault", good).is_ok(), "{good}");
        }
        for bad in [
            "http://vault.example:8200",
            "http://10.0.0.1",
            "http://localhost.example",
            "https://user@vault.example",
            "https://user:word@vault.example",
            "https://vault.example/?a=1",
            "https://vault.example/#a",
            "ftp://vault.example",
            "vault.example",
            "",
        ] {
            assert!(matches!(checked("Vault", bad), Err(KeyServiceError::Address { .. })), "{bad}");
        }
    }
}
