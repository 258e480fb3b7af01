//! All of it through [`CryptoState::call`], as the guest reaches it.

mod hostile;
mod limits;
mod node;
mod secrets;
mod vectors;

use std::sync::Arc;

use ap_core::capability::{HttpError, HttpRequest, HttpResponse};
use ap_crypto::placeholder::{CredentialRef, find_placeholders};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::sandbox::{NoCodeHost, StoreCall, StoreCallError};

/// A run with a few secrets.
#[derive(Debug, Default)]
struct Run {
    /// Placeholder and secret; `None` for a connection that is not for code.
    secrets: Vec<(String, Option<String>)>,
}

impl Run {
    /// A state of this run.
    fn state(self) -> CryptoState {
        CryptoState::new(Arc::new(self), &[7; 32])
    }
}

#[async_trait]
impl CodeHost for Run {
    async fn fetch(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Refused { reason: "no way out".to_owned() })
    }

    fn key(&self, placeholder: &str) -> Option<Result<SecretString, HttpError>> {
        let (_, secret) = self.secrets.iter().find(|(text, _)| text == placeholder)?;
        let refused = || HttpError::Credential { reason: "connection `mail` is not for the piece `crypto`".to_owned() };
        Some(secret.clone().map(SecretString::from).ok_or_else(refused))
    }

    fn mentions(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes);
        find_placeholders(&text).any(|range| self.secrets.iter().any(|(known, _)| *known == text[range.clone()]))
    }

    fn placeholders(&self) -> Vec<String> {
        self.secrets.iter().map(|(known, _)| known.clone()).collect()
    }

    async fn store(&self, call: StoreCall) -> Result<Option<String>, StoreCallError> {
        NoCodeHost.store(call).await
    }

    fn scrub(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut text: String = bytes.iter().copied().map(char::from).collect();
        for secret in self.secrets.iter().filter_map(|(_, secret)| secret.as_ref()) {
            text = text.replace(secret.as_str(), "[masked]");
        }
        text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
    }
}

/// A text that this run may know as a placeholder.
fn placeholder(number: u8) -> String {
    format!("{}{}", CredentialRef::PREFIX, URL_SAFE_NO_PAD.encode([number; 32]))
}

/// A state in which placeholder 1 stands for `secret`.
fn with_secret(secret: &str) -> CryptoState {
    Run { secrets: vec![(placeholder(1), Some(secret.to_owned()))] }.state()
}

/// A state without connections.
fn without() -> CryptoState {
    CryptoState::new(Arc::new(NoCodeHost), &[7; 32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

type Answer = Result<Vec<u8>, HostError>;

fn hmac(state: &mut CryptoState, algorithm: &str, key: &[u8], data: &[u8]) -> Answer {
    state.call(HMAC, &[algorithm.as_bytes(), key, data])
}

fn kdf(state: &mut CryptoState, options: Value, password: &[u8], salt: &[u8], info: &[u8]) -> Answer {
    state.call(KDF, &[options.to_string().as_bytes(), password, salt, info])
}

fn hkdf(state: &mut CryptoState, key: &[u8], length: usize) -> Answer {
    kdf(state, json!({ "kind": "hkdf", "hash": "sha256", "length": length }), key, b"salt", b"info")
}

/// What is encrypted, and its tag.
fn encrypt(state: &mut CryptoState, options: &Value, key: &[u8], iv: &[u8], aad: &[u8], data: &[u8]) -> Answer {
    state.call(CIPHER, &[options.to_string().as_bytes(), key, iv, aad, data, &[]])
}

/// What [`encrypt`] encrypted, without the last `tag` bytes.
fn decrypt(
    state: &mut CryptoState,
    options: &Value,
    key: &[u8],
    iv: &[u8],
    aad: &[u8],
    sealed: (&[u8], &[u8]),
) -> Answer {
    let mut options = options.clone();
    options["decrypt"] = true.into();
    state.call(CIPHER, &[options.to_string().as_bytes(), key, iv, aad, sealed.0, sealed.1])
}

#[track_caller]
fn refused(answer: Answer, name: &str, message: &str) {
    let error = answer.unwrap_err();
    assert_eq!((error.name, error.message.as_str()), (name, message));
}
