//! Keys, envelope encryption, the credential vault and secret redaction of the `ap-runtime` workflow SDK.
//!
//! Root key ([`provider`]) → tenant keys ([`keyring`]) → keys of data subjects ([`subject`]), where there are some → one key
//! per sealed value ([`envelope`]). What leaves this crate
//! is [`ap_core::store::Sealed`] bytes, keyed hashes and placeholder text; stores never see more.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`provider`] | where the root key comes from: environment variable, key or secret file, passphrase, memory |
//! | [`keyring`] | opening tenant keys with the root key; the key table's seam |
//! | [`vault`] | sealing, opening, look-up hashes and placeholders of one tenant |
//! | [`subject`] | keys of data subjects, which are destroyed to erase what is sealed under them |
//! | [`envelope`] | the sealed format, and the context a value is bound to |
//! | [`connection`] | the form in which a connection is sealed |
//! | [`placeholder`] | the text that stands for a secret |
//! | [`signature`], [`token`] | HMAC signatures, constant-time comparison, random tokens |
//! | [`sigv4`] | AWS Signature Version 4 |
//! | [`resume`] | tokens by which somebody outside answers a run that waits |
//! | `field` | encryption of single values of a flow's data (feature `field`) |
//! | [`redact`] | masking secrets in whatever leaves a run |
//! | `import` (feature) | reading connections as Activepieces stores them |
//! | [`entropy`], [`key`], [`error`] | randomness, key types, errors |
//!
//! # Security
//!
//! Protected: values at rest against whoever reads, changes or swaps rows of the database without the root key.
//! Not protected: against whoever can read this process's memory or holds the root key; the length of values; putting
//! back a whole old row together with its old version.
//!
//! Keys, and plaintext this crate allocates, are wiped when dropped. Copies that the compiler makes in registers and on
//! the stack are beyond reach.
#![forbid(unsafe_code)]

mod aead;
pub mod connection;
pub mod entropy;
pub mod envelope;
pub mod error;
#[cfg(feature = "field")]
pub mod field;
mod hex;
#[cfg(feature = "import")]
pub mod import;
mod kdf;
pub mod key;
mod key_file;
pub mod keyring;
#[cfg(feature = "passphrase")]
mod passphrase;
pub mod placeholder;
pub mod provider;
pub mod redact;
pub mod resume;
mod secret_file;
pub mod signature;
pub mod sigv4;
pub mod subject;
pub mod token;
pub mod vault;
