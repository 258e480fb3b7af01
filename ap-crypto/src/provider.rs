//! [`KeyProvider`]: where the root key comes from.

use std::{env, fmt};

use async_trait::async_trait;
use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use crate::{entropy::Entropy, error::KeyError, hex::decode_hex, key::RootKey};

#[cfg(feature = "passphrase")]
pub use crate::passphrase::{Passphrase, PassphraseOptions};
pub use crate::{key_file::KeyFile, secret_file::SecretFile};

/// Supplies the root key. A required argument of the runtime's builder: there is no default key.
///
/// # Contract
/// The same key every time, for as long as data sealed under it is to be read. Losing the key loses the data.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync + 'static {
    /// The root key. Called at start-up.
    ///
    /// # Errors
    /// [`KeyError`] naming what the operator must do; never the key or a part of it.
    async fn root_key(&self) -> Result<RootKey, KeyError>;
}

/// Reads the key from an environment variable: 64 hex digits, or standard base64 of exactly 32 bytes.
///
/// # Security
/// The variable stays readable to this process, to its children, and on Linux to the same user under `/proc`. Prefer
/// [`KeyFile`] or a key management service where that matters.
#[derive(Clone, Debug)]
pub struct EnvKeyProvider {
    variable: String,
}

impl EnvKeyProvider {
    /// Will read `variable`, such as `AP_ROOT_KEY`.
    #[must_use]
    pub fn new(variable: impl Into<String>) -> Self {
        Self { variable: variable.into() }
    }
}

#[async_trait]
impl KeyProvider for EnvKeyProvider {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let origin = || format!("environment variable `{}`", self.variable);
        match env::var(&self.variable) {
            Ok(text) => RootKey::from_text(Zeroizing::new(text).as_bytes(), &origin()),
            Err(env::VarError::NotPresent) => Err(KeyError::Missing { name: self.variable.clone() }),
            Err(env::VarError::NotUnicode(text)) => {
                drop(Zeroizing::new(text.into_encoded_bytes()));
                Err(KeyError::Format { origin: origin() })
            }
        }
    }
}

/// Holds the key in memory: for tests, and for hosts that fetch the key themselves.
#[derive(Debug)]
pub struct MemoryKeyProvider(RootKey);

impl MemoryKeyProvider {
    /// Gives out `key`.
    #[must_use]
    pub const fn new(key: RootKey) -> Self {
        Self(key)
    }

    /// Gives out a new random key; what it seals is lost with it.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if the source failed.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeyError> {
        RootKey::generate(entropy).map(Self)
    }
}

#[async_trait]
impl KeyProvider for MemoryKeyProvider {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        Ok(self.0.copy())
    }
}

impl RootKey {
    /// Reads a key as text: 64 hex digits, or standard base64 of exactly 32 bytes. `origin` says in errors where the text is from.
    ///
    /// # Errors
    /// [`KeyError::Short`] for 128 or 192 bits in either form, such as the 32 hex digits that the reference product takes,
    /// [`KeyError::Format`] for anything else, [`KeyError::Weak`].
    pub fn from_text(text: &[u8], origin: &str) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        if decode_hex(text, bytes.as_mut()) {
            return Self::from_slice(bytes.as_ref());
        }
        // The form is judged by what the text may be: whatever is no base64 either is not told from the rest.
        let length = [16, 24]
            .into_iter()
            .find(|length| bytes.get_mut(..*length).is_some_and(|short| decode_hex(text, short)))
            .or_else(|| BASE64.decode_slice(text, bytes.as_mut()).ok());
        match length {
            Some(Self::BYTES) => Self::from_slice(bytes.as_ref()),
            Some(length @ (16 | 24)) => Err(KeyError::Short { origin: origin.to_owned(), bits: 8 * length }),
            _ => Err(KeyError::Format { origin: origin.to_owned() }),
        }
    }
}

/// Standard alphabet; padding may be left out, spare bits must be zero.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::entropy::test_support::CountingEntropy;

    fn key_of(provider: &dyn KeyProvider) -> Result<RootKey, KeyError> {
        match pin!(provider.root_key()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(key) => key,
            Poll::Pending => panic!("waited"),
        }
    }

    fn parse(text: &str) -> Result<RootKey, KeyError> {
        RootKey::from_text(text.as_bytes(), "the test")
    }

    #[test]
    fn both_forms_give_the_same_key() {
        let bytes: Vec<u8> = (100..132).collect();
        let mut hex = String::new();
        crate::hex::push_hex(&bytes, &mut hex);
        let expected = RootKey::from_slice(&bytes).unwrap();
        for text in [&hex, &hex.to_uppercase(), &STANDARD.encode(&bytes), STANDARD.encode(&bytes).trim_end_matches('=')]
        {
            assert!(parse(text).unwrap() == expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_without_being_shown() {
        let hex = "c0ffee11".repeat(8);
        let base64 = STANDARD.encode((1..33).collect::<Vec<u8>>());
        let wrong = [
            String::new(),
            hex[..63].to_owned(),
            hex[..62].to_owned(),
            format!("{hex}0"),
            format!("{hex}00"),
            format!("{hex}\n"),
            format!(" {hex}"),
            base64[..42].to_owned(),
            format!("{base64}A"),
            base64.replace('=', "=="),
            STANDARD.encode((1..32).collect::<Vec<u8>>()),
            STANDARD.encode((1..34).collect::<Vec<u8>>()),
        ];
        for text in wrong {
            let error = parse(&text).err().map(|error| error.to_string());
            assert_eq!(
                error.as_deref(),
                Some("the test must hold 64 hex digits, or base64 of exactly 32 bytes"),
                "{text}"
            );
        }
        assert!(matches!(parse(&"0".repeat(64)), Err(KeyError::Weak)));
    }

    #[test]
    fn a_short_key_is_refused_with_the_reason_and_the_mend() {
        let sixteen: Vec<u8> = (1..17).collect();
        let hex = "0123456789abcdef".repeat(2);
        for (text, bits) in [
            (hex.clone(), 128),
            (hex.to_uppercase(), 128),
            (STANDARD.encode(&sixteen), 128),
            ("0123456789abcdef".repeat(3), 192),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(matches!(error, KeyError::Short { bits: found, .. } if found == bits), "{text}: {error}");
            let message = error.to_string();
            assert!(message.contains(&format!("{bits} bits")) && message.contains("openssl rand -hex 32"), "{message}");
            assert!(!format!("{error} {error:?}").contains(&text));
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = key_of(&EnvKeyProvider::new("AP_TEST_KEY_THAT_NOBODY_SETS")).err().unwrap();
        assert!(error.to_string().contains("`AP_TEST_KEY_THAT_NOBODY_SETS` is not set"), "{error}");
    }

    #[test]
    fn a_set_variable_is_read() {
        // Cargo sets this one for every test; it is no key, and must not show up in the message.
        let value = env::var("CARGO_PKG_DESCRIPTION").unwrap();
        let error = key_of(&EnvKeyProvider::new("CARGO_PKG_DESCRIPTION")).err().unwrap();
        assert!(matches!(error, KeyError::Format { .. }));
        assert!(!format!("{error} {error:?}").contains(&value));
    }

    #[test]
    fn a_provider_in_memory_gives_the_same_key_each_time() {
        let provider = MemoryKeyProvider::generate(&CountingEntropy::default()).unwrap();
        assert!(key_of(&provider).unwrap() == key_of(&provider).unwrap());
        assert_eq!(format!("{provider:?}"), "MemoryKeyProvider(RootKey(SecretKey(…)))");
    }
}
