//! [`RunKeys`]: the secrets of a run's connections as keys.

use std::{fmt, sync::Arc};

use ap_core::capability::{CipherText, ExchangeError, FieldKeyUse, KeyClient};
use ap_crypto::{
    entropy::Entropy,
    field::{EncryptedField, FieldCipher, FieldError, FieldKey},
    signature::HmacSha256,
};
use secrecy::SecretString;

use super::credential::RunCredentials;

/// The keys of one attempt of one run.
pub(super) struct RunKeys {
    credentials: Arc<RunCredentials>,
    entropy: Arc<dyn Entropy>,
}

impl RunKeys {
    pub(super) fn new(credentials: Arc<RunCredentials>, entropy: Arc<dyn Entropy>) -> Self {
        Self { credentials, entropy }
    }

    /// The secret that exactly this placeholder stands for.
    fn secret(&self, key: &str) -> Result<&SecretString, ExchangeError> {
        self.credentials.key(key).map_err(ExchangeError::from)
    }

    fn field_key(&self, used: &FieldKeyUse) -> Result<(FieldKey, FieldCipher), ExchangeError> {
        let cipher = FieldCipher::named(&used.cipher).ok_or_else(|| {
            invalid("the cipher is `aes-256-gcm` or `xchacha20-poly1305`: others do not authenticate what they encrypt")
        })?;
        let key = FieldKey::from_text(self.secret(&used.key)?);
        Ok((key.map_err(|error| ExchangeError::Credential { reason: error.to_string() })?, cipher))
    }

    /// A secret goes where a key is wanted and nowhere else.
    fn refuse_as_data(&self, what: &str, text: &str) -> Result<(), ExchangeError> {
        if self.credentials.mentioned_in(text) {
            return Err(ExchangeError::Credential {
                reason: format!("a credential stands in {what}; it may only be the key"),
            });
        }
        Ok(())
    }
}

impl KeyClient for RunKeys {
    fn encrypt(&self, key: &FieldKeyUse, plain: &[u8], associated: &str) -> Result<CipherText, ExchangeError> {
        self.refuse_as_data("the value", &String::from_utf8_lossy(plain))?;
        self.refuse_as_data("the associated data", associated)?;
        let (key, cipher) = self.field_key(key)?;
        let sealed =
            key.encrypt(cipher, plain, associated.as_bytes(), &*self.entropy).map_err(|error| failed(&error))?;
        Ok(CipherText { nonce: sealed.nonce, data: sealed.data, tag: sealed.tag.to_vec() })
    }

    fn decrypt(&self, key: &FieldKeyUse, value: &CipherText, associated: &str) -> Result<Vec<u8>, ExchangeError> {
        self.refuse_as_data("the associated data", associated)?;
        let (key, cipher) = self.field_key(key)?;
        // Cut or longer tags are wrong ones.
        let tag = value.tag.as_slice().try_into().map_err(|_| failed(&FieldError::Unopenable))?;
        let sealed = EncryptedField { cipher, nonce: value.nonce.clone(), data: value.data.clone(), tag };
        let plain = key.decrypt(&sealed, associated.as_bytes()).map_err(|error| failed(&error))?;
        Ok(self.credentials.redactor().redact_bytes(&plain).into_owned())
    }

    fn hmac_sha256(&self, key: &str, message: &str) -> Result<[u8; 32], ExchangeError> {
        self.refuse_as_data("the message", message)?;
        let key = HmacSha256::new(self.secret(key)?)
            .map_err(|error| ExchangeError::Credential { reason: error.to_string() })?;
        Ok(key.sign(&[message.as_bytes()]))
    }
}

impl fmt::Debug for RunKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunKeys").finish_non_exhaustive()
    }
}

fn invalid(reason: &str) -> ExchangeError {
    ExchangeError::InvalidRequest { reason: reason.to_owned() }
}

fn failed(error: &FieldError) -> ExchangeError {
    invalid(&error.to_string())
}

