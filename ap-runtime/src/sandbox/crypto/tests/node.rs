//! What Node.js 20 gives and says for the same.

use super::*;

/// Name; hash of `abc`; HMAC of it under `key`; 20 bytes by HKDF and by PBKDF2 with 3 iterations, both of `key` and `salt`.
const HASHES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "md5",
        "900150983cd24fb0d6963f7d28e17f72",
        "d2fe98063f876b03193afb49b4979591",
        "edd053d0030729baf813c1e0f0e9941d956133d5",
        "d75bc6af45b47dedd3e359f2804974b09f9c0c52",
    ),
    (
        "sha1",
        "a9993e364706816aba3e25717850c26c9cd0d89d",
        "4fd0b215276ef12f2b3e4c8ecac2811498b656fc",
        "a0bc90fe7a3fef57087f96ceeaccea0241f6e00a",
        "150e32150174ab4e5e052397d08950175f14770c",
    ),
    (
        "sha224",
        "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
        "f524670b7e34f31467de0aa96593861cf65117d414fb2d86158d760e",
        "0ff75af37d8684eb5b7a470cd4dedabd33995a58",
        "cf6aa496e3a2b5d4fc7101c084754f67069ab962",
    ),
    (
        "sha256",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "9c196e32dc0175f86f4b1cb89289d6619de6bee699e4c378e68309ed97a1a6ab",
        "9ca0d662557439e3b83365f2da4626d35da195c6",
        "bb6877f66ed055b2e802430a3b86f98de291628c",
    ),
    (
        "sha384",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        "30ddb9c8f347cffbfb44e519d814f074cf4047a55d6f563324f1c6a33920e5edfb2a34bac60bdc96cd33a95623d7d638",
        "415163ccceef9d7e2325f45cf2c21989d3a3eb60",
        "e189678e67b0f59d88bff8b99815e3bc4db3314f",
    ),
    (
        "sha512",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "3926a207c8c42b0c41792cbd3e1a1aaaf5f7a25704f62dfc939c4987dd7ce060009c5bb1c2447355b3216f10b537e9afa7b64a4e5391b0d631172d07939e087a",
        "24156e2c35525baaf3d0fbb92b734c8032a110a3",
        "9c52321a574ea816ad96d7bca0d1ccd48ddb3d6c",
    ),
    (
        "sha512-224",
        "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa",
        "28bc0433ef684ea9877c2f2437aa0ccfc2e8eb3a9b4c731606877b4f",
        "abeccc327499ff6f4c15cf31bfbec6f125eaef48",
        "7975e25eb9f6ed1579f319a133a870191bdc1d26",
    ),
    (
        "sha512-256",
        "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
        "f367b7ca80ab2cf85c23e58b73a8fd525a6fa2c66ff105804a2d4cf4df06e129",
        "ad634aaa909c56fc550c3f096cc5a7c85084983f",
        "0ff3526779e7c583af23c300f711c0aab3c29956",
    ),
    (
        "sha3-224",
        "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
        "09d9d74e7d761c8f27f07d8d35f95b9d160b6b4d8175329db68eea6d",
        "e18e75d320ad4bdb6e71db3001c8ad6bfe6cb0da",
        "9e4ede1d8c220bc47eb0fa1c2dd447cb9ce7fbdb",
    ),
    (
        "sha3-256",
        "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
        "09b6dbab8d11795ca7c8d82f1cf91682013c7cb980abbb25473be4ae7f7b5683",
        "7c0ef77d81593534a377e29e61bed4e29ffad92b",
        "f1847cf51a7fc82d45fa696af5dc723a17043b74",
    ),
    (
        "sha3-384",
        "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
        "94f2aa7ae7c4b7b8fa4c612fdb422b3343811b13c8888257904f543995cdbcba5e49f10f8ed6f7b9ddc1b30b3828815c",
        "1a93888f0e34c22d0bef3e311969466ac055222c",
        "b790ef91e874dba6039d076bc7bdcfb4c9fc0e7c",
    ),
    (
        "sha3-512",
        "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        "085e4e83503f40b82fef38438bc4905a55dbaa8c8878097a899db0b57ce7da57a368251c34474f60b3ebacb39b2edaca4b290456411c76ec7ab61944cfe2288e",
        "bdc190fe6b334e28a00988073218af4cc9dbfaac",
        "bc56172c5fab87a29abd438f6f1ea4a0edffac85",
    ),
];

