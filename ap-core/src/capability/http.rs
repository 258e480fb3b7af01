//! [`HttpClient`]: requests over HTTP.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

/// Sends HTTP requests through the host's egress guard.
#[async_trait]
pub trait HttpClient: fmt::Debug + Send + Sync {
    /// Sends `request` and reads the whole response, following redirects as the request allows.
    ///
    /// # Errors
    /// [`HttpError`] says who must act. A response with an error status is not an error here.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; whether the peer acted on the request is then unknown.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;
}

/// One request, before credentials are placed into it.
#[derive(Clone)]
pub struct HttpRequest {
    /// `GET`, `POST`, … : an RFC 9110 method token.
    pub method: String,
    /// Absolute `http` or `https` URL.
    pub url: String,
    /// Header fields in order; names are case-insensitive.
    pub headers: Vec<(String, String)>,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// Placeholder text of the connection whose credentials are to be applied as its placements say.
    pub credential: Option<String>,
    /// Longest time for the whole exchange, redirects included. Default: 30 s. Accepted: 1 ms to 10 min, clamped.
    pub timeout: Duration,
    /// Largest response body after decoding. Unit: bytes. Default: 10 MiB; the host's own limit applies on top.
    pub max_response_bytes: usize,
    /// How many redirects to follow. Default: 5; 0 returns the redirect itself.
    pub max_redirects: u8,
    /// Whether an encrypted connection must be TLS 1.3 (RFC 8446). Default: false, TLS 1.2 or later. A client that cannot
    /// promise it answers [`HttpError::InvalidRequest`].
    pub require_tls13: bool,
}

impl HttpRequest {
    /// A request with the default limits, no headers and no body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            credential: None,
            timeout: Duration::from_secs(30),
            max_response_bytes: 10 << 20,
            max_redirects: 5,
            require_tls13: false,
        }
    }
}

impl fmt::Debug for HttpRequest {
    /// Prints method and sizes: URL, headers and body may hold private data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("headers", &self.headers.len())
            .field("body_bytes", &self.body.as_ref().map(Bytes::len))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A response, already scrubbed of the run's credentials.
#[derive(Clone)]
pub struct HttpResponse {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The decoded body.
    pub body: Bytes,
    /// Where the last of the redirects that were followed led to, without the credentials placed there; `None` if none was.
    pub redirected_to: Option<String>,
}

impl HttpResponse {
    /// The first header field of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &self.headers.len())
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// Why no response came back. Messages hold no credential, no URL and no address of the host's network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The connection does not allow its credential where the request puts it, or for this origin.
    #[error("{reason}")]
    Credential {
        /// Which connection and place, and what to declare.
        reason: String,
    },
    /// The request itself is malformed.
    #[error("{reason}")]
    InvalidRequest {
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The guard refused the address: not globally reachable, a special name, another port or scheme than allowed.
    #[error("the address is refused: {reason}")]
    Refused {
        /// Which rule refused it.
        reason: String,
    },
    /// The response was larger than allowed.
    #[error("the response is larger than {limit_bytes} bytes")]
    ResponseTooLarge {
        /// The limit that was exceeded.
        limit_bytes: usize,
    },
    /// No complete response within the time allowed. The peer may have acted on the request.
    #[error("no complete response within {} ms", limit.as_millis())]
    Timeout {
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// The peer could not be reached, and nothing of the request was sent.
    #[error("the peer could not be reached: {reason}")]
    Unreachable {
        /// What failed: name resolution, connection, TLS.
        reason: String,
    },
    /// The exchange broke off after the request may have been sent.
    #[error("the exchange with the peer broke off: {reason}")]
    Interrupted {
        /// What broke.
        reason: String,
    },
}
