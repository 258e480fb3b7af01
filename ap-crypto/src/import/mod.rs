//! Connections as Activepieces stores them, read once to be sealed here.
//!
//! That product keeps a connection's value as JSON of hexadecimal texts: `{iv, data}` is AES-256-CBC with a random IV of 16
//! bytes and padding (until about version 0.86), `{iv, data, authTag}` AES-256-GCM with a nonce of 12. Its key,
//! `AP_ENCRYPTION_KEY`, is 32 hexadecimal digits used as 32 bytes of ASCII, so it has 128 bits of entropy. Nothing is ever
//! written in these formats.
//!
//! # Security
//!
//! CBC there has no authentication: whoever could write to that database could change values without being noticed. Import
//! from a database you trust, compare what matters, and rotate what can be. Plaintext is wiped when it is dropped; texts
//! with escapes in them pass through a buffer of the JSON parser that is not.
//!
//! # Examples
//! ```
//! use ap_core::connection::Connection;
//! use ap_crypto::import::{ImportKey, Imported, open_stored};
//!
//! // `AP_ENCRYPTION_KEY`, and the column `value` of a row of `app_connection`.
//! let key = ImportKey::new("00112233445566778899aabbccddeeff")?;
//! let stored = br#"{"iv":"0f0e0d0c0b0a090807060504","authTag":"05fe192cba5e06031656ce4d140641d9","data":"fd87418aad2d4923719b\
//!     a0c665687c56c317a4a9b03f18dd656a16eb48b744212edc8bbbcbad0febeefb9d80135740ecea1b40d078cfc48aa3ee62"}"#;
//! # let stored: Vec<u8> = stored.iter().copied().filter(|byte| !b"\\\n ".contains(byte)).collect();
//! let Imported::Value(value) = open_stored(&stored, &key)? else { return Ok(()) };
//! let connection = Connection::new("crm", value, vec![], vec![])?;
//! assert_eq!(connection.value().type_name(), "SECRET_TEXT");
//! // Seal it at once: hand it to the project's session.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cipher;
mod wire;

use std::{collections::BTreeMap, fmt, time::Duration};

use ap_core::{
    connection::{ClientAuth, ConnectionValue, FieldValue, OAuth2, OAuthApp, OAuthGrant, OAuthTokens},
    time::Timestamp,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use self::wire::{Scalar, Stored, Text, Wire};

/// The key of the other product: `AP_ENCRYPTION_KEY`. Opens, and seals nothing.
pub struct ImportKey(Zeroizing<[u8; KEY_BYTES]>);

impl ImportKey {
    /// Takes the variable's text: 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`ImportError::Key`] if it is anything else.
    pub fn new(text: &str) -> Result<Self, ImportError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if text.len() != KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(ImportError::Key);
        }
        key.copy_from_slice(text.as_bytes());
        Ok(Self(key))
    }
}

impl fmt::Debug for ImportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImportKey(…)")
    }
}

/// What was in a stored connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Imported {
    /// `OAUTH2`, `PLATFORM_OAUTH2` or `CLOUD_OAUTH2`: see [`ImportedOAuth2::into_value`].
    OAuth2(ImportedOAuth2),
    /// `SECRET_TEXT`, `BASIC_AUTH` or `CUSTOM_AUTH`: for [`Connection::new`](ap_core::connection::Connection::new).
    ///
    /// Every field of `CUSTOM_AUTH` is a secret, because only its piece knows which are not: see [`Imported::with_clear`].
    Value(ConnectionValue),
}

impl Imported {
    /// The fields named are no secrets: a URL, a user's name, a region. Others stay as they are.
    ///
    /// Secrets under 8 bytes are refused by [`Connection::new`](ap_core::connection::Connection::new), so short fields have
    /// to be named here.
    #[must_use]
    pub fn with_clear(self, names: &[&str]) -> Self {
        let Self::Value(ConnectionValue::CustomAuth { fields }) = self else { return self };
        let cleared = fields.into_iter().map(|(name, value)| match value {
            FieldValue::Secret(secret) if names.contains(&name.as_str()) => {
                (name, FieldValue::Clear(secret.expose_secret().to_owned()))
            }
            value => (name, value),
        });
        Self::Value(ConnectionValue::CustomAuth { fields: cleared.collect() })
    }
}