/// Cipher, lengths of initialization vector and tag, and what comes of [`TEXT`] with `head` beside it. Key and vector count
/// up from zero; those of counter mode are all ones, so that the counter runs over.
const CIPHERS: &[(&str, usize, usize, &str)] = &[
    ("aes-128-gcm", 1, 16, "5b168adfe38a2ccb080f3c69ef13268d2964416a6ce6feea6650a9f0dd1dc9a098253d4d72808bc9246036"),
    ("aes-128-gcm", 8, 4, "a63f5b1491bd722dc3d8a984d25c60ac047f5d317638cd0832d1e89d8a1154"),
    ("aes-128-gcm", 12, 8, "f218d3af0570d7353ff205eb41cd5c28dd496ec63299dd98894e9fee14ab6c391f70a4"),
    ("aes-128-gcm", 13, 12, "bb61e63485641168d21c93d555e5cddf7565d16c6b7bbcc3b84b30e382ebf8d33afe42dd990ac6"),
    ("aes-128-gcm", 16, 13, "cbdce7fffae9e9a28598730ff31184df2a8ec883a82ded0e484ebe95c2e93db6103a9cf9efc19f47"),
    ("aes-128-gcm", 60, 14, "6e7a1ac0bb795ba53c234c55da4669cb00e4cbb62c4b5ae4be2575e74ee3189530db57a3bb7c11ff4b"),
    ("aes-128-gcm", 128, 15, "2966a8bfe54fd4e19527cccc631ed83441c17021c66fffc744d5ef9ef6f5969bb96a0cf90694d5e6695d"),
    ("aes-192-gcm", 1, 16, "2dad8e2ecb0bd6f8bd10236a1a539823cd3701e09ce6225b29a6086b4ab42cc44f5f86f4fad2e71ccb81a5"),
    ("aes-192-gcm", 8, 4, "630781393d4234c93550e7064f119b7711aa8c86bc49774283e85b68b99481"),
    ("aes-192-gcm", 12, 8, "878d56fafad2e96fa413b8e388c7f05060f0472b59d576d0103005732f0ad9ad27cc32"),
    ("aes-192-gcm", 13, 12, "14e446efb3e4bc5c49f68df833241296c03875687b723a7e49cffe82eb667cd69371a819f56514"),
    ("aes-192-gcm", 16, 13, "e12e4f1ad9a2daed3d84f1615a70c7aa12c0bb4d2513115a2b15e695000fc2f91d7b55385b6f6fb3"),
    ("aes-192-gcm", 60, 14, "ff089e65d876970e0d383e188fe9bd9b45eaaf1623e81967b008b82c24e189966b3a811d6129158286"),
    ("aes-192-gcm", 128, 15, "e73954e300635d8b67facd808471f8876d0d90f6fabc66a7995e2cf558572a07f299ef8f5ec137dda3b2"),
    ("aes-256-gcm", 1, 16, "dffc48222d496406fa76df0b84c718b670d1c560a2bcdf5e3e4593ed2d57d9c5e7d6930e0e300a6a775a9e"),
    ("aes-256-gcm", 8, 4, "2822870d272471219c63a047dd41a61951ee248ac9261ee5802da6465cce73"),
    ("aes-256-gcm", 12, 8, "2676a27aa68ee27af961f3eac687544dedb9f314910f7f1257088b524036bcc860da0d"),
    ("aes-256-gcm", 13, 12, "fce92df6b630c81d3ddadd2245d3f10a1e775f46ee7e7dbe0ddf7958d899e72a01442be65fe8b7"),
    ("aes-256-gcm", 16, 13, "0618d4175a8f6a49e9dfbf4822ca00933adc1f8106f9f32d2b512302029b8029d72cd92e2651495f"),
    ("aes-256-gcm", 60, 14, "2fb5faf5da18e698952142b94520c8ebd4f0cd825116dd72377d0045029a6c9688bf3fdb9308a1e2fe"),
    ("aes-256-gcm", 128, 15, "fba29445524aec3c7067457ecff3c5cae39f63f0eecca2c584505c8aca8c235f3f4c5519f1cbfa0d3bb9"),
    ("aes-128-cbc", 16, 0, "811bfd67e3b9af0a538a2dfc03b43a08520df41b81869f90116ad37a2261961f"),
    ("aes-192-cbc", 16, 0, "c61523f581f8fa146952fae93aa0e3b82faa8190f0f73cda1bbfc83586f90599"),
    ("aes-256-cbc", 16, 0, "651eb8457c5a6bdee9cf3789af03b6d751176ae88e6a2881a1d36a9a10e1b6be"),
    ("aes-128-ctr", 16, 0, "5d306b53ad6ca24210f7c6f8793e9733a8ce4f17e6fb7bec0020ef"),
    ("aes-192-ctr", 16, 0, "60ac8dfb7ac0b1915826b35a854aa4a8ff0d25a27d07854cacf9b8"),
    ("aes-256-ctr", 16, 0, "88ed907c2fcc50bb27a7751a2ae17bce9cff74964b3dbfbec69cf4"),
];

