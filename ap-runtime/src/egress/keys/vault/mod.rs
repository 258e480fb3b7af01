//! HashiCorp Vault, and `OpenBao`, which speaks the same: a root key kept in KV version 2, or wrapped by Transit, and secrets that
//! connections refer to.

mod login;
mod secrets;

use std::{sync::Arc, time::Duration};

use ap_crypto::{error::KeyError, key::RootKey, provider::KeyProvider};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use self::login::{Session, missing};
pub use self::{login::VaultToken, secrets::VaultSecrets};
use super::{KeyClient, KeyServiceError, answer, checked};
use crate::{
    clock::{Clock, SystemClock},
    config::{self, LimitError},
};

/// A Vault server, and how to be let in.
#[derive(Clone, Debug)]
pub struct Vault {
    client: KeyClient,
    address: Url,
    token: VaultToken,
    session: Session,
    namespace: Option<String>,
    clock: Arc<dyn Clock>,
}

impl Vault {
    /// The server at `address`, such as `https://vault.example:8200`.
    ///
    /// # Errors
    /// [`KeyServiceError::Address`] if the token could be read on the way there.
    pub fn new(address: &str, token: VaultToken) -> Result<Self, KeyServiceError> {
        let (client, address, session) = (KeyClient::new(SERVICE)?, checked(SERVICE, address)?, Session::default());
        Ok(Self { client, address, token, session, namespace: None, clock: Arc::new(SystemClock) })
    }

    /// Asks in a namespace of Vault Enterprise.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..self }
    }

    /// Sets what says how long a token is used that Vault gave. Default: the machine's clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Sets how long one question may take, connecting included.
    ///
    /// * Default: 10 s. Accepted: 1 s to 60 s.
    ///
    /// # Errors
    /// [`LimitError::OutOfRange`].
    pub fn with_timeout(mut self, timeout: Duration) -> Result<Self, LimitError> {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(60));
        self.client.timeout = config::in_range("key service timeout", timeout, least, most)?;
        Ok(self)
    }

    /// A root key that a field of a secret holds, in KV version 2 under `mount`: as 64 hex digits, or base64 of 32 bytes.
    #[must_use]
    pub fn kv(&self, mount: &str, path: &str, field: &str) -> VaultKv {
        VaultKv { vault: self.clone(), place: (mount.to_owned(), path.to_owned()), field: field.to_owned() }
    }

    /// A root key that Transit under `mount` wrapped with the key `name`: `vault:v1:…`, as `vault write
    /// transit/encrypt/<name> plaintext=$(openssl rand -base64 32)` answers. The wrapped text is no secret.
    #[must_use]
    pub fn transit(&self, mount: &str, name: &str, wrapped: &str) -> VaultTransit {
        VaultTransit { vault: self.clone(), place: (mount.to_owned(), name.to_owned()), wrapped: wrapped.to_owned() }
    }

    /// The address of an API path; every part is one or more segments, and none leads out of its place.
    fn url(&self, parts: &[&str]) -> Result<Url, KeyServiceError> {
        let wrong =
            || KeyServiceError::Credentials { service: SERVICE, what: "a name of a mount, a path or a key".into() };
        let mut url = self.address.clone();
        let mut segments = url.path_segments_mut().map_err(|()| wrong())?;
        segments.pop_if_empty().push("v1");
        for segment in parts.iter().flat_map(|part| part.split('/')) {
            if matches!(segment, "" | "." | "..") {
                return Err(wrong());
            }
            segments.push(segment);
        }
        drop(segments);
        Ok(url)
    }

    fn headers(&self) -> Result<HeaderMap, KeyServiceError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            let namespace = HeaderValue::from_str(namespace).map_err(|_| missing("the namespace"))?;
            headers.insert("x-vault-namespace", namespace);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(headers)
    }

    async fn ask(
        &self,
        (method, url): (Method, Url),
        body: Option<Value>,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let body = Bytes::from(body.map(|body| body.to_string()).unwrap_or_default());
        let mut again = true;
        loop {
            let mut headers = self.headers()?;
            headers.insert("x-vault-token", self.token().await?);
            let answer = self.client.send((method.clone(), &url), headers, body.clone()).await;
            match answer {
                // A token that it gave may have been taken back since.
                Err(KeyServiceError::Refused { status: StatusCode::FORBIDDEN, .. })
                    if again && self.log_out().await =>
                {
                    again = false;
                }
                answer => return answer,
            }
        }
    }
}

/// A root key in Vault's KV version 2. Comes from [`Vault::kv`].
#[derive(Clone, Debug)]
pub struct VaultKv {
    vault: Vault,
    place: (String, String),
    field: String,
}

#[async_trait]
impl KeyProvider for VaultKv {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let (mount, path) = &self.place;
        let url = self.vault.url(&[mount, "data", path])?;
        let answer = self.vault.ask((Method::GET, url), None).await?;
        let text = answer::text(&answer, &["data", "data", &self.field]);
        let text = text.ok_or_else(|| self.vault.client.malformed(format!("a text in field `{}`", self.field)))?;
        RootKey::from_text(text.trim_end().as_bytes(), &format!("field `{}` of `{mount}/{path}` in Vault", self.field))
    }
}

/// A root key that Vault's Transit unwraps. Comes from [`Vault::transit`].
#[derive(Clone, Debug)]
pub struct VaultTransit {
    vault: Vault,
    place: (String, String),
    wrapped: String,
}

#[async_trait]
impl KeyProvider for VaultTransit {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let (mount, name) = &self.place;
        let url = self.vault.url(&[mount, "decrypt", name])?;
        let answer = self.vault.ask((Method::POST, url), Some(json!({ "ciphertext": self.wrapped }))).await?;
        let text = answer::text(&answer, &["data", "plaintext"]);
        let text = text.ok_or_else(|| self.vault.client.malformed("`plaintext`"))?;
        let bytes = STANDARD.decode(text.as_bytes()).map(Zeroizing::new);
        RootKey::from_slice(&bytes.map_err(|_| self.vault.client.malformed("base64 in `plaintext`"))?)
    }
}

const SERVICE: &str = "Vault";