/// Tokens of OAuth 2.0 (RFC 6749), and the client they were given to.
pub struct ImportedOAuth2 {
    /// Whose client it is.
    pub owner: OAuth2Owner,
    /// The client's id.
    pub client_id: String,
    /// The client's secret; the product keeps it elsewhere unless the owner is [`OAuth2Owner::User`].
    pub client_secret: Option<SecretString>,
    /// Where tokens are refreshed.
    pub token_url: Option<String>,
    /// Where the browser came back to.
    pub redirect_url: Option<String>,
    /// What requests are authorised with.
    pub access_token: SecretString,
    /// What gets the next access token. Without one, and with code as grant, there is no next one.
    pub refresh_token: Option<SecretString>,
    /// Usually `Bearer`.
    pub token_type: Option<String>,
    /// What was granted; scopes with spaces between them.
    pub scope: Option<String>,
    /// When the tokens were issued. Unit: seconds since 1970.
    pub claimed_at_s: Option<u64>,
    /// How long the access token lives from then on. Unit: seconds.
    pub expires_in_s: Option<u64>,
    /// Whether the client acts for itself: the grant `client_credentials` (RFC 6749 §4.4) instead of a code.
    pub client_credentials: bool,
    /// Whether the client's id and secret go into the body of a token request instead of its header.
    pub secret_in_body: bool,
}

/// Whose OAuth client a connection uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OAuth2Owner {
    /// The product's maker, by a service of theirs: `CLOUD_OAUTH2`. Connect anew with a client of your own.
    Cloud,
    /// The platform, which keeps the client's secret in its table `oauth_app`: `PLATFORM_OAUTH2`.
    Platform,
    /// Whoever made the connection: `OAUTH2`.
    User,
}

impl ImportedOAuth2 {
    /// The value of a connection, for [`Connection::new`](ap_core::connection::Connection::new).
    ///
    /// `client_secret` is that of the platform's client, if the owner is [`OAuth2Owner::Platform`]. Where nobody here could
    /// refresh the tokens, as with clients of [`OAuth2Owner::Cloud`], the refresh token is left out and the connection ends
    /// with its access token: connect it anew.
    ///
    /// Without a lifetime, tokens that can be refreshed count as good for an hour, as there.
    ///
    /// # Errors
    /// [`ImportError::Field`] if the tokens are not of the type `Bearer` (RFC 6750).
    pub fn into_value(self, client_secret: Option<SecretString>) -> Result<ConnectionValue, ImportError> {
        if self.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(ImportError::Field { name: "token_type".to_owned(), problem: "is not `Bearer`" });
        }
        let client_secret = self.client_secret.or(client_secret);
        let renews = client_secret.is_some() || (self.owner == OAuth2Owner::User && !self.client_credentials);
        let app = self.token_url.filter(|_| renews).map(|token_url| OAuthApp {
            grant: if self.client_credentials { OAuthGrant::ClientCredentials } else { OAuthGrant::AuthorizationCode },
            client_id: self.client_id,
            client_auth: if self.secret_in_body { ClientAuth::Body } else { ClientAuth::Header },
            // Where the owner was sent is not stored there.
            authorization_url: None,
            redirect_url: None,
            token_url,
            scope: self.scope.clone(),
            issuer: None,
            parameters: BTreeMap::new(),
        });
        let refresh = self.refresh_token.filter(|_| app.is_some());
        let issued = at_second(self.claimed_at_s.unwrap_or_default());
        let lifetime = self.expires_in_s.or_else(|| (refresh.is_some() || self.client_credentials).then_some(3_600));
        let expires = lifetime.map(|lifetime| issued.saturating_add(Duration::from_secs(lifetime)));
        let tokens = OAuthTokens::bearer(self.access_token, issued)
            .with_refresh(refresh)
            .with_expiry(expires)
            .with_scope(self.scope);
        Ok(ConnectionValue::OAuth2(Box::new(match app {
            Some(app) => OAuth2::client(app, client_secret).with_tokens(tokens),
            None => OAuth2::of_tokens(tokens),
        })))
    }
}

fn at_second(seconds: u64) -> Timestamp {
    // Further on than any clock: the year 9999.
    Timestamp::from_millis(i64::try_from(seconds.min(253_402_300_799)).unwrap_or_default() * 1_000)
}

impl fmt::Debug for ImportedOAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportedOAuth2({:?})", self.owner)
    }
}

/// Reads a stored connection: JSON `{iv, data}` or `{iv, data, authTag}`, at most [`MAX_STORED_BYTES`].
///
/// # Errors
/// [`ImportError::Unopenable`] for the wrong key and for everything that is not exactly what was stored; the rest of
/// [`ImportError`] for what was opened and cannot become a connection here.
pub fn open_stored(stored: &[u8], key: &ImportKey) -> Result<Imported, ImportError> {
    let plain = open(stored, key).ok_or(ImportError::Unopenable)?;
    let wire: Wire = serde_json::from_slice(&plain).map_err(|_| ImportError::Unopenable)?;
    imported(wire)
}

