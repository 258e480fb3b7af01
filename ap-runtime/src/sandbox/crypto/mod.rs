//! What cryptographic functions do for a step, on the host's side of the border: operations 2 to 8.
//!
//! A step holds no secret of a connection, only a placeholder. Where an operation takes a *key*, exactly a placeholder of this
//! run, or the handle of a key that was made from one, stands for the secret; anywhere else both are refused.
//!
//! # Security
//! Whoever writes the script is the attacker. What it may learn:
//!
//! * **What the key does.** Signing and encrypting chosen data under a secret is what such a connection is for, so guesses of a
//!   weak secret can be tried against a signature, as everyone can who ever sees one. That is why [`CodeHost::key`] gives
//!   out secrets of those connections only whose owner bound them to the piece `crypto`.
//! * **Nothing of the key itself.** It is no operand of a comparison, a hash, a salt or data. Handles have one length and are
//!   drawn, so equal keys have different handles. A key of a wrong length is refused in the same words whatever its length;
//!   that it fits tells no more than which AES it is for. A key that is made from a secret has at least 128 bits, else its
//!   few bits could be tried out, and longer ones after it byte by byte. Tags under a secret have at least 96 bits.
//! * **That its text is no key by itself.** Text of the form of a placeholder that is none here, and parts of one, are refused as
//!   keys: whoever reads the run could sign with them, and what they encrypt nobody decrypts in the next attempt.
//! * **What was encrypted under it**, less the secrets of the run: decrypted text passes [`CodeHost::scrub`]. So a script can
//!   ask whether a whole value of eight bytes or more is a secret of the run, by decrypting its own encryption of a guess; it
//!   can do so with every peer that echoes. Prefixes and single bytes are not masked, hence cannot be asked for. A script that
//!   encrypts zeros, and adds that keystream to a text by itself, sees what nothing here can mask; what it returns, logs or
//!   sends then passes the redactor of the run like all else.
//!
//! Nothing here can be interrupted, so each call is bounded: [`MOST_BYTES`] go in, derivations cost about 200 ms at most.

mod cipher;
mod digest;
mod gcm;
mod kdf;
mod keys;
mod parts;
mod random;
#[cfg(test)]
mod tests;

use std::{fmt, str, sync::Arc};

use ap_crypto::signature::constant_time_eq;
use secrecy::ExposeSecret;

pub(crate) use self::random::engine_seed;
use self::{
    digest::Hash,
    keys::{Encoding, Key, KeyHandles},
    parts::Parts,
    random::{MOST_RANDOM_BYTES, StepRandom},
};
use super::{CodeHost, calls::HostError};

/// What the cryptography of one step works with. Wiped when dropped.
pub(crate) struct CryptoState {
    host: Arc<dyn CodeHost>,
    random: StepRandom,
    handles: KeyHandles,
    parts: Parts,
}

impl CryptoState {
    /// All randomness of the step follows from `seed`, which no other attempt may have and no script may know: scripts draw
    /// nonces and keys from it.
    pub(crate) fn new(host: Arc<dyn CodeHost>, seed: &[u8; 32]) -> Self {
        let mut parts = Parts::default();
        host.placeholders().iter().for_each(|text| parts.add(text));
        Self { host, random: StepRandom::new(seed), handles: KeyHandles::default(), parts }
    }

    /// Whether this is an operation of cryptography.
    pub(crate) const fn has(operation: u32) -> bool {
        matches!(operation, RANDOM..=EQUAL)
    }