const TEXT: &[u8] = b"attack at dawn, not at noon";

fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|number| u8::try_from(number).unwrap()).collect()
}

#[test]
fn hashes_macs_and_derivations_are_those_of_node() {
    let mut state = without();
    for (name, digest, mac, expanded, stretched) in HASHES {
        for name in [name.to_string(), name.to_uppercase()] {
            assert_eq!(hex(&state.call(HASH, &[name.as_bytes(), b"abc"]).unwrap()), *digest, "{name}");
            assert_eq!(hex(&hmac(&mut state, &name, b"key", b"abc").unwrap()), *mac, "{name}");
            let options = json!({ "kind": "hkdf", "hash": name, "length": 20 });
            assert_eq!(hex(&kdf(&mut state, options, b"key", b"salt", b"info").unwrap()), *expanded, "{name}");
            let options = json!({ "kind": "pbkdf2", "hash": name, "iterations": 3, "length": 20 });
            assert_eq!(hex(&kdf(&mut state, options, b"key", b"salt", b"").unwrap()), *stretched, "{name}");
        }
    }
    for (one, other) in
        [("SHA-256", "sha256"), ("sha-1", "sha1"), ("SHA-512/256", "sha512-256"), ("sha2-384", "sha384")]
    {
        let [one, other] = [one, other].map(|name| state.call(HASH, &[name.as_bytes(), b"abc"]).unwrap());
        assert_eq!(one, other);
    }
}

#[test]
fn ciphers_are_those_of_node() {
    let mut state = without();
    for &(name, iv, tag, sealed) in CIPHERS {
        let key = counting(name[4..7].parse::<usize>().unwrap() / 8);
        let iv = if name.ends_with("ctr") { vec![255; iv] } else { counting(iv) };
        let (aad, options) = match tag {
            0 => (&b""[..], json!({ "algorithm": name })),
            _ => (&b"head"[..], json!({ "algorithm": name.to_uppercase(), "tagLength": tag })),
        };
        assert_eq!(hex(&encrypt(&mut state, &options, &key, &iv, aad, TEXT).unwrap()), sealed, "{name} {}", iv.len());
        let sealed = unhex(sealed);
        let (data, tag) = sealed.split_at(sealed.len() - tag);
        assert_eq!(decrypt(&mut state, &options, &key, &iv, aad, (data, tag)).unwrap(), TEXT, "{name} {}", iv.len());
    }
    for (one, other, iv) in [("AES256", "aes-256-cbc", 16), ("id-aes256-GCM", "aes-256-gcm", 12)] {
        let [one, other] = [one, other].map(|name| {
            encrypt(&mut state, &json!({ "algorithm": name }), &[1; 32], &counting(iv), b"", TEXT).unwrap()
        });
        assert_eq!(one, other);
    }
}