fn open(stored: &[u8], key: &ImportKey) -> Option<Zeroizing<Vec<u8>>> {
    if stored.len() > MAX_STORED_BYTES {
        return None;
    }
    let stored: Stored<'_> = serde_json::from_slice(stored).ok()?;
    let data = wire::from_hex(stored.data)?;
    match stored.auth_tag {
        Some(tag) => cipher::open_gcm(&key.0, &wire::array_from_hex(stored.iv)?, data, &wire::array_from_hex(tag)?),
        None => cipher::open_cbc(&key.0, &wire::array_from_hex(stored.iv)?, data),
    }
}

fn imported(mut wire: Wire) -> Result<Imported, ImportError> {
    let owner = match wire.r#type.as_str() {
        "SECRET_TEXT" => {
            let secret = need(wire.secret_text, "secret_text")?.into_secret();
            return Ok(Imported::Value(ConnectionValue::SecretText { secret }));
        }
        "BASIC_AUTH" => {
            let username = need(wire.username, "username")?.into_clear();
            let password = need(wire.password, "password")?.into_secret();
            return Ok(Imported::Value(ConnectionValue::BasicAuth { username, password }));
        }
        "CUSTOM_AUTH" => return custom(wire.props.take().unwrap_or_default()),
        "OAUTH2" => OAuth2Owner::User,
        "PLATFORM_OAUTH2" => OAuth2Owner::Platform,
        "CLOUD_OAUTH2" => OAuth2Owner::Cloud,
        "NO_AUTH" => return Err(ImportError::Unsupported { type_name: "NO_AUTH" }),
        "OIDC" => return Err(ImportError::Unsupported { type_name: "OIDC" }),
        _ => return Err(ImportError::Unsupported { type_name: "unknown" }),
    };
    let secret = |text: Option<Text>| text.filter(|text| !text.is_empty()).map(Text::into_secret);
    let clear = |text: Option<Text>| text.filter(|text| !text.is_empty()).map(Text::into_clear);
    let is = |text: &Option<Text>, wanted: &str| text.as_ref().is_some_and(|text| text.is(wanted));
    Ok(Imported::OAuth2(ImportedOAuth2 {
        owner,
        client_credentials: is(&wire.grant_type, "client_credentials"),
        secret_in_body: is(&wire.authorization_method, "BODY"),
        client_id: need(wire.client_id, "client_id")?.into_clear(),
        client_secret: secret(wire.client_secret),
        token_url: clear(wire.token_url),
        redirect_url: clear(wire.redirect_url),
        access_token: need(wire.access_token, "access_token")?.into_secret(),
        refresh_token: secret(wire.refresh_token),
        token_type: clear(wire.token_type),
        scope: clear(wire.scope),
        claimed_at_s: wire.claimed_at.and_then(|number| number.0),
        expires_in_s: wire.expires_in.and_then(|number| number.0),
    }))
}

fn custom(props: BTreeMap<String, Scalar>) -> Result<Imported, ImportError> {
    let mut fields = BTreeMap::new();
    for (name, value) in props {
        match value {
            Scalar::Missing => {}
            Scalar::Nested => {
                return Err(ImportError::Field { name: shown(&name), problem: "is no text, number or flag" });
            }
            Scalar::Text(text) => {
                fields.insert(name, FieldValue::Secret(text.into_secret()));
            }
        }
    }
    Ok(Imported::Value(ConnectionValue::CustomAuth { fields }))
}

fn need(text: Option<Text>, name: &str) -> Result<Text, ImportError> {
    text.ok_or_else(|| ImportError::Field { name: name.to_owned(), problem: "is not there" })
}

/// A name that is fit for a message.
fn shown(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "_-.".contains(char) { char } else { '_' };
    name.chars().take(64).map(plain).collect()
}

/// Why a stored connection cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It was opened, but one of its fields cannot be.
    #[error("field `{name}` of the stored connection {problem}")]
    Field {
        /// The field.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key has not the form of `AP_ENCRYPTION_KEY`.
    #[error("the key of the other product has 32 hexadecimal digits: take its `AP_ENCRYPTION_KEY` as it is")]
    Key,
    /// Wrong key, changed, cut off, too long or of another format: nobody learns which.
    #[error("the stored connection cannot be opened")]
    Unopenable,
    /// Connections of this type do not exist here.
    #[error("connections of type `{type_name}` cannot be imported; make a new one")]
    Unsupported {
        /// The type's name there.
        type_name: &'static str,
    },
}

/// The longest stored connection that is read. Unit: bytes.
pub const MAX_STORED_BYTES: usize = 1 << 20;

const KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests;
