//! One below, at, and one above.

use super::*;

#[test]
fn a_call_takes_so_much_and_no_more() {
    let mut state = without();
    let data = vec![0; MOST_BYTES];
    for (bytes, fits) in [(MOST_BYTES - 4, true), (MOST_BYTES - 3, true), (MOST_BYTES - 2, false)] {
        assert_eq!(state.call(HASH, &[b"md5", &data[..bytes]]).is_ok(), fits, "{bytes}");
    }
    let error = state.call(EQUAL, &[&data, b"x"]).unwrap_err();
    assert_eq!(error.message, "a cryptographic operation takes at most 16777216 bytes at once");
}

#[test]
fn a_draw_has_so_many_bytes_and_no_more() {
    let mut state = without();
    for (length, fits) in [("0", true), ("1048575", true), ("1048576", true), ("1048577", false)] {
        let drawn = state.call(RANDOM, &[length.as_bytes()]);
        assert_eq!(drawn.ok().map(|bytes| bytes.len()), fits.then(|| length.parse().unwrap()), "{length}");
    }
    for wrong in [&b""[..], b"-1", b"1.5", b"1e3", b"ten", b" 1", b"99999999999999999999999", b"\xff"] {
        assert_eq!(state.call(RANDOM, &[wrong]).unwrap_err().name, "code:ERR_OUT_OF_RANGE");
    }
    let mut again = without();
    assert_eq!(again.call(RANDOM, &[b"32"]), without().call(RANDOM, &[b"32"]));
    assert_ne!(again.call(RANDOM, &[b"32"]), without().call(RANDOM, &[b"32"]));
}

#[test]
fn a_step_makes_so_many_keys_and_no_more() {
    let mut state = with_secret("0123456789");
    for number in 1..=keys::MOST_KEYS + 1 {
        assert_eq!(hkdf(&mut state, placeholder(1).as_bytes(), 16).is_ok(), number <= keys::MOST_KEYS, "{number}");
    }
    let mut state = with_secret("0123456789");
    let whole = json!({ "kind": "pbkdf2", "hash": "sha512", "iterations": 1, "length": 16 << 10 });
    for _ in 0..keys::MOST_KEY_BYTES / (16 << 10) - 1 {
        kdf(&mut state, whole.clone(), placeholder(1).as_bytes(), b"", b"").unwrap();
    }
    for (length, fits) in [((16 << 10) - 32, true), (33, false), (32, true), (16, false)] {
        let options = json!({ "kind": "pbkdf2", "hash": "sha512", "iterations": 1, "length": length });
        assert_eq!(kdf(&mut state, options, placeholder(1).as_bytes(), b"", b"").is_ok(), fits, "{length}");
    }
}

#[test]
fn derivations_are_so_long_and_no_longer() {
    let length = |kind: &str, hash: &str, length: usize| {
        let options = json!({ "kind": kind, "hash": hash, "iterations": 1, "N": 2, "r": 1, "length": length });
        kdf(&mut without(), options, b"key", b"", b"").is_ok()
    };
    for (kind, hash, longest) in
        [("hkdf", "sha256", 8160), ("hkdf", "sha512", 16320), ("pbkdf2", "md5", 16384), ("scrypt", "", 16384)]
    {
        assert!(length(kind, hash, longest - 1) && length(kind, hash, longest), "{kind}");
        assert!(!length(kind, hash, longest + 1), "{kind}");
    }
    let sizes = |salt: usize, info: usize| {
        let options = json!({ "kind": "hkdf", "hash": "sha256", "length": 32 });
        kdf(&mut without(), options, b"key", &vec![0; salt], &vec![0; info]).map_err(|error| error.name)
    };
    assert!(sizes(4095, 1023).is_ok() && sizes(4096, 1024).is_ok());
    assert_eq!(sizes(4097, 0), Err("code:ERR_OUT_OF_RANGE"));
    assert_eq!(sizes(0, 1025), Err("code:ERR_OUT_OF_RANGE"));
}

/// Judged before anything is computed.
#[test]
fn derivations_cost_so_much_and_no_more() {
    let pbkdf2 = |hash: &str, iterations: u64, length: usize| {
        let options = json!({ "kind": "pbkdf2", "hash": hash, "iterations": iterations, "length": length });
        kdf::Options::parse(options.to_string().as_bytes()).map(|_| ()).map_err(|error| error.name)
    };
    for (hash, most) in [("sha256", 630_000), ("md5", 315_000), ("sha512", 210_000), ("sha3-256", 70_000)] {
        assert!(pbkdf2(hash, most - 1, 16).is_ok() && pbkdf2(hash, most, 16).is_ok(), "{hash}");
        assert_eq!(pbkdf2(hash, most + 1, 16), Err("code:ERR_OUT_OF_RANGE"), "{hash}");
    }
    assert!(pbkdf2("sha256", 630_000, 32).is_ok() && pbkdf2("sha256", 315_000, 64).is_ok());
    for (iterations, length) in [(630_000, 33), (315_001, 64), (0, 32), (1 << 32, 1), (u64::MAX, 16384), (1 << 20, 0)] {
        assert_eq!(pbkdf2("sha256", iterations, length), Err("code:ERR_OUT_OF_RANGE"), "{iterations} {length}");
    }
    let scrypt = |n: u64, r: u64, p: u64, maxmem: u64| {
        let options = json!({ "kind": "scrypt", "N": n, "r": r, "p": p, "maxmem": maxmem, "length": 32 });
        kdf::Options::parse(options.to_string().as_bytes()).map(|_| ()).map_err(|error| error.name)
    };
    let refused = Err("code:ERR_CRYPTO_INVALID_SCRYPT_PARAMS");
    assert!(scrypt(32_768, 8, 1, 1 << 30).is_ok() && scrypt(16_384, 8, 2, 0).is_ok());
    assert!(scrypt(2, 256, 1, 0).is_ok() && scrypt(1024, 1, 256, 0).is_ok());
    for (n, r, p) in [
        (65_536, 8, 1),
        (32_768, 9, 1),
        (32_768, 8, 2),
        (2, 257, 1),
        (2, 1, 257),
        (1 << 63, 1, 1),
        (2, u64::MAX, u64::MAX),
        (1, 1, 1),
        (3, 1, 1),
        (16_385, 8, 1),
        (65_536, 1, 1),
    ] {
        assert_eq!(scrypt(n, r, p, u64::MAX), refused, "{n} {r} {p}");
    }
    assert!(scrypt(32_768, 1, 1, 0).is_ok());
    // As OpenSSL counts: 128 r (N + 2) + 128 r p.
    assert!(scrypt(1024, 8, 1, 128 * 8 * 1027).is_ok());
    assert_eq!(scrypt(1024, 8, 1, 128 * 8 * 1027 - 1), refused);
    // 32 MiB by default, as in Node.js.
    assert_eq!(scrypt(32_768, 8, 1, 0), refused);
}

#[test]
fn options_are_so_long_and_no_longer() {
    let padded = |length: usize| {
        let options = json!({ "kind": "hkdf", "hash": "sha256", "length": 1 }).to_string();
        let options = format!("{options}{}", " ".repeat(length - options.len()));
        without().call(KDF, &[options.as_bytes(), b"key", b""]).is_ok()
    };
    assert!(padded(4095) && padded(4096) && !padded(4097));
}
