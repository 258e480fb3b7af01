//! [`KeyHandles`]: keys that were made from secrets, under names that a script may hold.

use std::{collections::HashMap, fmt, str, sync::Arc};

use ap_crypto::placeholder::CredentialRef;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{HostError, random::StepRandom, shown};

/// The key of one operation.
pub(super) enum Key<'a> {
    /// The script's own bytes.
    Plain(&'a [u8]),
    /// A connection's secret.
    Secret(SecretString),
    /// Made from a connection's secret.
    Made(Arc<Zeroizing<Vec<u8>>>),
}

impl Key<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Secret(secret) => secret.expose_secret().as_bytes(),
            Self::Made(bytes) => bytes,
        }
    }

    /// Whether the script does not know it.
    pub(super) const fn is_secret(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

/// The keys of one step. A handle has the form of a placeholder, and nothing of the key in it. Wiped when dropped.
#[derive(Default)]
pub(super) struct KeyHandles {
    keys: HashMap<String, Arc<Zeroizing<Vec<u8>>>>,
    /// Text and encoding → handle: reading the same secret twice makes one key.
    decoded: HashMap<(String, Encoding), String>,
    /// Of the derived ones.
    bytes: usize,
}

impl KeyHandles {
    pub(super) fn get(&self, handle: &str) -> Option<Arc<Zeroizing<Vec<u8>>>> {
        self.keys.get(handle).map(Arc::clone)
    }

    /// Keeps a key that was derived, so that whoever asked for it knows its length, and gives its new handle.
    pub(super) fn insert(&mut self, random: &mut StepRandom, key: Zeroizing<Vec<u8>>) -> Result<String, HostError> {
        let bytes = self.bytes + key.len();
        if bytes > MOST_KEY_BYTES {
            let message =
                format!("a step may derive at most {MOST_KEY_BYTES} bytes of keys from secrets of connections");
            return Err(HostError::new("RangeError", message));
        }
        let handle = self.keep(random, key)?;
        self.bytes = bytes;
        Ok(handle)
    }

    /// The handle that [`KeyHandles::insert_decoded`] gave for the same.
    pub(super) fn decoded(&self, text: &str, encoding: Encoding) -> Option<&str> {
        self.decoded.get(&(text.to_owned(), encoding)).map(String::as_str)
    }

    /// Keeps what `text` stands for, read as `encoding`, and gives its new handle. There is one for each placeholder and encoding,
    /// and nothing here depends on its length: a bound on bytes, filled up to the last, would measure it.
    pub(super) fn insert_decoded(
        &mut self,
        random: &mut StepRandom,
        text: &str,
        encoding: Encoding,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<String, HostError> {
        let handle = self.keep(random, key)?;
        self.decoded.insert((text.to_owned(), encoding), handle.clone());
        Ok(handle)
    }

    /// Whether a handle stands somewhere in `bytes`.
    pub(super) fn mentions(&self, bytes: &[u8]) -> bool {
        let mut candidates = memmem::find_iter(bytes, CredentialRef::PREFIX)
            .filter_map(|start| str::from_utf8(bytes.get(start..start + CredentialRef::BYTES)?).ok());
        !self.keys.is_empty() && candidates.any(|text| self.keys.contains_key(text))
    }

    fn keep(&mut self, random: &mut StepRandom, key: Zeroizing<Vec<u8>>) -> Result<String, HostError> {
        if self.keys.len() >= MOST_KEYS {
            let message = format!("a step may make at most {MOST_KEYS} keys from secrets of connections");
            return Err(HostError::new("RangeError", message));
        }
        let mut handle = String::with_capacity(CredentialRef::BYTES);
        handle.push_str(CredentialRef::PREFIX);
        URL_SAFE_NO_PAD.encode_string(random.handle()?, &mut handle);
        self.keys.insert(handle.clone(), Arc::new(key));
        Ok(handle)
    }
}

impl fmt::Debug for KeyHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHandles({})", self.keys.len())
    }
}

