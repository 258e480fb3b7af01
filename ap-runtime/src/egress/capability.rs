//! [`Egress`]: what pieces reach the network through.

use ap_core::capability::{HttpClient, HttpError, HttpRequest, HttpResponse};
use async_trait::async_trait;

use crate::credentials::Credentials;

/// What pieces reach the network through.
#[derive(Clone, Debug, Default)]
pub struct Egress {}

impl Egress {
    /// The HTTP capability of one attempt.
    pub(crate) fn for_attempt(&self, _credentials: &Credentials) -> Box<dyn HttpClient> {
        Box::new(NoNetwork)
    }
}

/// Refuses every request: the runtime was built without feature `http`.
#[derive(Clone, Copy, Debug)]
struct NoNetwork;

#[async_trait]
impl HttpClient for NoNetwork {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: "this runtime has no HTTP egress".to_owned() })
    }
}
