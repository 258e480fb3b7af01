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
        Box::new(NoWayOut { reason: "this runtime has no way out" })
    }

    /// The HTTP capability of an action whose declared effect is none: it refuses every request.
    pub(crate) fn refusing() -> Box<dyn HttpClient> {
        Box::new(NoWayOut { reason: "this action declares that it does not act outside" })
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
struct NoWayOut {
    reason: &'static str,
}

#[async_trait]
impl HttpClient for NoWayOut {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: self.reason.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_request_says_why() {
        for (client, expected) in [
            (Egress::refusing(), "this action declares that it does not act outside"),
            (Egress::none().for_attempt(&Arc::default()), "this runtime has no way out"),
        ] {
            let refused = client.send(HttpRequest::new("GET", "https://api.example/")).await;
            assert_eq!(refused.err(), Some(HttpError::Refused { reason: expected.to_owned() }));
        }
    }
}