/// How a secret spells a key: the encodings of Node.js.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    Base64,
    Hex,
    Latin1,
    Utf16,
    Utf8,
}

impl Encoding {
    pub(super) fn named(name: &[u8]) -> Result<Self, HostError> {
        let lower: Vec<u8> = name.iter().take(LONGEST_ENCODING + 1).map(u8::to_ascii_lowercase).collect();
        Ok(match lower.as_slice() {
            // Node.js reads either alphabet under both names.
            b"base64" | b"base64url" => Self::Base64,
            b"hex" => Self::Hex,
            b"ascii" | b"binary" | b"latin1" => Self::Latin1,
            b"ucs2" | b"ucs-2" | b"utf16le" | b"utf-16le" => Self::Utf16,
            b"utf8" | b"utf-8" => Self::Utf8,
            _ => return Err(HostError::new("code:ERR_UNKNOWN_ENCODING", format!("Unknown encoding: {}", shown(name)))),
        })
    }

    /// The key that a secret spells. Where Node.js would stop at the first digit that is none, and go on with a shorter key,
    /// this is an error.
    pub(super) fn decode(self, text: &str) -> Result<Zeroizing<Vec<u8>>, HostError> {
        // One text: which encodings fail is the script's to see, how they fail is not.
        let refused = || {
            let message = "the connection's secret cannot be read as a key in this encoding: Buffer.from(secret, encoding) takes \
                           'hex', 'base64', 'base64url', 'latin1' and 'utf16le', for a secret that is wholly written so. One that \
                           is written in none of them is a key as it is";
            HostError::new("Error", message)
        };
        match self {
            Self::Base64 => from_base64(text.as_bytes()).ok_or_else(refused),
            Self::Hex => from_hex(text.as_bytes()).ok_or_else(refused),
            Self::Latin1 => {
                let bytes = || text.chars().map(|letter| u8::try_from(u32::from(letter)));
                let mut key = Zeroizing::new(Vec::with_capacity(text.len()));
                for byte in bytes() {
                    key.push(byte.map_err(|_| refused())?);
                }
                Ok(key)
            }
            Self::Utf16 => {
                let mut key = Zeroizing::new(Vec::with_capacity(2 * text.len()));
                key.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                Ok(key)
            }
            Self::Utf8 => Ok(Zeroizing::new(text.as_bytes().to_vec())),
        }
    }
}

/// The argument as text, if it has the form of a placeholder.
pub(super) fn placeholder_form(argument: &[u8]) -> Option<&str> {
    if argument.len() != CredentialRef::BYTES {
        return None;
    }
    str::from_utf8(argument).ok().filter(|text| CredentialRef::looks_like(text))
}

/// Whether it is worth a closer look whether a placeholder or a handle stands in `bytes`.
pub(super) fn may_mention(bytes: &[u8]) -> bool {
    memmem::find(bytes, CredentialRef::PREFIX.as_bytes()).is_some()
}

fn from_hex(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut key = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        let [high, low] =
            [high, low].map(|digit| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok()));
        key.push(high? << 4 | low?);
    }
    (rest.is_empty() && !key.is_empty()).then_some(key)
}

/// Either alphabet, padded or not, with white space between.
fn from_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.iter().filter(|digit| !digit.is_ascii_whitespace());
    let mut standard = Zeroizing::new(Vec::with_capacity(text.len()));
    standard.extend(digits.map(|digit| match digit {
        b'-' => b'+',
        b'_' => b'/',
        digit => *digit,
    }));
    let mut key = Zeroizing::new(vec![0; text.len()]);
    let length = BASE64.decode_slice(&*standard, &mut key).ok().filter(|length| *length > 0)?;
    key.truncate(length);
    Some(key)
}

/// What Node.js accepts.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Most keys of one step.
pub(super) const MOST_KEYS: usize = 1000;
/// Most bytes of the derived keys of one step together; 1 MiB.
pub(super) const MOST_KEY_BYTES: usize = 1 << 20;
const LONGEST_ENCODING: usize = 9;