#[test]
fn padding_can_be_left_out() {
    let mut state = without();
    let options = json!({ "algorithm": "aes-128-cbc", "padding": false });
    let sealed = encrypt(&mut state, &options, &[1; 16], &[2; 16], b"", &TEXT[..16]).unwrap();
    assert_eq!(sealed.len(), 16);
    assert_eq!(decrypt(&mut state, &options, &[1; 16], &[2; 16], b"", (&sealed, b"")).unwrap(), &TEXT[..16]);
    assert_eq!(decrypt(&mut state, &options, &[1; 16], &[2; 16], b"", (b"", b"")).unwrap(), b"");
    for answer in [
        encrypt(&mut state, &options, &[1; 16], &[2; 16], b"", &TEXT[..15]),
        decrypt(&mut state, &options, &[1; 16], &[2; 16], b"", (&sealed[..15], b"")),
    ] {
        refused(answer, "code:ERR_OSSL_WRONG_FINAL_BLOCK_LENGTH", "wrong final block length");
    }
}

#[test]
fn wrong_sizes_are_refused_with_the_codes_of_node() {
    let mut state = without();
    let of = |name: &str| json!({ "algorithm": name });
    for (name, key, iv) in
        [("aes-128-gcm", 16, 12), ("aes-192-cbc", 24, 16), ("aes-256-ctr", 32, 16), ("chacha20-poly1305", 32, 12)]
    {
        for wrong in [0, key - 1, key + 1] {
            let answer = encrypt(&mut state, &of(name), &vec![0; wrong], &vec![0; iv], b"", TEXT);
            refused(answer, "code:ERR_CRYPTO_INVALID_KEYLEN", "Invalid key length");
        }
        let wrong = if name.ends_with("gcm") { [0, 129] } else { [iv - 1, iv + 1] };
        for wrong in wrong {
            let answer = encrypt(&mut state, &of(name), &vec![0; key], &vec![0; wrong], b"", TEXT);
            refused(answer, "code:ERR_CRYPTO_INVALID_IV", "Invalid initialization vector");
        }
    }
    let tag = "code:ERR_CRYPTO_INVALID_AUTH_TAG";
    for length in [0, 3, 5, 11, 17] {
        let options = json!({ "algorithm": "aes-256-gcm", "tagLength": length });
        let answer = encrypt(&mut state, &options, &[0; 32], &[0; 12], b"", TEXT);
        refused(answer, tag, &format!("Invalid authentication tag length: {length}"));
    }
    let given = json!({ "algorithm": "aes-256-gcm", "tagLength": 12 });
    let answer = decrypt(&mut state, &given, &[0; 32], &[0; 12], b"", (TEXT, &[0; 16]));
    refused(answer, tag, "Invalid authentication tag length: 16");
    let answer = decrypt(&mut state, &of("aes-256-gcm"), &[0; 32], &[0; 12], b"", (TEXT, &[0; 12]));
    refused(answer, tag, "Invalid authentication tag length: 12: shorter ones need the option authTagLength");
    let short = json!({ "algorithm": "chacha20-poly1305", "tagLength": 12 });
    let answer = encrypt(&mut state, &short, &[0; 32], &[0; 12], b"", TEXT);
    refused(answer, tag, "Invalid authentication tag length: 12: one of Poly1305 has 16 bytes");
}

#[test]
fn what_does_not_open_is_refused_with_the_errors_of_node() {
    let mut state = without();
    for name in ["aes-256-gcm", "chacha20-poly1305"] {
        let options = json!({ "algorithm": name });
        for tag in [&[0; 16][..], b""] {
            let answer = decrypt(&mut state, &options, &[0; 32], &[0; 12], b"", (TEXT, tag));
            refused(answer, "Error", "Unsupported state or unable to authenticate data");
        }
    }
    let options = json!({ "algorithm": "aes-256-cbc" });
    let answer = decrypt(&mut state, &options, &[0; 32], &[0; 16], b"", (&[0; 16], b""));
    refused(answer, "code:ERR_OSSL_BAD_DECRYPT", "bad decrypt");
    for length in [0, 15, 17] {
        let answer = decrypt(&mut state, &options, &[0; 32], &[0; 16], b"", (&vec![0; length], b""));
        refused(answer, "code:ERR_OSSL_WRONG_FINAL_BLOCK_LENGTH", "wrong final block length");
    }
    let state_error = "code:ERR_CRYPTO_INVALID_STATE";
    let answer = encrypt(&mut state, &options, &[0; 32], &[0; 16], b"head", TEXT);
    refused(answer, state_error, "Invalid state for operation setAAD: the cipher does not authenticate");
    let answer = decrypt(&mut state, &options, &[0; 32], &[0; 16], b"", (&[0; 16], &[0; 16]));
    refused(answer, state_error, "Invalid state for operation setAuthTag: the cipher does not authenticate");
}

