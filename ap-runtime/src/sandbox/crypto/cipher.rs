//! Ciphers by the names of Node.js: AES (FIPS 197) in the modes GCM, CBC and CTR (NIST SP 800-38A and D), and
//! ChaCha20-Poly1305 (RFC 8439).

use aes::{
    Aes128, Aes192, Aes256,
    cipher::{
        BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, StreamCipher,
        StreamCipherCoreWrapper,
        block_padding::{NoPadding, Pkcs7},
        common::BlockSizeUser,
        consts::U16,
    },
};
use chacha20poly1305::{ChaCha20Poly1305, aead::AeadInOut};
use ctr::{CtrCore, flavors::Ctr128BE};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{HostError, gcm::Gcm, keys::Key, options};

/// What is to be done, as the prelude writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    algorithm: String,
    #[serde(default)]
    decrypt: bool,
    tag_length: Option<u64>,
    /// PKCS #7 in CBC: the default.
    padding: Option<bool>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Options {
    cipher: Cipher,
    decrypt: bool,
    tag_length: Option<u64>,
    padding: bool,
}

/// What it is to be done with, but for the key.
pub(super) struct Input<'a> {
    pub(super) iv: &'a [u8],
    pub(super) aad: &'a [u8],
    pub(super) data: &'a [u8],
    /// Of what is to be decrypted.
    pub(super) tag: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes(Size, Mode),
    ChaCha20Poly1305,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Aes128,
    Aes192,
    Aes256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Cbc,
    Ctr,
    Gcm,
}

impl Options {
    pub(super) fn parse(json: &[u8]) -> Result<Self, HostError> {
        let wire: Wire = options(json)?;
        let cipher = Cipher::named(&wire.algorithm)?;
        let Wire { decrypt, tag_length, padding, .. } = wire;
        Ok(Self { cipher, decrypt, tag_length, padding: padding.unwrap_or(true) })
    }

    /// Whether what comes out may be what somebody had encrypted. In counter mode encrypting is decrypting.
    pub(super) const fn may_decrypt(&self) -> bool {
        self.decrypt || matches!(self.cipher, Cipher::Aes(_, Mode::Ctr))
    }

    /// Encrypts, and appends the tag if there is one, or decrypts.
    pub(super) fn apply(&self, key: &Key<'_>, input: &Input<'_>) -> Result<Vec<u8>, HostError> {
        let bytes = key.bytes();
        if bytes.len() != self.cipher.key_bytes() {
            return Err(self.wrong_key(key));
        }
        if !self.cipher.takes_iv(input.iv) {
            return Err(HostError::new("code:ERR_CRYPTO_INVALID_IV", "Invalid initialization vector"));
        }
        let tag_length = if self.cipher.has_tag() { self.tag_length(key, input.tag)? } else { self.no_tag(input)? };
        // Encrypted where it is: what is appended must not move it, and leave a copy.
        let mut data = Zeroizing::new(Vec::with_capacity(input.data.len() + BLOCK));
        data.extend_from_slice(input.data);
        match self.cipher {
            Cipher::Aes(Size::Aes128, mode) => self.aes::<Aes128>(mode, bytes, input, &mut data, tag_length)?,
            Cipher::Aes(Size::Aes192, mode) => self.aes::<Aes192>(mode, bytes, input, &mut data, tag_length)?,
            Cipher::Aes(Size::Aes256, mode) => self.aes::<Aes256>(mode, bytes, input, &mut data, tag_length)?,
            Cipher::ChaCha20Poly1305 => self.chacha20(bytes, input, &mut data)?,
        }
        Ok(std::mem::take(&mut *data))
    }

    fn aes<C>(
        &self,
        mode: Mode,
        key: &[u8],
        input: &Input<'_>,
        data: &mut Vec<u8>,
        tag_length: usize,
    ) -> Result<(), HostError>
    where
        C: BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt + KeyInit,
    {
        match mode {
            Mode::Cbc => {
                let (cipher, iv) = (C::new_from_slice(key).map_err(|_| broken())?, input.iv);
                if self.decrypt { self.cbc_decrypt(cipher, iv, data) } else { self.cbc_encrypt(cipher, iv, data) }
            }
            Mode::Ctr => {
                let cipher = C::new_from_slice(key).map_err(|_| broken())?;
                let core = CtrCore::<C, Ctr128BE>::inner_iv_slice_init(cipher, input.iv).map_err(|_| broken())?;
                StreamCipherCoreWrapper::from_core(core).try_apply_keystream(data).map_err(|_| broken())
            }
            Mode::Gcm => {
                let gcm = Gcm::<C>::new(key).ok_or_else(broken)?;
                if self.decrypt {
                    return gcm.decrypt(input.iv, input.aad, data, input.tag).ok_or_else(unauthentic);
                }
                let tag = gcm.encrypt(input.iv, input.aad, data).ok_or_else(broken)?;
                data.extend(tag.into_iter().take(tag_length));
                Ok(())
            }
        }
    }

