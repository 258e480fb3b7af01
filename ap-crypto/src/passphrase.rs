//! [`Passphrase`]: a root key that is derived from words somebody types in, by Argon2id (RFC 9106).

use std::{fmt, str::FromStr};

use argon2::{Algorithm, Argon2, Params, Version};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::{
    entropy::{Entropy, EntropyError, random_array},
    error::KeyError,
    key::RootKey,
    provider::KeyProvider,
};

/// How a passphrase becomes a key: salt and costs. Not secret, but the key depends on every part, so keep the text of it with the
/// configuration: `$argon2id$v=19$m=65536,t=3,p=4$<salt>`, as other tools write it (PHC string format, without the hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassphraseOptions {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; SALT_BYTES],
}

impl PassphraseOptions {
    /// A new salt with the costs that RFC 9106 §4 recommends second: 64 MiB, 3 passes, 4 lanes. Taken once per installation.
    ///
    /// # Errors
    /// [`EntropyError`] if the source failed.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Ok(Self { memory_kib: 64 << 10, passes: 3, lanes: 4, salt: random_array(entropy)? })
    }

    /// The same with other costs.
    ///
    /// * Memory in KiB: 19,456 (OWASP's least) to 4,194,304. Passes: 2 to 64. Lanes: 1 to 64.
    ///
    /// # Errors
    /// [`KeyError::PassphraseOptions`] if one is out of range.
    pub fn with_costs(self, memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, KeyError> {
        let in_range =
            (19_456..=4 << 20).contains(&memory_kib) && (2..=64).contains(&passes) && (1..=64).contains(&lanes);
        if in_range { Ok(Self { memory_kib, passes, lanes, ..self }) } else { Err(KeyError::PassphraseOptions) }
    }
}

impl fmt::Display for PassphraseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_kib, passes, lanes, salt } = self;
        write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}", STANDARD_NO_PAD.encode(salt))
    }
}

impl FromStr for PassphraseOptions {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "argon2id", "v=19", costs, salt] = parts.as_slice() else { return Err(KeyError::PassphraseOptions) };
        let costs: Vec<&str> = costs.split(',').collect();
        let [memory, passes, lanes] = costs.as_slice() else { return Err(KeyError::PassphraseOptions) };
        let number = |text: &str, name: &str| -> Result<u32, KeyError> {
            text.strip_prefix(name).and_then(|digits| digits.parse().ok()).ok_or(KeyError::PassphraseOptions)
        };
        let mut bytes = [0; SALT_BYTES];
        if STANDARD_NO_PAD.decode_slice(salt, &mut bytes).ok() != Some(SALT_BYTES) {
            return Err(KeyError::PassphraseOptions);
        }
        let options = Self { memory_kib: 0, passes: 0, lanes: 0, salt: bytes };
        options.with_costs(number(memory, "m=")?, number(passes, "t=")?, number(lanes, "p=")?)
    }
}

/// Derives the root key from a passphrase, each time a key is asked for: a quarter of a second and 64 MiB at start-up.
///
/// # Security
/// Whoever has the database can try passphrases, as fast as Argon2id lets them: take seven random words or more. Less than 20
/// characters, or less than 8 different ones, are refused; that stops accidents and not bad choices.
///
/// # Examples
/// ```
/// use ap_crypto::{entropy::SystemEntropy, provider::{Passphrase, PassphraseOptions}};
///
/// let options = PassphraseOptions::generate(&SystemEntropy)?.to_string(); // once, and kept
/// let provider = Passphrase::new("stapler battery seventy owl canyon tiptoe brim".into(), options.parse()?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Passphrase {
    words: SecretString,
    options: PassphraseOptions,
}

impl Passphrase {
    /// Will derive the key from `words`, exactly as they are.
    ///
    /// # Errors
    /// [`KeyError::WeakPassphrase`] if they are too short, too much the same, or longer than 1,024 bytes.
    pub fn new(words: SecretString, options: PassphraseOptions) -> Result<Self, KeyError> {
        let text = words.expose_secret();
        let mut seen: Vec<char> = text.chars().collect();
        let length = seen.len();
        seen.sort_unstable();
        seen.dedup();
        let different = seen.len();
        // The characters are the secret's.
        drop(Zeroizing::new(seen));
        if length < LEAST_CHARACTERS || different < LEAST_DIFFERENT || text.len() > MOST_BYTES {
            return Err(KeyError::WeakPassphrase { least: LEAST_CHARACTERS, different: LEAST_DIFFERENT });
        }
        Ok(Self { words, options })
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrase").field("options", &self.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyProvider for Passphrase {
    async fn root_key(&self) -> Result<RootKey, KeyError> {
        let PassphraseOptions { memory_kib, passes, lanes, salt } = &self.options;
        let params = Params::new(*memory_kib, *passes, *lanes, Some(RootKey::BYTES));
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| KeyError::PassphraseOptions)?);
        let mut key = Zeroizing::new([0; RootKey::BYTES]);
        argon2
            .hash_password_into(self.words.expose_secret().as_bytes(), salt, key.as_mut())
            .map_err(|_| KeyError::PassphraseOptions)?;
        RootKey::from_slice(key.as_ref())
    }
}

