//! [`KeyClient`]: what the secret of a connection does as a key.

use std::fmt;

use super::ExchangeError;

/// Encrypts, decrypts and signs with the secret of a connection as the key. The key stays behind this.
///
/// Placeholders of credentials are taken as keys only: in a value, in associated data or in a message they are refused.
pub trait KeyClient: fmt::Debug + Send + Sync {
    /// Encrypts `plain`, of at most 8 MiB; `associated` is authenticated and not kept.
    ///
    /// # Errors
    /// [`ExchangeError::Credential`] if the connection has no such key, [`ExchangeError::InvalidRequest`] for the rest.
    fn encrypt(&self, key: &FieldKeyUse, plain: &[u8], associated: &str) -> Result<CipherText, ExchangeError>;

    /// Decrypts what was encrypted under the same key and associated data.
    ///
    /// # Errors
    /// As [`KeyClient::encrypt`]; one answer for whatever does not open.
    fn decrypt(&self, key: &FieldKeyUse, value: &CipherText, associated: &str) -> Result<Vec<u8>, ExchangeError>;

    /// HMAC-SHA256 (RFC 2104) of `message`.
    ///
    /// # Errors
    /// As [`KeyClient::encrypt`].
    fn hmac_sha256(&self, key: &str, message: &str) -> Result<[u8; 32], ExchangeError>;
}

/// Which key, and for which cipher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldKeyUse {
    /// Placeholder of a connection with one secret, or of a secret field: 64 hex digits, or base64 of 32 bytes.
    pub key: String,
    /// `aes-256-gcm` or `xchacha20-poly1305`.
    pub cipher: String,
}

/// An encrypted value in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherText {
    /// The nonce.
    pub nonce: Vec<u8>,
    /// As long as the value.
    pub data: Vec<u8>,
    /// The tag.
    pub tag: Vec<u8>,
}
