//! [`Hash`]: hash functions by the names of Node.js, plain and keyed.

use hkdf::HmacImpl;
use hmac::{
    Hmac, KeyInit, SimpleHmac,
    digest::{Digest, FixedOutput, Update},
};
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512, Sha512_224, Sha512_256};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

use super::{HostError, shown};

/// A hash function (RFC 1321, FIPS 180-4, FIPS 202).
///
/// MD5 and SHA-1 are broken as hashes; as HMAC old interfaces ask for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512Of224,
    Sha512Of256,
    Sha3Of224,
    Sha3Of256,
    Sha3Of384,
    Sha3Of512,
}

/// A hash function and its HMAC.
pub(super) trait Keyed: Digest {
    type Mac: HmacImpl + KeyInit + Update + FixedOutput + Clone;
}

/// Evaluates `$body` with `$D` as the type of the hash function `$hash`.
macro_rules! with_hash {
    ($hash:expr, $D:ident => $body:expr) => {
        match $hash {
            $crate::sandbox::crypto::digest::Hash::Md5 => {
                type $D = ::md5::Md5;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha1 => {
                type $D = ::sha1::Sha1;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha224 => {
                type $D = ::sha2::Sha224;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha256 => {
                type $D = ::sha2::Sha256;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha384 => {
                type $D = ::sha2::Sha384;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha512 => {
                type $D = ::sha2::Sha512;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha512Of224 => {
                type $D = ::sha2::Sha512_224;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha512Of256 => {
                type $D = ::sha2::Sha512_256;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha3Of224 => {
                type $D = ::sha3::Sha3_224;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha3Of256 => {
                type $D = ::sha3::Sha3_256;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha3Of384 => {
                type $D = ::sha3::Sha3_384;
                $body
            }
            $crate::sandbox::crypto::digest::Hash::Sha3Of512 => {
                type $D = ::sha3::Sha3_512;
                $body
            }
        }
    };
}
pub(super) use with_hash;

impl Hash {
    /// By a name of Node.js or of Web Crypto, in either case: `sha256`, `SHA-256`, `sha512-256`, `sha3-256`.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let name = str::from_utf8(name).ok().filter(|name| name.len() <= LONGEST_NAME)?.to_ascii_lowercase();
        Some(match name.as_str() {
            "md5" => Self::Md5,
            "sha1" | "sha-1" => Self::Sha1,
            "sha224" | "sha-224" | "sha2-224" => Self::Sha224,
            "sha256" | "sha-256" | "sha2-256" => Self::Sha256,
            "sha384" | "sha-384" | "sha2-384" => Self::Sha384,
            "sha512" | "sha-512" | "sha2-512" => Self::Sha512,
            "sha512-224" | "sha-512/224" | "sha2-512/224" => Self::Sha512Of224,
            "sha512-256" | "sha-512/256" | "sha2-512/256" => Self::Sha512Of256,
            "sha3-224" => Self::Sha3Of224,
            "sha3-256" => Self::Sha3Of256,
            "sha3-384" => Self::Sha3Of384,
            "sha3-512" => Self::Sha3Of512,
            _ => return None,
        })
    }

    /// [`Hash::named`], where Node.js says which name is wrong.
    pub(super) fn required(name: &[u8]) -> Result<Self, HostError> {
        Self::named(name).ok_or_else(|| {
            HostError::new("code:ERR_CRYPTO_INVALID_DIGEST", format!("Invalid digest: {}: {WHAT_TO_USE}", shown(name)))
        })
    }

    pub(super) fn digest(self, data: &[u8]) -> Vec<u8> {
        with_hash!(self, D => D::digest(data).to_vec())
    }

    /// RFC 2104.
    pub(super) fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        fn mac<D: Keyed>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mut mac = <D::Mac as HmacImpl>::new_from_slice(key);
            HmacImpl::update(&mut mac, data);
            HmacImpl::finalize(mac).to_vec()
        }
        with_hash!(self, D => mac::<D>(key, data))
    }

    /// How long it takes for a block, as a multiple of SHA-256 on a machine with instructions for that.
    pub(super) const fn weight(self) -> u64 {
        match self {
            Self::Sha1 | Self::Sha224 | Self::Sha256 => 1,
            Self::Md5 => 2,
            Self::Sha384 | Self::Sha512 | Self::Sha512Of224 | Self::Sha512Of256 => 3,
            Self::Sha3Of224 | Self::Sha3Of256 | Self::Sha3Of384 | Self::Sha3Of512 => 9,
        }
    }

    /// Length of its output. Unit: bytes.
    pub(super) fn bytes(self) -> usize {
        with_hash!(self, D => <D as Digest>::output_size())
    }
}

macro_rules! keyed {
    ($mac:ident: $($hash:ty),+) => { $(impl Keyed for $hash { type Mac = $mac<$hash>; })+ };
}
keyed!(Hmac: Md5, Sha1, Sha224, Sha256, Sha384, Sha512, Sha512_224, Sha512_256);
keyed!(SimpleHmac: Sha3_224, Sha3_256, Sha3_384, Sha3_512);

/// What an error about the name of a hash function ends with.
pub(super) const WHAT_TO_USE: &str = "use sha256, sha384, sha512, sha3-256 or, for old interfaces, sha1 or md5";
const LONGEST_NAME: usize = 16;
