//! Key types: 32 bytes on the heap, wiped on drop, with nothing to print them.

use std::fmt;

use ap_core::id::KeyId;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

use crate::{entropy::Entropy, error::KeyError, kdf};

/// The key above all others of an installation: it wraps every tenant key and seals nothing else.
///
/// 256 bits. Comes from a [`KeyProvider`](crate::provider::KeyProvider), and must be kept apart from the database it
/// protects: whoever has both can read everything.
#[derive(Debug, ZeroizeOnDrop)]
pub struct RootKey(SecretKey);

impl RootKey {
    /// Length of a root key. Unit: bytes.
    pub const BYTES: usize = SecretKey::BYTES;

    /// Copies a key; the caller wipes its own bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`] unless `bytes` are exactly [`RootKey::BYTES`]; [`KeyError::Weak`] if they are all the same,
    /// which no generator produces but a forgotten placeholder does.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = SecretKey::from_slice(bytes).ok_or(KeyError::Length { expected_bytes: Self::BYTES })?;
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            return Err(KeyError::Weak);
        }
        Ok(Self(key))
    }

    /// A new random key.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if the source failed.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeyError> {
        Ok(Self(SecretKey::generate(entropy)?))
    }

    /// Names this key in the key table and in envelopes.
    ///
    /// Derived from the key (HKDF-SHA256, RFC 5869), so a wrong root key is told from a damaged row; it reveals nothing
    /// about the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::from_u128(u128::from_be_bytes(*kdf::derive(None, &self.0, &[b"ap-crypto/root-key-id/v1"])))
    }

    pub(crate) const fn secret(&self) -> &SecretKey {
        &self.0
    }

    pub(crate) fn copy(&self) -> Self {
        Self(SecretKey::init_with(|bytes| *bytes = *self.0.expose()))
    }
}

impl PartialEq for RootKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose().ct_eq(other.0.expose()).into()
    }
}

impl Eq for RootKey {}

/// Any 256-bit secret key of this crate. Boxed, so that moving it leaves no copy behind.
#[derive(ZeroizeOnDrop)]
pub(crate) struct SecretKey(SecretBox<[u8; 32]>);

impl SecretKey {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn init_with(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        Self(SecretBox::init_with_mut(fill))
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        Some(Self::init_with(|slot| *slot = *bytes))
    }

    pub(crate) fn generate(entropy: &dyn Entropy) -> Result<Self, crate::entropy::EntropyError> {
        let mut key = Self::init_with(|_| {});
        entropy.fill(key.0.expose_secret_mut())?;
        Ok(key)
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::test_support::{CountingEntropy, NoEntropy};

    const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
    const _: () = wiped_on_drop::<RootKey>();
    const _: () = wiped_on_drop::<SecretKey>();

    #[test]
    fn debug_hides_the_key() {
        let key = RootKey::from_slice(b"canary-canary-canary-canary-1234").unwrap();
        assert_eq!(format!("{key:?}"), "RootKey(SecretKey(…))");
    }

    #[test]
    fn only_32_bytes_make_a_key() {
        let bytes: Vec<u8> = (0..33).collect();
        for wrong in [0, 16, 31, 33] {
            assert!(matches!(RootKey::from_slice(&bytes[..wrong]), Err(KeyError::Length { .. })), "{wrong}");
        }
        assert!(RootKey::from_slice(&bytes[..32]).is_ok());
    }

    #[test]
    fn a_placeholder_key_is_refused() {
        assert!(matches!(RootKey::from_slice(&[0; 32]), Err(KeyError::Weak)));
        assert!(matches!(RootKey::from_slice(&[7; 32]), Err(KeyError::Weak)));
    }

    #[test]
    fn the_id_follows_the_key() {
        let entropy = CountingEntropy::default();
        let (one, two) = (RootKey::generate(&entropy).unwrap(), RootKey::generate(&entropy).unwrap());
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id(), one.copy().id());
        assert!(one == one.copy() && one != two);
    }

    #[test]
    fn the_id_of_a_key_never_changes() {
        let bytes: Vec<u8> = (0..32).collect();
        // Computed by another implementation of HKDF; a change would lock every existing installation out.
        assert_eq!(RootKey::from_slice(&bytes).unwrap().id().as_u128(), ROOT_ID_OF_COUNTING_BYTES);
    }

    const ROOT_ID_OF_COUNTING_BYTES: u128 = 0xbde604fd_bbb1650c_4def011e_f5316982;

    #[test]
    fn no_key_without_entropy() {
        assert!(matches!(RootKey::generate(&NoEntropy), Err(KeyError::Entropy(_))));
    }
}
