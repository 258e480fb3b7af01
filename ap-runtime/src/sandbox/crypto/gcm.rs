//! Galois/Counter Mode (NIST SP 800-38D) with nonces of any length, which only Node.js and old protocols ask for.

use aes::cipher::{
    BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper, common::BlockSizeUser, consts::U16,
};
use ap_crypto::signature::constant_time_eq;
use ctr::{Ctr32BE, CtrCore};
use ghash::{Block, GHash, universal_hash::UniversalHash};
use zeroize::Zeroize;

/// GCM over a block cipher under one key.
pub(super) struct Gcm<C> {
    cipher: C,
    ghash: GHash,
}

impl<C: BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + KeyInit> Gcm<C> {
    /// `None` if `key` has another length than the cipher's.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let cipher = C::new_from_slice(key).ok()?;
        let mut subkey = Block::default();
        cipher.encrypt_block(&mut subkey);
        let ghash = GHash::new(&subkey);
        subkey.zeroize();
        Some(Self { cipher, ghash })
    }

    /// Encrypts `data` where it is, and gives the whole tag. `None` if there is too much of it.
    pub(super) fn encrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8]) -> Option<Block> {
        let (mut stream, mask) = self.start(nonce)?;
        stream.try_apply_keystream(data).ok()?;
        Some(self.tag(&mask, aad, data))
    }

    /// Decrypts `data` where it is; leaves it as it is and gives `None` if `tag`, which may be cut, is not its tag.
    pub(super) fn decrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8], tag: &[u8]) -> Option<()> {
        let (mut stream, mask) = self.start(nonce)?;
        let whole = self.tag(&mask, aad, data);
        if !constant_time_eq(whole.get(..tag.len())?, tag) {
            return None;
        }
        stream.try_apply_keystream(data).ok()
    }

    /// The keystream for the data, and what masks the tag (§7.1, steps 2 and 3).
    fn start(&self, nonce: &[u8]) -> Option<(Ctr32BE<&C>, Block)> {
        let mut first = Block::default();
        if let Ok(nonce) = <&[u8; 12]>::try_from(nonce) {
            let (head, counter) = first.split_at_mut(nonce.len());
            head.copy_from_slice(nonce);
            *counter.last_mut()? = 1;
        } else {
            let mut ghash = self.ghash.clone();
            ghash.update_padded(nonce);
            ghash.update(&[lengths(0, nonce.len())]);
            first = ghash.finalize();
        }
        let mut stream = StreamCipherCoreWrapper::from_core(CtrCore::inner_iv_init(&self.cipher, &first));
        let mut mask = Block::default();
        stream.try_apply_keystream(&mut mask).ok()?;
        Some((stream, mask))
    }

    fn tag(&self, mask: &Block, aad: &[u8], encrypted: &[u8]) -> Block {
        let mut ghash = self.ghash.clone();
        ghash.update_padded(aad);
        ghash.update_padded(encrypted);
        ghash.update(&[lengths(aad.len(), encrypted.len())]);
        let mut tag = ghash.finalize();
        tag.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        tag
    }
}

/// Two lengths in bits, 64 bits each.
fn lengths(one: usize, other: usize) -> Block {
    let bits = |bytes: usize| u128::try_from(bytes).unwrap_or_default() << 3;
    Block::from((bits(one) << 64 | bits(other)).to_be_bytes())
}
