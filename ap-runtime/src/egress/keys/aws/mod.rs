//! Amazon Web Services: a root key that KMS unwraps, or that Secrets Manager keeps, and secrets that connections refer to. Signed
//! by [`ap_crypto::sigv4`].

mod secrets;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ap_crypto::{
    error::KeyError,
    key::RootKey,
    provider::KeyProvider,
    sigv4::{Payload, RequestToSign, SigV4},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::{Position, Url};
use zeroize::Zeroizing;

pub use self::secrets::AwsSecrets;
use super::{KeyClient, KeyServiceError, answer, checked};
use crate::{
    clock::{Clock, SystemClock},
    config::{self, LimitError},
};

/// Who asks: an access key, with the session token where it is a temporary one.
#[derive(Clone)]
pub struct AwsCredentials {
    access_key_id: String,
    secret: SecretString,
    session_token: Option<SecretString>,
}

impl AwsCredentials {
    /// These.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret: SecretString, session_token: Option<SecretString>) -> Self {
        Self { access_key_id: access_key_id.into(), secret, session_token }
    }

    /// What the environment has: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if it is set, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`KeyServiceError::Credentials`] names what is missing.
    pub fn from_environment() -> Result<Self, KeyServiceError> {
        let read = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let required = |name: &str| {
            read(name).ok_or_else(|| KeyServiceError::Credentials { service: SERVICE, what: format!("`{name}`") })
        };
        let secret = required("AWS_SECRET_ACCESS_KEY")?.into();
        Ok(Self::new(required("AWS_ACCESS_KEY_ID")?, secret, read("AWS_SESSION_TOKEN").map(Into::into)))
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// A region of AWS, and who asks there.
#[derive(Clone, Debug)]
pub struct Aws {
    client: KeyClient,
    region: String,
    credentials: AwsCredentials,
    endpoint: Option<Url>,
    clock: Arc<dyn Clock>,
}

impl Aws {
    /// The services of `region`, such as `eu-central-1`.
    ///
    /// # Errors
    /// [`KeyServiceError::Address`] if that is no name of a region.
    pub fn new(region: &str, credentials: AwsCredentials) -> Result<Self, KeyServiceError> {
        let plain = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if region.is_empty() || region.len() > 32 || !plain {
            return Err(KeyServiceError::Address { service: SERVICE });
        }
        let (client, region, clock) =
            (KeyClient::new(SERVICE)?.with_statuses(status_of), region.to_owned(), Arc::new(SystemClock));
        Ok(Self { client, region, credentials, endpoint: None, clock })
    }

    /// Asks another address than the region's public one: an endpoint of a private network, a test.
    ///
    /// # Errors
    /// [`KeyServiceError::Address`] if what is answered could be read on the way.
    pub fn with_endpoint(self, address: &str) -> Result<Self, KeyServiceError> {
        Ok(Self { endpoint: Some(checked(SERVICE, address)?), ..self })
    }

    /// Sets where the time comes from that requests are signed for. Default: the machine's clock.
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

    /// A root key that a key of KMS wrapped: base64, as `aws kms encrypt --key-id … --plaintext fileb://root.key` answers in
    /// `CiphertextBlob`, or `generate-data-key-without-plaintext --key-spec AES_256`. The wrapped text is no secret.
    #[must_use]
    pub fn kms(&self, wrapped: &str) -> KmsKey {
        KmsKey { aws: self.clone(), wrapped: wrapped.to_owned(), key_id: None, context: BTreeMap::new() }
    }

    /// A root key that Secrets Manager keeps under this name or ARN: as 64 hex digits, or base64 of 32 bytes.
    #[must_use]
    pub fn secret(&self, id: &str) -> AwsSecret {
        AwsSecret { aws: self.clone(), id: id.to_owned(), field: None }
    }

    async fn ask(
        &self,
        (service, target): (&str, &'static str),
        body: &Value,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let wrong = || KeyServiceError::Credentials { service: SERVICE, what: "the access key".to_owned() };
        let url = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let suffix = if self.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
                checked(SERVICE, &format!("https://{service}.{}.{suffix}/", self.region))?
            }
        };
        let body = Bytes::from(body.to_string());
        let host = url[Position::BeforeHost..Position::AfterPort].to_owned();
        let fields = [
            ("host".to_owned(), host),
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), target.to_owned()),
        ];
        let AwsCredentials { access_key_id, secret, session_token } = &self.credentials;
        let signer = SigV4::new(access_key_id, secret, session_token.as_ref(), &self.region, service);
        let request = RequestToSign {
            method: "POST",
            path: url.path(),
            query: &[],
            headers: &fields,
            payload: Payload::Bytes(&body),
        };
        let added = signer.and_then(|signer| signer.sign(&request, self.clock.now())).map_err(|_| wrong())?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().skip(1) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        for (name, value) in &added {
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        self.client.send((Method::POST, &url), headers, body).await
    }
}

