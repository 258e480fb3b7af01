//! AES-256-CBC with PKCS #7 padding (NIST SP 800-38A, RFC 5652 §6.3) and AES-256-GCM (NIST SP 800-38D): opening only.

use aes::Aes256;
use aes_gcm::{Aes256Gcm, Nonce, Tag, aead::AeadInOut};
use cbc::{
    Decryptor,
    cipher::{BlockModeDecrypt, KeyInit, KeyIvInit, block_padding::Pkcs7},
};
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// Length of the IV that the other product gives CBC. Unit: bytes.
pub(super) const CBC_IV_BYTES: usize = 16;
/// Length of the nonce that the other product gives GCM. Unit: bytes.
pub(super) const GCM_NONCE_BYTES: usize = 12;
/// Length of a tag of GCM. Unit: bytes.
pub(super) const GCM_TAG_BYTES: usize = 16;

/// `None` if length or padding are wrong; nothing else can be noticed.
pub(super) fn open_cbc(
    key: &[u8; KEY_BYTES],
    iv: &[u8; CBC_IV_BYTES],
    mut data: Zeroizing<Vec<u8>>,
) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = Decryptor::<Aes256>::new(key.into(), iv.into());
    let length = cipher.decrypt_padded::<Pkcs7>(&mut data).ok()?.len();
    data.truncate(length);
    Some(data)
}

/// `None` if the tag does not fit.
pub(super) fn open_gcm(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; GCM_NONCE_BYTES],
    mut data: Zeroizing<Vec<u8>>,
    tag: &[u8; GCM_TAG_BYTES],
) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
    Aes256Gcm::new(key.into()).decrypt_inout_detached(&nonce, b"", data.as_mut_slice().into(), &tag).ok()?;
    Some(data)
}
