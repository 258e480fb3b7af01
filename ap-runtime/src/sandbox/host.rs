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
    /// to the step. `None` if it is no placeholder of this run: then it is text like any other, and no key.
    ///
    /// # Errors
    /// [`HttpError::Credential`] if the connection is not for that.
    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>>;

    /// Whether a placeholder of this run stands somewhere in `bytes`.
    fn mentions(&self, bytes: &[u8]) -> bool;

    /// All placeholders of this run: their parts are refused as keys. Asked once, when the step begins.
    fn placeholders(&self) -> Vec<String>;

    /// Does what a step asks of its key-value store. Nothing that it changes is there for others before the step has succeeded. The
    /// calls of a step come one after the other, in its order.
    ///
    /// A look-up gives JSON, or nothing if there is no such value; the others give nothing.
    ///
    /// # Errors
    /// [`StoreCallError`]; its text is shown to the step.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the value as it was for the step, or changes it.
    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError>;

    /// Masks the run's secrets in what a step decrypted with one of them.
    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8>;
}

/// What a step asks of its key-value store.
#[derive(Clone)]
pub struct StoreCall {
    /// Whose value.
    pub scope: StoreScope,
    /// Its key.
    pub key: String,
    /// What about it.
    pub act: StoreAct,
}

/// Whose a value is, as a step names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreScope {
    /// The flow's own.
    #[default]
    Flow,
    /// All flows of the project share it.
    Project,
}

/// What a step wants of a value.
#[derive(Clone)]
pub enum StoreAct {
    /// That it is gone.
    Delete,
    /// To have it.
    Get,
    /// That it is this, as JSON text.
    Put(String),
}

/// Sizes only: keys and values are the tenant's.
impl fmt::Debug for StoreCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match &self.act {
            StoreAct::Delete => "delete".to_owned(),
            StoreAct::Get => "get".to_owned(),
            StoreAct::Put(json) => format!("put {} bytes", json.len()),
        };
        f.debug_struct("StoreCall").field("scope", &self.scope).field("act", &act).finish_non_exhaustive()
    }
}

/// Why a step's store did not do what it was asked. Nothing of the call happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreCallError {
    /// The key or the value cannot be.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A limit is reached.
    #[error("{reason}")]
    Limit {
        /// Which, and what to do.
        reason: String,
    },
    /// A secret, or what stands for one, would be stored.
    #[error("{reason}")]
    Secret {
        /// Where, and what to do.
        reason: String,
    },
    /// The store cannot be asked now, or what it holds cannot be opened.
    #[error("{reason}")]
    Unavailable {
        /// What failed.
        reason: String,
    },
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

    fn placeholders(&self) -> Vec<String> {
        Vec::new()
    }

    async fn store(&self, _: StoreCall) -> Result<Option<String>, StoreCallError> {
        Err(StoreCallError::Unavailable { reason: "this step has no store".to_owned() })
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}
