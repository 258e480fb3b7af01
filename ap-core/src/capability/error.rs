//! [`ExchangeError`]: why an exchange that is no HTTP request failed.

use std::time::Duration;

use super::http::HttpError;

/// Why an exchange with a database, mail server or object store failed. Messages hold no credential, and no address of the
/// host's network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The connection lacks something, or is not bound to where this would go.
    #[error("{reason}")]
    Credential {
        /// Which connection, and what to declare.
        reason: String,
    },
    /// The exchange broke off after the peer may have acted.
    #[error("the exchange with the peer broke off: {reason}")]
    Interrupted {
        /// What broke.
        reason: String,
    },
    /// The request itself is malformed.
    #[error("{reason}")]
    InvalidRequest {
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The guard refused the address, or this host does not give the capability.
    #[error("the address is refused: {reason}")]
    Refused {
        /// Which rule refused it.
        reason: String,
    },
    /// The peer understood and said no; nothing was changed there.
    #[error("the peer refused ({code}): {reason}")]
    Rejected {
        /// The peer's code: an SQLSTATE, an SMTP reply code, an S3 error code or HTTP status.
        code: String,
        /// What it said, shortened and scrubbed.
        reason: String,
        /// Whether trying again later may help, as the code says.
        transient: bool,
    },
    /// No end within the time allowed. The peer may have acted.
    #[error("no answer within {} ms", limit.as_millis())]
    Timeout {
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// More than a limit allows.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// The limit that was exceeded.
        limit: usize,
    },
    /// The peer could not be reached, or was lost before it could have acted.
    #[error("the peer could not be reached: {reason}")]
    Unreachable {
        /// What failed: name resolution, connection, TLS.
        reason: String,
    },
}

impl From<HttpError> for ExchangeError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Credential { reason } => Self::Credential { reason },
            HttpError::InvalidRequest { reason } => Self::InvalidRequest { reason },
            HttpError::Refused { reason } => Self::Refused { reason },
            HttpError::ResponseTooLarge { limit_bytes } => {
                Self::TooLarge { what: "the response in bytes", limit: limit_bytes }
            }
            HttpError::Timeout { limit } => Self::Timeout { limit },
            HttpError::Unreachable { reason } => Self::Unreachable { reason },
            HttpError::Interrupted { reason } => Self::Interrupted { reason },
        }
    }
}
