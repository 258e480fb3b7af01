//! Random tokens: webhook addresses, API keys, sessions.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    entropy::{Entropy, EntropyError},
    signature::constant_time_eq,
};

/// How long a token is behind its prefix. Unit: characters, all of the base64url alphabet.
pub const TOKEN_DIGITS: usize = 48;

/// A new token: `prefix`, then base64url of 32 random bytes and a checksum of four.
///
/// The checksum covers the prefix. It lets a scanner tell a leaked token from noise, and a door refuse a mistyped one
/// without asking the database; it authenticates nothing.
///
/// # Errors
/// [`EntropyError`] if the source failed.
pub fn generate_token(prefix: &str, entropy: &dyn Entropy) -> Result<SecretString, EntropyError> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES + CHECKSUM_BYTES]);
    let (random, checksum) = bytes.split_at_mut(RANDOM_BYTES);
    entropy.fill(random)?;
    checksum.copy_from_slice(&checksum_of(prefix, random));
    // The exact size from the start: growing would leave a copy behind.
    let mut text = String::with_capacity(prefix.len() + TOKEN_DIGITS);
    text.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(bytes.as_ref(), &mut text);
    Ok(text.into())
}

/// Whether `text` is a token that [`generate_token`] may have made with this prefix. Says nothing about whether it did.
#[must_use]
pub fn is_well_formed_token(prefix: &str, text: &str) -> bool {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES + CHECKSUM_BYTES]);
    let Some(digits) = text.strip_prefix(prefix) else { return false };
    if digits.len() != TOKEN_DIGITS || URL_SAFE_NO_PAD.decode_slice(digits, bytes.as_mut()).is_err() {
        return false;
    }
    let (random, checksum) = bytes.split_at(RANDOM_BYTES);
    constant_time_eq(&checksum_of(prefix, random), checksum)
}

fn checksum_of(prefix: &str, random: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash: [u8; 32] = Sha256::new().chain_update(prefix).chain_update(random).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

const RANDOM_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::entropy::{
        SystemEntropy,
        test_support::{CountingEntropy, NoEntropy},
    };

    #[test]
    fn tokens_are_well_formed_and_differ() {
        let entropy = CountingEntropy::default();
        let token = generate_token("whk_", &entropy).unwrap();
        let text = token.expose_secret();
        assert!(text.starts_with("whk_") && text.len() == 4 + TOKEN_DIGITS, "{text}");
        assert!(is_well_formed_token("whk_", text));
        assert_ne!(generate_token("whk_", &entropy).unwrap().expose_secret(), text);
        assert!(is_well_formed_token("", generate_token("", &SystemEntropy).unwrap().expose_secret()));
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let token = generate_token("whk_", &CountingEntropy::default()).unwrap();
        let text = token.expose_secret();
        for at in 0..text.len() {
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(!is_well_formed_token("whk_", &wrong), "{wrong}");
            assert!(!is_well_formed_token("whk_", &text[..at]));
        }
        assert!(!is_well_formed_token("key_", &text.replace("whk_", "key_")));
        assert!(!is_well_formed_token("whk_", &format!("{text}A")));
        assert!(!is_well_formed_token("whk_", &format!("{text}=")));
    }

    #[test]
    fn no_token_without_entropy_and_none_in_debug() {
        assert!(generate_token("whk_", &NoEntropy).is_err());
        let token = generate_token("whk_", &CountingEntropy::default()).unwrap();
        assert!(!format!("{token:?}").contains("whk_"));
    }
}