    /// Does what the guest asks for.
    pub(crate) fn call(&mut self, operation: u32, arguments: &[&[u8]]) -> Result<Vec<u8>, HostError> {
        if arguments.iter().map(|argument| argument.len()).sum::<usize>() > MOST_BYTES {
            let message = format!("a cryptographic operation takes at most {MOST_BYTES} bytes at once");
            return Err(HostError::new("RangeError", message));
        }
        match (operation, arguments) {
            (RANDOM, [length]) => self.random(length),
            (HASH, [algorithm, data]) => self.hash(algorithm, data),
            (HMAC, [algorithm, key, data]) => self.hmac(algorithm, key, data),
            (CIPHER, [options, key, iv, rest @ ..]) if rest.len() <= 3 => {
                let mut rest = rest.iter().copied();
                let [aad, data, tag] = [rest.next(), rest.next(), rest.next()].map(Option::unwrap_or_default);
                self.cipher(options, key, &cipher::Input { iv, aad, data, tag })
            }
            (KDF, [options, password, salt]) => self.kdf(options, password, salt, &[]),
            (KDF, [options, password, salt, info]) => self.kdf(options, password, salt, info),
            (KEY, [placeholder, encoding]) => self.decode_key(placeholder, encoding),
            (EQUAL, [one, other]) => self.equal(one, other),
            (RANDOM..=EQUAL, _) => Err(HostError::new(
                "TypeError",
                "a cryptographic operation got another number of arguments than it takes",
            )),
            _ => Err(HostError::new("Error", format!("there is no cryptographic operation {operation}"))),
        }
    }

    fn random(&mut self, length: &[u8]) -> Result<Vec<u8>, HostError> {
        let length = str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| *length <= MOST_RANDOM_BYTES).ok_or_else(|| {
            let message = format!("The value of \"size\" is out of range. It must be >= 0 && <= {MOST_RANDOM_BYTES}");
            HostError::new("code:ERR_OUT_OF_RANGE", message)
        })?;
        self.random.bytes(length)
    }

    fn hash(&self, algorithm: &[u8], data: &[u8]) -> Result<Vec<u8>, HostError> {
        let hash = Hash::named(algorithm)
            .ok_or_else(|| HostError::new("Error", format!("Digest method not supported: {}", digest::WHAT_TO_USE)))?;
        self.refuse_secrets(&[("data", data)])?;
        Ok(hash.digest(data))
    }

    fn hmac(&self, algorithm: &[u8], key: &[u8], data: &[u8]) -> Result<Vec<u8>, HostError> {
        let hash = Hash::required(algorithm)?;
        self.refuse_secrets(&[("data", data)])?;
        Ok(hash.hmac(self.key(key)?.bytes(), data))
    }

    fn cipher(&self, options: &[u8], key: &[u8], input: &cipher::Input<'_>) -> Result<Vec<u8>, HostError> {
        let options = cipher::Options::parse(options)?;
        self.refuse_secrets(&[
            ("initialization vector", input.iv),
            ("additional data", input.aad),
            ("data", input.data),
            ("authentication tag", input.tag),
        ])?;
        let key = self.key(key)?;
        let output = options.apply(&key, input)?;
        Ok(if key.is_secret() && options.may_decrypt() { self.host.scrub(output) } else { output })
    }

    fn kdf(&mut self, options: &[u8], password: &[u8], salt: &[u8], info: &[u8]) -> Result<Vec<u8>, HostError> {
        let options = kdf::Options::parse(options)?;
        self.refuse_secrets(&[("salt", salt), ("info", info)])?;
        let password = self.key(password)?;
        let mut derived = options.derive(&password, salt, info)?;
        if password.is_secret() {
            let handle = self.handles.insert(&mut self.random, derived)?;
            self.parts.add(&handle);
            return Ok(handle.into_bytes());
        }
        Ok(std::mem::take(&mut *derived))
    }

    /// The handle of the key that a secret spells, in hex for instance; nothing for a text that stands for no secret.
    fn decode_key(&mut self, placeholder: &[u8], encoding: &[u8]) -> Result<Vec<u8>, HostError> {
        let encoding = Encoding::named(encoding)?;
        let Some(text) = keys::placeholder_form(placeholder) else { return Ok(Vec::new()) };
        if let Some(handle) = self.handles.decoded(text, encoding) {
            return Ok(handle.as_bytes().to_vec());
        }
        let keeps_letters = matches!(encoding, Encoding::Latin1 | Encoding::Utf8);
        let secret = match self.known_key(text)? {
            // The bytes of the text: harmless as data, and refused as a key.
            None if keeps_letters => return Ok(Vec::new()),
            None => return Err(unknown_key()),
            Some(Key::Secret(secret)) if encoding != Encoding::Utf8 => secret,
            // Bytes went through a string, as they do in old programs.
            Some(_) if keeps_letters => return Ok(placeholder.to_vec()),
            Some(_) => {
                let message = "what was made from a connection's secret is a key already, and spells no other one";
                return Err(HostError::new("Error", message));
            }
        };
        let decoded = encoding.decode(secret.expose_secret())?;
        let handle = self.handles.insert_decoded(&mut self.random, text, encoding, decoded)?;
        self.parts.add(&handle);
        Ok(handle.into_bytes())
    }

    fn equal(&self, one: &[u8], other: &[u8]) -> Result<Vec<u8>, HostError> {
        self.refuse_secrets(&[("compared value", one), ("compared value", other)])?;
        if one.len() != other.len() {
            let name = "code:ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH";
            return Err(HostError::new(name, "Input buffers must have the same byte length"));
        }
        Ok(vec![u8::from(constant_time_eq(one, other))])
    }

    /// The key that an argument is, or stands for. What only looks like a secret is none: see [`Parts`].
    fn key<'a>(&self, argument: &'a [u8]) -> Result<Key<'a>, HostError> {
        if let Some(text) = keys::placeholder_form(argument) {
            return self.known_key(text)?.ok_or_else(unknown_key);
        }
        if self.mentions(argument) {
            return Err(HostError::new(
                "Error",
                "a connection's secret is a key as a whole only: nothing may stand before or after it",
            ));
        }
        if keys::may_mention(argument) || self.parts.in_key(argument) {
            return Err(HostError::new("Error", PART_OF_SECRET));
        }
        Ok(Key::Plain(argument))
    }

    /// The key that `text` stands for, if it stands for any.
    fn known_key(&self, text: &str) -> Result<Option<Key<'static>>, HostError> {
        if let Some(key) = self.handles.get(text) {
            return Ok(Some(Key::Made(key)));
        }
        match self.host.key(text) {
            Some(Ok(secret)) => Ok(Some(Key::Secret(secret))),
            Some(Err(refused)) => Err(HostError::new("Error", refused.to_string())),
            None => Ok(None),
        }
    }

    fn refuse_secrets(&self, arguments: &[(&str, &[u8])]) -> Result<(), HostError> {
        match arguments.iter().find(|(_, bytes)| self.mentions(bytes)) {
            Some((what, _)) => {
                Err(HostError::new("Error", format!("a connection's secret may be used as a key only, not as {what}")))
            }
            None => Ok(()),
        }
    }

    /// Whether what stands for a secret, or for a key made from one, stands somewhere in `bytes`.
    pub(crate) fn mentions(&self, bytes: &[u8]) -> bool {
        keys::may_mention(bytes) && (self.host.mentions(bytes) || self.handles.mentions(bytes))
    }
}