#[test]
fn what_is_not_offered_is_refused_with_what_to_use() {
    let mut state = without();
    for name in ["aes-256-ecb", "des-ede3-cbc", "DES", "rc4", "rc2-cbc", "bf-cbc"] {
        let error = encrypt(&mut state, &json!({ "algorithm": name }), &[0; 32], b"", b"", TEXT).unwrap_err();
        assert_eq!(error.name, "code:ERR_CRYPTO_UNKNOWN_CIPHER");
        assert!(error.message.contains("not safe") && error.message.contains("aes-256-gcm"), "{}", error.message);
    }
    for name in [
        "",
        "aes",
        "aes-",
        "aes-256",
        "aes-512-gcm",
        "aes-256-ocb",
        "id-aes256-cbc",
        "aes-256-gcm ",
        "camellia-256-cbc",
    ] {
        let error = encrypt(&mut state, &json!({ "algorithm": name }), &[0; 32], b"", b"", TEXT).unwrap_err();
        assert_eq!(error.name, "code:ERR_CRYPTO_UNKNOWN_CIPHER");
        assert!(error.message.contains("aes-256-gcm"), "{}", error.message);
    }
    for name in ["", "nope", "RSA-SHA256", "shake128", "sha3", "ripemd160"] {
        let error = state.call(HASH, &[name.as_bytes(), b""]).unwrap_err();
        assert_eq!(error.name, "Error");
        assert!(error.message.starts_with("Digest method not supported: use sha256"), "{}", error.message);
        let error = hmac(&mut state, name, b"key", b"").unwrap_err();
        assert_eq!(error.name, "code:ERR_CRYPTO_INVALID_DIGEST");
        assert!(error.message.starts_with(&format!("Invalid digest: {name}: use sha256")), "{}", error.message);
        for kind in ["hkdf", "pbkdf2"] {
            let options = json!({ "kind": kind, "hash": name, "iterations": 1, "length": 16 });
            assert_eq!(kdf(&mut state, options, b"key", b"", b"").unwrap_err().name, "code:ERR_CRYPTO_INVALID_DIGEST");
        }
    }
}

#[test]
fn comparison_is_that_of_node() {
    let mut state = without();
    for (one, other, same) in [("", "", 1), ("abc", "abc", 1), ("abc", "abd", 0), ("abc", "xbc", 0)] {
        assert_eq!(state.call(EQUAL, &[one.as_bytes(), other.as_bytes()]).unwrap(), [same]);
    }
    let code = "code:ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH";
    refused(state.call(EQUAL, &[b"a", b"ab"]), code, "Input buffers must have the same byte length");
}

#[test]
fn defaults_of_scrypt_are_those_of_node() {
    let mut state = without();
    let short = kdf(&mut state, json!({ "kind": "scrypt", "length": 32 }), b"p", b"s", b"").unwrap();
    let long = json!({ "kind": "scrypt", "N": 16384, "r": 8, "p": 1, "maxmem": 32 << 20, "length": 32 });
    assert_eq!(kdf(&mut state, long, b"p", b"s", b"").unwrap(), short);
    let zero = json!({ "kind": "scrypt", "N": 0, "r": 0, "p": 0, "maxmem": 0, "length": 32 });
    assert_eq!(kdf(&mut state, zero, b"p", b"s", b"").unwrap(), short);
    for kind in ["scrypt", "pbkdf2", "hkdf"] {
        let empty = json!({ "kind": kind, "hash": "sha256", "iterations": 1, "length": 0 });
        assert_eq!(kdf(&mut state, empty, b"p", b"s", b"").unwrap(), b"");
    }
}