/// A root key that KMS unwraps. Comes from [`Aws::kms`].
#[derive(Clone, Debug)]
pub struct KmsKey {
    aws: Aws,
    wrapped: String,
    key_id: Option<String>,
    context: BTreeMap<String, String>,
}

impl KmsKey {
    /// Lets no other key of KMS unwrap it than this one.
    #[must_use]
    pub fn with_key_id(self, key_id: impl Into<String>) -> Self {
        Self { key_id: Some(key_id.into()), ..self }
    }

    /// Adds to the encryption context, which must be the one it was wrapped with.
    #[must_use]
    pub fn with_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.insert(name.into(), value.into());
        self
    }
}

#[async_trait]
impl KeyProvider for KmsKey {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let mut body = json!({ "CiphertextBlob": self.wrapped });
        if let (Some(members), Some(key_id)) = (body.as_object_mut(), &self.key_id) {
            members.insert("KeyId".to_owned(), json!(key_id));
        }
        if let (Some(members), false) = (body.as_object_mut(), self.context.is_empty()) {
            members.insert("EncryptionContext".to_owned(), json!(self.context));
        }
        let answer = self.aws.ask(("kms", "TrentService.Decrypt"), &body).await?;
        let malformed = || self.aws.client.malformed("`Plaintext`, base64");
        let text = answer::text(&answer, &["Plaintext"]).ok_or_else(malformed)?;
        let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| malformed())?);
        RootKey::from_slice(&bytes)
    }
}

/// A root key that Secrets Manager keeps. Comes from [`Aws::secret`].
#[derive(Clone, Debug)]
pub struct AwsSecret {
    aws: Aws,
    id: String,
    field: Option<String>,
}

impl AwsSecret {
    /// Takes the text of one field of a secret that is a JSON object.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }
}

#[async_trait]
impl KeyProvider for AwsSecret {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let answer = self.aws.ask(GET_SECRET_VALUE, &json!({ "SecretId": self.id })).await?;
        let malformed = |what: &str| self.aws.client.malformed(what);
        let mut text = answer::text(&answer, &["SecretString"]).ok_or_else(|| malformed("`SecretString`"))?;
        if let Some(field) = &self.field {
            let value = answer::text(text.as_bytes(), &[field]);
            text = value.ok_or_else(|| malformed(&format!("a text in field `{field}`")))?;
        }
        RootKey::from_text(text.trim_end().as_bytes(), &format!("secret `{}` in Secrets Manager", self.id))
    }
}

/// What an error means that AWS answers with 400 whatever it is.
fn status_of(answer: &[u8]) -> Option<StatusCode> {
    let kind = answer::text(answer, &["__type"])?;
    let kind = kind.rsplit_once('#').map_or(kind.as_str(), |(_, kind)| kind);
    Some(match kind {
        "ThrottlingException" | "LimitExceededException" => StatusCode::TOO_MANY_REQUESTS,
        "AccessDeniedException"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException"
        | "UnrecognizedClientException" => StatusCode::FORBIDDEN,
        "NotFoundException" | "ResourceNotFoundException" => StatusCode::NOT_FOUND,
        _ => return None,
    })
}

const GET_SECRET_VALUE: (&str, &str) = ("secretsmanager", "secretsmanager.GetSecretValue");
const SERVICE: &str = "AWS";