    fn cbc_encrypt<C>(&self, cipher: C, iv: &[u8], data: &mut Vec<u8>) -> Result<(), HostError>
    where
        C: BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt,
    {
        let cbc = cbc::Encryptor::inner_iv_slice_init(cipher, iv).map_err(|_| broken())?;
        let length = data.len();
        let whole = if self.padding {
            data.resize(length + BLOCK, 0);
            cbc.encrypt_padded::<Pkcs7>(data, length).map_err(|_| broken())?.len()
        } else {
            cbc.encrypt_padded::<NoPadding>(data, length).map_err(|_| unfinished())?.len()
        };
        data.truncate(whole);
        Ok(())
    }

    fn cbc_decrypt<C>(&self, cipher: C, iv: &[u8], data: &mut Vec<u8>) -> Result<(), HostError>
    where
        C: BlockSizeUser<BlockSize = U16> + BlockCipherDecrypt,
    {
        if !data.len().is_multiple_of(BLOCK) || (self.padding && data.is_empty()) {
            return Err(unfinished());
        }
        let cbc = cbc::Decryptor::inner_iv_slice_init(cipher, iv).map_err(|_| broken())?;
        let length = if self.padding {
            let name = "code:ERR_OSSL_BAD_DECRYPT";
            cbc.decrypt_padded::<Pkcs7>(data).map_err(|_| HostError::new(name, "bad decrypt"))?.len()
        } else {
            cbc.decrypt_padded::<NoPadding>(data).map_err(|_| unfinished())?.len()
        };
        data.truncate(length);
        Ok(())
    }

    fn chacha20(&self, key: &[u8], input: &Input<'_>, data: &mut Vec<u8>) -> Result<(), HostError> {
        let cipher = ChaCha20Poly1305::new_from_slice(key).map_err(|_| broken())?;
        let nonce = <&[u8; 12]>::try_from(input.iv).map_err(|_| broken())?.into();
        if !self.decrypt {
            let tag = cipher.encrypt_inout_detached(nonce, input.aad, data.as_mut_slice().into());
            data.extend_from_slice(&tag.map_err(|_| broken())?);
            return Ok(());
        }
        let tag = <&[u8; 16]>::try_from(input.tag).map_err(|_| broken())?.into();
        let opened = cipher.decrypt_inout_detached(nonce, input.aad, data.as_mut_slice().into(), tag);
        opened.map_err(|_| unauthentic())
    }

    /// How many bytes of the tag there are to be.
    fn tag_length(&self, key: &Key<'_>, tag: &[u8]) -> Result<usize, HostError> {
        let refused = |length: u64, why: &str| {
            let message = format!("Invalid authentication tag length: {length}{why}");
            Err(HostError::new("code:ERR_CRYPTO_INVALID_AUTH_TAG", message))
        };
        let given = self.tag_length.unwrap_or(WHOLE_TAG);
        if !matches!(given, 4 | 8 | 12..=WHOLE_TAG) {
            return refused(given, "");
        }
        if self.cipher == Cipher::ChaCha20Poly1305 && given < WHOLE_TAG {
            return refused(given, ": one of Poly1305 has 16 bytes");
        }
        if key.is_secret() && given < LEAST_TAG_OF_SECRET {
            return refused(given, ": with a connection's secret as key it has at least 12 bytes");
        }
        let length = usize::try_from(given).map_err(|_| broken())?;
        if self.decrypt && tag.is_empty() {
            return Err(unauthentic());
        }
        if self.decrypt && tag.len() != length {
            let why = if self.tag_length.is_none() { ": shorter ones need the option authTagLength" } else { "" };
            return refused(u64::try_from(tag.len()).unwrap_or(u64::MAX), why);
        }
        Ok(length)
    }

