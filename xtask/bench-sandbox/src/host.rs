//! A host that answers at once.

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_runtime::sandbox::{CodeHost, NoCodeHost, StoreCall, StoreCallError};
use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;

/// Answers every request with a little JSON; has no keys.
#[derive(Debug)]
pub struct Echo;

#[async_trait]
impl CodeHost for Echo {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Ok(HttpResponse { status: 200, headers: Vec::new(), body: Bytes::from_static(br#"{"echo":1}"#), redirected_to: None })
    }

    fn key(&self, _: &str) -> Option<Result<SecretString, HttpError>> {
        None
    }

    fn mentions(&self, _: &[u8]) -> bool {
        false
    }

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}
