//! [`CodeHost`]: what a code step may use of its host.

use std::fmt;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use async_trait::async_trait;
use secrecy::SecretString;

/// What one attempt of one code step may use of its host.
///
/// Everything a step hands over is the tenant's, unchecked; everything it gets back it may keep, show and send on.
#[async_trait]
pub trait CodeHost: fmt::Debug + Send + Sync + 'static {
    /// Sends a request of `fetch`, with the credentials whose placeholders stand in it.
    ///
    /// # Errors
    /// [`HttpError`] lists them; its text is shown to the step.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the exchange off.
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;

    /// The secret that exactly this text stands for, to be used as a key inside the sandbox's host side and never to be shown
    /// to the step. `None` if it is no placeholder of this run: then it is text like any other.
    ///
    /// # Errors
    /// [`HttpError::Credential`] if the connection is not for that.
    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>>;

    /// Whether a placeholder of this run stands somewhere in `bytes`.
    fn mentions(&self, bytes: &[u8]) -> bool;

    /// Masks the run's secrets in what a step decrypted with one of them.
    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8>;
}

/// No host at all: a step may compute and log, nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCodeHost;

#[async_trait]
impl CodeHost for NoCodeHost {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: "this step has no way out".to_owned() })
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}
