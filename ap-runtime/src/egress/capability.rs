//! [`Egress`]: what pieces reach the network through.

use std::sync::Arc;

use ap_core::capability::{HttpClient, HttpError, HttpRequest, HttpResponse};
use async_trait::async_trait;

use super::credential::RunCredentials;
#[cfg(feature = "http")]
use super::http::HttpEgress;

/// What pieces reach the network through: an [`HttpEgress`](super::http::HttpEgress), or nothing at all.
#[derive(Clone, Debug)]
pub struct Egress {
    #[cfg(feature = "http")]
    http: Option<HttpEgress>,
}

impl Egress {
    /// No way out: every request of a piece is refused.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            #[cfg(feature = "http")]
            http: None,
        }
    }

    /// The HTTP capability of one attempt.
    pub(crate) fn for_attempt(&self, credentials: &Arc<RunCredentials>) -> Box<dyn HttpClient> {
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            return Box::new(http.for_run(Arc::clone(credentials)));
        }
        let _ = credentials;
        Box::new(NoNetwork { reason: "this runtime has no way out" })
    }

    /// The HTTP capability of an action that says it does nothing outside: no plan of it is durable and no use of a
    /// credential is written down, so it gets nowhere.
    pub(crate) fn refusing() -> Box<dyn HttpClient> {
        Box::new(NoNetwork { reason: "the action says that it does nothing outside" })
    }

    /// Whether credentials are masked in what comes back; see
    /// [`DangerousHttpEgressBuilder`](super::http::DangerousHttpEgressBuilder).
    #[cfg_attr(not(feature = "http"), expect(clippy::unused_self, reason = "there is nothing to switch off"))]
    pub(crate) fn scrubs(&self) -> bool {
        #[cfg(feature = "http")]
        if let Some(http) = &self.http {
            return http.scrubs();
        }
        true
    }
}

#[cfg(feature = "http")]
impl From<HttpEgress> for Egress {
    fn from(http: HttpEgress) -> Self {
        Self { http: Some(http) }
    }
}

/// Refuses every request.
#[derive(Clone, Copy, Debug)]
struct NoNetwork {
    reason: &'static str,
}

#[async_trait]
impl HttpClient for NoNetwork {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: self.reason.to_owned() })
    }
}