const SALT_BYTES: usize = 16;
const LEAST_CHARACTERS: usize = 20;
const LEAST_DIFFERENT: usize = 8;
/// Longest passphrase.
const MOST_BYTES: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::entropy::test_support::CountingEntropy;

    const WORDS: &str = "stapler battery seventy owl canyon tiptoe brim";

    fn key_of(words: &str, options: &PassphraseOptions) -> RootKey {
        let provider = Passphrase::new(words.into(), options.clone()).unwrap();
        match pin!(provider.root_key()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(key) => key.unwrap(),
            Poll::Pending => panic!("waited"),
        }
    }

    fn cheap(salt: u8) -> PassphraseOptions {
        PassphraseOptions { memory_kib: 19_456, passes: 2, lanes: 1, salt: [salt; SALT_BYTES] }
    }

    #[test]
    fn the_key_follows_from_words_salt_and_costs() {
        let key = key_of(WORDS, &cheap(1));
        assert!(key == key_of(WORDS, &cheap(1)));
        assert!(key != key_of(&format!("{WORDS} "), &cheap(1)));
        assert!(key != key_of(WORDS, &cheap(2)));
        assert!(key != key_of(WORDS, &cheap(1).with_costs(19_457, 2, 1).unwrap()));
        assert!(key != key_of(WORDS, &cheap(1).with_costs(19_456, 3, 1).unwrap()));
    }

    #[test]
    fn the_vector_of_rfc_9106_holds() {
        // §5.3: Argon2id, 32 KiB, 3 passes, 4 lanes.
        let mut params = argon2::ParamsBuilder::new();
        let data = argon2::AssociatedData::new(&[4; 12]).unwrap();
        params.m_cost(32).t_cost(3).p_cost(4).output_len(32).data(data);
        let argon2 =
            Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params.build().unwrap()).unwrap();
        let mut tag = [0; 32];
        argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        let mut hex = String::new();
        crate::hex::push_hex(&tag, &mut hex);
        assert_eq!(hex, "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
    }

    #[test]
    fn weak_passphrases_are_refused_without_being_shown() {
        for weak in ["", "correct horse", "1234567890123456789", "aaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababababab"]
        {
            let error = Passphrase::new(weak.into(), cheap(1)).unwrap_err();
            assert!(matches!(error, KeyError::WeakPassphrase { .. }), "{weak}");
            assert!(weak.is_empty() || !error.to_string().contains(weak));
        }
        assert!(Passphrase::new("x1y2z3a4b5c6d7e8f9g0".into(), cheap(1)).is_ok());
        assert!(Passphrase::new("abcdefghij".repeat(103).into(), cheap(1)).is_err());
        let shown = format!("{:?}", Passphrase::new(WORDS.into(), cheap(1)).unwrap());
        assert!(!shown.contains("stapler"), "{shown}");
    }

    #[test]
    fn options_round_trip_and_hold_at_their_edges() {
        let options = PassphraseOptions::generate(&CountingEntropy::default()).unwrap();
        assert_eq!(options.to_string().parse::<PassphraseOptions>().unwrap(), options);
        assert!(options.to_string().starts_with("$argon2id$v=19$m=65536,t=3,p=4$"));
        for (memory, passes, lanes, good) in [
            (19_455, 2, 1, false),
            (19_456, 1, 1, false),
            (19_456, 2, 0, false),
            (19_456, 2, 1, true),
            (4 << 20, 64, 64, true),
            ((4 << 20) + 1, 2, 1, false),
            (19_456, 65, 1, false),
            (19_456, 2, 65, false),
        ] {
            assert_eq!(options.clone().with_costs(memory, passes, lanes).is_ok(), good, "{memory} {passes} {lanes}");
        }
        let text = options.to_string();
        for wrong in [
            String::new(),
            text.replace("argon2id", "argon2i"),
            text.replace("v=19", "v=16"),
            text.replace("m=65536", "m=8"),
            text.replace(",p=4", ""),
            format!("{text}AA"),
            format!("{text}$hash"),
        ] {
            assert!(matches!(wrong.parse::<PassphraseOptions>(), Err(KeyError::PassphraseOptions)), "{wrong}");
        }
    }
}