#[cfg(test)]
mod tests {
    use ap_core::connection::{ConnectionTerms, Placement};
    use ap_crypto::entropy::SystemEntropy;

    use super::*;
    use crate::egress::credential::{
        RunConnection, Stands,
        tests::{bound, placeholder},
    };

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn keys() -> RunKeys {
        let placements = || vec![Placement::Bearer { field: "key".to_owned() }];
        let one = |name: &str, secret: &str, digit, pieces: &[&str]| {
            let whole = vec![(placeholder(digit), Stands::Whole)];
            let one = bound(name, &[("key", secret)], placements(), "https://api.example", whole);
            let terms =
                ConnectionTerms { pieces: pieces.iter().map(ToString::to_string).collect(), ..Default::default() };
            RunConnection { connection: one.connection.with_terms(terms).expect("valid"), ..one }
        };
        let connections = vec![
            one("field", KEY, 'f', &["crypto"]),
            one("word", "not a key at all", 'w', &["http", "crypto"]),
            one("any", KEY, 'a', &[]),
            one("http", KEY, 'h', &["http"]),
        ];
        RunKeys::new(Arc::new(RunCredentials::new(connections).expect("long")), Arc::new(SystemEntropy))
    }

    fn used(digit: char, cipher: &str) -> FieldKeyUse {
        FieldKeyUse { key: placeholder(digit), cipher: cipher.to_owned() }
    }

    #[test]
    fn values_go_and_come_back_under_either_cipher() {
        for cipher in ["aes-256-gcm", "xchacha20-poly1305"] {
            let sealed = keys().encrypt(&used('f', cipher), b"\"ann@example.org\"", "users").expect("encrypted");
            assert_ne!(sealed.data, b"\"ann@example.org\"");
            assert_eq!(
                keys().decrypt(&used('f', cipher), &sealed, "users").expect("decrypted"),
                b"\"ann@example.org\""
            );
            for (wrong, associated) in
                [(CipherText { tag: vec![0; 16], ..sealed.clone() }, "users"), (sealed.clone(), "x")]
            {
                let error = keys().decrypt(&used('f', cipher), &wrong, associated).expect_err("changed");
                assert_eq!(error, failed(&FieldError::Unopenable));
            }
            let cut = CipherText { tag: sealed.tag[..12].to_vec(), ..sealed };
            assert_eq!(keys().decrypt(&used('f', cipher), &cut, "users"), Err(failed(&FieldError::Unopenable)));
        }
    }

    #[test]
    fn a_credential_is_a_key_and_nothing_else() {
        let (data, aes) = (placeholder('w'), used('f', "aes-256-gcm"));
        let inside = format!("<{data}>");
        let refused = [
            keys().encrypt(&aes, inside.as_bytes(), "").map(|_| ()),
            keys().encrypt(&aes, b"x", &inside).map(|_| ()),
            keys().hmac_sha256(&placeholder('f'), &inside).map(|_| ()),
            // Not the whole of it, of another run, and none at all.
            keys().hmac_sha256(&inside, "x").map(|_| ()),
            keys().hmac_sha256(&placeholder('o'), "x").map(|_| ()),
            keys().hmac_sha256(KEY, "x").map(|_| ()),
            // Not said to be a key.
            keys().hmac_sha256(&placeholder('a'), "x").map(|_| ()),
            keys().hmac_sha256(&placeholder('h'), "x").map(|_| ()),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(ExchangeError::Credential { .. })), "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_key_and_what_is_no_cipher_is_said() {
        let word = keys().encrypt(&used('w', "aes-256-gcm"), b"x", "").expect_err("no key");
        assert!(word.to_string().contains("openssl rand"), "{word}");
        let old = keys().encrypt(&used('f', "aes-256-cbc"), b"x", "").expect_err("no cipher");
        assert!(old.to_string().contains("xchacha20-poly1305"), "{old}");
        // RFC 2104 takes any key.
        assert!(keys().hmac_sha256(&placeholder('w'), "x").is_ok());
    }
}
