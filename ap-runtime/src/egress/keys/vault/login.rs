//! [`VaultToken`]: how Vault lets a client in.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use ap_core::time::Timestamp;
use bytes::Bytes;
use http::{HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{SERVICE, Vault};
use crate::egress::keys::{KeyServiceError, answer};

/// Where the token comes from that Vault lets in.
#[derive(Clone)]
#[non_exhaustive]
pub enum VaultToken {
    /// This one.
    Given(SecretString),
    /// The content of a file, read with each question: the sink of a Vault agent, which keeps it fresh.
    File(PathBuf),
    /// One that Vault gives for a role and its secret (`AppRole`): asked for when it is needed, kept for two thirds of the time
    /// that Vault says, and asked for anew when Vault does not take it any more.
    AppRole {
        /// Where the method is enabled, such as `approle`.
        mount: String,
        /// Which role.
        role_id: String,
        /// Its secret.
        secret_id: SecretString,
    },
    /// One that Vault gives for the service account of a pod in Kubernetes, asked for like that of a role.
    Kubernetes {
        /// Where the method is enabled, such as `kubernetes`.
        mount: String,
        /// Which role.
        role: String,
        /// The account's token, read with each log-in: `/var/run/secrets/kubernetes.io/serviceaccount/token`.
        token_file: PathBuf,
    },
}

impl fmt::Debug for VaultToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::AppRole { mount, .. } => f.debug_struct("AppRole").field("mount", mount).finish_non_exhaustive(),
            Self::Kubernetes { mount, role, token_file } => {
                let mut shown = f.debug_struct("Kubernetes");
                shown.field("mount", mount).field("role", role).field("token_file", token_file).finish()
            }
        }
    }
}

/// A token that Vault gave, and until when it is used. Shared by all clones of a client.
#[derive(Clone, Default)]
pub(super) struct Session(Arc<tokio::sync::Mutex<Option<(SecretString, Timestamp)>>>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(…)")
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Login<'a> {
    AppRole { role_id: &'a str, secret_id: &'a str },
    Kubernetes { role: &'a str, jwt: &'a str },
}

impl Vault {
    /// The token to ask with.
    pub(super) async fn token(&self) -> Result<HeaderValue, KeyServiceError> {
        match &self.token {
            VaultToken::Given(token) => header(token.expose_secret()),
            VaultToken::File(path) => header(&read(path, "the token's file")?),
            VaultToken::AppRole { mount, role_id, secret_id } => {
                self.logged_in(mount, || Ok((role_id.as_str(), Zeroizing::new(secret_id.expose_secret().to_owned()))))
                    .await
            }
            VaultToken::Kubernetes { mount, role, token_file } => {
                self.logged_in(mount, || Ok((role.as_str(), read(token_file, "the service account's token")?))).await
            }
        }
    }

    /// Forgets the token that Vault gave, and says whether there was one: it may be over before its time.
    pub(super) async fn log_out(&self) -> bool {
        self.session.0.lock().await.take().is_some()
    }

    async fn logged_in<'a>(
        &self,
        mount: &str,
        credentials: impl FnOnce() -> Result<(&'a str, Zeroizing<String>), KeyServiceError>,
    ) -> Result<HeaderValue, KeyServiceError> {
        let mut session = self.session.0.lock().await;
        if let Some((token, until)) = &*session
            && self.clock.now() < *until
        {
            return header(token.expose_secret());
        }
        let (role, secret) = credentials()?;
        let secret = secret.trim_end();
        let login = match &self.token {
            VaultToken::Kubernetes { .. } => Login::Kubernetes { role, jwt: secret },
            _ => Login::AppRole { role_id: role, secret_id: secret },
        };
        // At most six bytes for one, so it never grows.
        let mut body = Zeroizing::new(Vec::with_capacity(64 + 6 * (role.len() + secret.len())));
        serde_json::to_writer(&mut *body, &login).map_err(|_| missing("what to log in with"))?;
        let url = self.url(&["auth", mount, "login"])?;
        let headers = self.headers()?;
        let answer = self.client.send((Method::POST, &url), headers, Bytes::from_owner(body)).await?;
        let malformed = || self.client.malformed("`auth.client_token`");
        let token = answer::text(&answer, &["auth", "client_token"]).ok_or_else(malformed)?;
        let lifetime = answer::number(&answer, &["auth", "lease_duration"]).filter(|seconds| *seconds > 0);
        let lifetime = lifetime.map_or(ENDLESS, |seconds| Duration::from_secs(seconds.min(MOST_SECONDS)));
        let value = header(&token)?;
        *session = Some((SecretString::from(token.as_str()), self.clock.now().saturating_add(lifetime * 2 / 3)));
        Ok(value)
    }
}

fn header(token: &str) -> Result<HeaderValue, KeyServiceError> {
    let mut value = HeaderValue::from_str(token.trim_end()).map_err(|_| missing("the token"))?;
    if value.is_empty() {
        return Err(missing("the token"));
    }
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &PathBuf, what: &str) -> Result<Zeroizing<String>, KeyServiceError> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|_| missing(what))
}

pub(super) fn missing(what: &str) -> KeyServiceError {
    KeyServiceError::Credentials { service: SERVICE, what: what.to_owned() }
}

/// How long a token is used that has no end.
const ENDLESS: Duration = Duration::from_secs(3_600);
const MOST_SECONDS: u64 = 365 * 86_400;