/// How many keys there are, at most.
impl fmt::Debug for CryptoState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptoState").field("handles", &self.handles).finish_non_exhaustive()
    }
}

/// A key would be text that was a secret's in another run, which others may have seen.
fn unknown_key() -> HostError {
    let message = "this text is no key here: it stands for a connection's secret in another run or another step, or for one that is \
                   gone. Name the connection in the parameters of this step";
    HostError::new("Error", message)
}

/// Reads the options of an operation, which the prelude writes.
fn options<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, HostError> {
    let parsed = if json.len() <= MOST_OPTION_BYTES { serde_json::from_slice(json).ok() } else { None };
    parsed.ok_or_else(|| HostError::new("TypeError", "the options are not those of this cryptographic operation"))
}

/// What the script called something, in so far as that can be shown.
fn shown(name: &[u8]) -> String {
    name.iter().copied().take(32).filter(u8::is_ascii_graphic).map(char::from).collect()
}

const PART_OF_SECRET: &str = "the key is a part of the text that stands for a connection's secret, or for a key that was made from \
                              one, and not of the secret itself: use the whole value as the key, read it by Buffer.from(secret, \
                              'hex') or 'base64' if it is written so, and derive each key with the length that it needs, as by \
                              scryptSync(secret, salt, 32)";
/// Most that one call takes, all arguments together. Unit: bytes; 16 MiB.
pub(crate) const MOST_BYTES: usize = 16 << 20;
/// Longest options. Unit: bytes of JSON.
const MOST_OPTION_BYTES: usize = 4096;

const RANDOM: u32 = 2;
const HASH: u32 = 3;
const HMAC: u32 = 4;
const CIPHER: u32 = 5;
const KDF: u32 = 6;
const KEY: u32 = 7;
const EQUAL: u32 = 8;
