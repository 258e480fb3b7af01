//! [`VaultError`] for sealing and opening, [`KeyError`] for getting at keys.

use std::{io, path::PathBuf};

use ap_core::{id::KeyId, scope::Scope, store::StoreError};

use crate::entropy::EntropyError;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The value is larger than an envelope may hold.
    #[error("{actual_bytes} bytes cannot be sealed: at most {limit_bytes} are allowed")]
    TooLarge {
        /// Its size.
        actual_bytes: usize,
        /// [`MAX_PLAINTEXT_BYTES`](crate::envelope::MAX_PLAINTEXT_BYTES).
        limit_bytes: usize,
    },
    /// The bytes are not what was sealed under this key for this context. There is no more to learn from the error, on
    /// purpose; the operator's log has the reason (target `ap_crypto`).
    #[error("the sealed value cannot be opened")]
    Unopenable,
    /// The stored form has no way to hold a connection of this type.
    #[error("connections of type `{type_name}` cannot be stored by this version")]
    UnsupportedConnection {
        /// Wire name of the type.
        type_name: &'static str,
    },
    /// The context names another tenant than the keys belong to: a defect of the calling code.
    #[error("the value belongs to another tenant than the key")]
    WrongScope,
    /// No nonce could be generated.
    #[error("no nonce could be generated")]
    Entropy(#[source] EntropyError),
}

impl VaultError {
    /// Whether the same call may succeed later without any change by the caller.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Entropy(_))
    }
}

impl From<EntropyError> for VaultError {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

/// Why a key is not available. For the operator: none of these is caused by data from outside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is neither of the accepted forms of a key.
    #[error("{origin} must hold 64 hex digits, or base64 of exactly 32 bytes")]
    Format {
        /// Where the text came from; never the text.
        origin: String,
    },
    /// The content of a key file is not a key.
    #[error("key file `{}` must hold exactly 64 hex digits and a line feed", path.display())]
    FileFormat {
        /// The file.
        path: PathBuf,
    },
    /// A key has one length.
    #[error("a key is exactly {expected_bytes} bytes")]
    Length {
        /// The only accepted length.
        expected_bytes: usize,
    },
    /// The environment variable is not set.
    #[error("environment variable `{name}` is not set: give it 64 hex digits, or base64 of exactly 32 bytes")]
    Missing {
        /// The variable.
        name: String,
    },
    /// The scope has no key: it was never created, or its key was destroyed and its data with it.
    #[error("`{scope}` has no key")]
    NoKey {
        /// The tenant.
        scope: Scope,
    },
    /// Others than the owner may use the key file.
    #[error("key file `{}` has mode {mode:04o}: others may read or change it; run `chmod 600` on it, and replace the key if anyone did", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// More root keys were given than can be tried.
    #[error("at most {limit} previous root keys can be given")]
    TooManyRootKeys {
        /// [`Keyring::MAX_PREVIOUS_ROOTS`](crate::keyring::Keyring::MAX_PREVIOUS_ROOTS).
        limit: usize,
    },
    /// Salt or costs of a passphrase are no such text, or out of range.
    #[error(
        "the options of a passphrase must be `$argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<salt of 16 bytes>`: generate them once"
    )]
    PassphraseOptions,
    /// The text holds a key that is too short.
    #[error(
        "{origin} holds a key of {bits} bits, and a root key has 256: 32 hex digits are 128; generate one with `openssl rand -hex 32`"
    )]
    Short {
        /// Where the text came from; never the text.
        origin: String,
        /// How long the key is.
        bits: usize,
    },
    /// The passphrase could be guessed.
    #[error(
        "the passphrase is too weak: take seven random words, at least {least} characters and {different} different ones"
    )]
    WeakPassphrase {
        /// Least number of characters.
        least: usize,
        /// Least number of different ones.
        different: usize,
    },
    /// A stored key does not open under the right parent: the row was damaged or changed.
    #[error("stored key `{id}` of `{scope}` is damaged")]
    Unopenable {
        /// The key.
        id: KeyId,
        /// Its tenant.
        scope: Scope,
    },
    /// All bytes are the same: a placeholder, not a key.
    #[error("the root key is a placeholder: all its bytes are the same; generate one with `openssl rand -hex 32`")]
    Weak,
    /// The root key is another one than the data was sealed with.
    #[error("wrong root key: `{scope}` was sealed under root key `{expected}`, but the provider gave `{actual}`")]
    WrongRootKey {
        /// The tenant that showed it.
        scope: Scope,
        /// Id of the root key that wrapped the stored key.
        expected: KeyId,
        /// Id of the root key in use.
        actual: KeyId,
    },
    /// No key could be generated.
    #[error("no key could be generated")]
    Entropy(#[from] EntropyError),
    /// The key file could not be read or written.
    #[error("key file `{}` cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An outside provider (a key management service, a host's own) failed.
    #[error("the key provider failed")]
    Provider(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key table could not be used.
    #[error("the key table cannot be used")]
    Store(#[from] StoreError),
}

impl KeyError {
    /// Whether the same call may succeed later without any change by the caller.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Entropy(_) | Self::Provider(_) => true,
            _ => false,
        }
    }
}