    /// Without authentication nothing can be authenticated.
    fn no_tag(&self, input: &Input<'_>) -> Result<usize, HostError> {
        let operation = if !input.aad.is_empty() {
            "setAAD"
        } else if !input.tag.is_empty() {
            "setAuthTag"
        } else {
            return Ok(0);
        };
        let message = format!("Invalid state for operation {operation}: the cipher does not authenticate");
        Err(HostError::new("code:ERR_CRYPTO_INVALID_STATE", message))
    }

    /// Says the same of a secret whatever its length.
    fn wrong_key(&self, key: &Key<'_>) -> HostError {
        let mut message = "Invalid key length".to_owned();
        if key.is_secret() {
            let wanted = self.cipher.key_bytes();
            message = format!(
                "{message}: the cipher takes {wanted} bytes; read a secret that spells them by Buffer.from(secret, 'hex') or \
                 'base64', or derive them by scrypt or HKDF"
            );
        }
        HostError::new("code:ERR_CRYPTO_INVALID_KEYLEN", message)
    }
}

impl Cipher {
    fn named(name: &str) -> Result<Self, HostError> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "aes128" => return Ok(Self::Aes(Size::Aes128, Mode::Cbc)),
            "aes192" => return Ok(Self::Aes(Size::Aes192, Mode::Cbc)),
            "aes256" => return Ok(Self::Aes(Size::Aes256, Mode::Cbc)),
            "chacha20-poly1305" => return Ok(Self::ChaCha20Poly1305),
            _ => {}
        }
        let known = (|| {
            let (size, mode) = match name.strip_prefix("id-aes") {
                Some(rest) => rest.split_once('-').filter(|(_, mode)| *mode == "gcm")?,
                None => name.strip_prefix("aes-")?.split_once('-')?,
            };
            let size = match size {
                "128" => Size::Aes128,
                "192" => Size::Aes192,
                "256" => Size::Aes256,
                _ => return None,
            };
            let mode = match mode {
                "cbc" => Mode::Cbc,
                "ctr" => Mode::Ctr,
                "gcm" => Mode::Gcm,
                _ => return None,
            };
            Some(Self::Aes(size, mode))
        })();
        known.ok_or_else(|| {
            let unsafe_one =
                name.contains("ecb") || ["des", "rc2", "rc4", "bf"].iter().any(|old| name.starts_with(old));
            let why = if unsafe_one { "it is not safe, and not offered" } else { "it is not offered" };
            let message = format!(
                "Unknown cipher: {why}; use aes-256-gcm or chacha20-poly1305, or aes-256-cbc where a peer asks for it"
            );
            HostError::new("code:ERR_CRYPTO_UNKNOWN_CIPHER", message)
        })
    }

    const fn key_bytes(self) -> usize {
        match self {
            Self::Aes(Size::Aes128, _) => 16,
            Self::Aes(Size::Aes192, _) => 24,
            Self::Aes(Size::Aes256, _) | Self::ChaCha20Poly1305 => 32,
        }
    }

    const fn has_tag(self) -> bool {
        matches!(self, Self::Aes(_, Mode::Gcm) | Self::ChaCha20Poly1305)
    }

    /// Node.js takes nonces of GCM that long; ChaCha20-Poly1305 has its 96 bits, and shorter ones are no habit to keep.
    const fn takes_iv(self, iv: &[u8]) -> bool {
        match self {
            Self::Aes(_, Mode::Gcm) => !iv.is_empty() && iv.len() <= 128,
            Self::Aes(_, Mode::Cbc | Mode::Ctr) => iv.len() == BLOCK,
            Self::ChaCha20Poly1305 => iv.len() == 12,
        }
    }
}

/// One answer, whatever does not fit: key, nonce, additional data, text or tag.
fn unauthentic() -> HostError {
    HostError::new("Error", "Unsupported state or unable to authenticate data")
}

fn unfinished() -> HostError {
    HostError::new("code:ERR_OSSL_WRONG_FINAL_BLOCK_LENGTH", "wrong final block length")
}

/// Lengths are checked before; a cipher that finds fault with them all the same must not pass for one that worked.
fn broken() -> HostError {
    HostError::new("Error", "the cipher refused its input")
}

const BLOCK: usize = 16;
const WHOLE_TAG: u64 = 16;
/// NIST SP 800-38D, appendix C: shorter tags are forged in few attempts where each attempt is answered.
const LEAST_TAG_OF_SECRET: u64 = 12;
