//! What whoever writes the script cannot find out.

use std::collections::BTreeSet;

use super::*;

const HEX_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn text(answer: Answer) -> String {
    String::from_utf8(answer.unwrap()).unwrap()
}

fn gcm() -> Value {
    json!({ "algorithm": "aes-256-gcm" })
}

#[test]
fn a_placeholder_is_the_key_it_stands_for() {
    let mut state = with_secret("whsec-0123456789");
    let (secret, key) = (b"whsec-0123456789", placeholder(1));
    let key = key.as_bytes();
    assert_eq!(hmac(&mut state, "sha256", key, b"body"), hmac(&mut without(), "sha256", secret, b"body"));

    // Sixteen bytes: the secret itself is a key of AES-128.
    let options = json!({ "algorithm": "aes-128-gcm" });
    let sealed = encrypt(&mut state, &options, key, &[1; 12], b"", b"text").unwrap();
    assert_eq!(sealed, encrypt(&mut without(), &options, secret, &[1; 12], b"", b"text").unwrap());

    let derivations = [
        json!({ "kind": "hkdf", "hash": "sha256", "length": 32 }),
        json!({ "kind": "pbkdf2", "hash": "sha512", "iterations": 2, "length": 32 }),
        json!({ "kind": "scrypt", "N": 16, "length": 32 }),
    ];
    for options in derivations {
        let handle = text(kdf(&mut state, options.clone(), key, b"salt", b""));
        let derived = kdf(&mut without(), options, secret, b"salt", b"").unwrap();
        let sealed = encrypt(&mut state, &gcm(), handle.as_bytes(), &[1; 12], b"", b"text").unwrap();
        assert_eq!(sealed, encrypt(&mut without(), &gcm(), &derived, &[1; 12], b"", b"text").unwrap());
        // And on from there.
        let next = text(hkdf(&mut state, handle.as_bytes(), 20));
        let expected = hkdf(&mut without(), &derived, 20).unwrap();
        assert_eq!(hmac(&mut state, "md5", next.as_bytes(), b"x"), hmac(&mut without(), "md5", &expected, b"x"));
    }
}

#[test]
fn a_secret_is_read_as_it_is_spelled() {
    let key = unhex(HEX_KEY);
    let base64 = base64::engine::general_purpose::STANDARD.encode([0xfb; 32]);
    let spellings: [(&str, &str, &[u8]); 12] = [
        (HEX_KEY, "hex", &key),
        (&HEX_KEY.to_uppercase(), "HEX", &key),
        (&base64, "base64", &[0xfb; 32]),
        (base64.trim_end_matches('='), "base64", &[0xfb; 32]),
        (&base64.replace('+', "-").replace('/', "_"), "base64", &[0xfb; 32]),
        (&base64.replace('+', "-").replace('/', "_"), "base64url", &[0xfb; 32]),
        (&format!("{}\n{}\n", &base64[..20], &base64[20..]), "base64", &[0xfb; 32]),
        ("caf\u{e9} au lait", "latin1", b"caf\xe9 au lait"),
        ("plain text", "ascii", b"plain text"),
        ("plain text", "binary", b"plain text"),
        ("plain", "utf16le", b"p\0l\0a\0i\0n\0"),
        ("caf\u{e9} au lait", "utf-8", "caf\u{e9} au lait".as_bytes()),
    ];
    for (secret, encoding, expected) in spellings {
        let mut state = with_secret(secret);
        let handle = state.call(KEY, &[placeholder(1).as_bytes(), encoding.as_bytes()]).unwrap();
        let signed = hmac(&mut state, "sha256", &handle, b"x");
        assert_eq!(signed, hmac(&mut without(), "sha256", expected, b"x"), "{secret} as {encoding}");
    }
}

#[test]
fn a_secret_that_is_spelled_otherwise_is_refused_and_not_cut() {
    // Node.js reads "ab" of "abxy", and goes on with a key of one byte.
    let cases = [
        ("hex", &["0123456789abcdefg", "0123456", "01 23 45 67", "\u{e9}\u{e9}\u{e9}\u{e9}", "01234567\n"][..]),
        ("base64", &["AAAA.AAAA", "AAAAA", "AA=AAAAA", "====", "\u{e9}AAAAAAA"]),
        ("base64url", &["AAAA AAAA*", "A"]),
        ("latin1", &["price in \u{20ac}", "\u{100}1234567"]),
    ];
    // In one and the same words.
    let mut messages = BTreeSet::new();
    for (encoding, secrets) in cases {
        for secret in secrets {
            let answer = with_secret(secret).call(KEY, &[placeholder(1).as_bytes(), encoding.as_bytes()]);
            let error = answer.expect_err(secret);
            assert_eq!(error.name, "Error");
            messages.insert(error.message);
        }
    }
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages.first().unwrap().contains("takes 'hex', 'base64', 'base64url', 'latin1' and 'utf16le'"));
    let answer = with_secret(HEX_KEY).call(KEY, &[placeholder(1).as_bytes(), b"hex2"]);
    refused(answer, "code:ERR_UNKNOWN_ENCODING", "Unknown encoding: hex2");
}

#[test]
fn reading_a_secret_twice_makes_one_key() {
    let mut state = with_secret(HEX_KEY);
    let mut read = |encoding: &str| text(state.call(KEY, &[placeholder(1).as_bytes(), encoding.as_bytes()]));
    let first = read("hex");
    for _ in 0..2 * keys::MOST_KEYS {
        assert_eq!(read("Hex"), first);
    }
    assert_ne!(read("base64"), first);
    assert_eq!(read("utf8"), placeholder(1));
}

#[test]
fn a_derived_key_may_pass_through_a_string_and_spells_nothing() {
    let mut state = with_secret(HEX_KEY);
    let read = state.call(KEY, &[placeholder(1).as_bytes(), b"hex"]).unwrap();
    let derived = hkdf(&mut state, placeholder(1).as_bytes(), 32).unwrap();
    for handle in [read, derived] {
        for encoding in ["latin1", "binary", "ascii", "utf8"] {
            assert_eq!(state.call(KEY, &[&handle, encoding.as_bytes()]).unwrap(), handle);
        }
        for encoding in ["hex", "base64", "base64url", "utf16le"] {
            let answer = state.call(KEY, &[&handle, encoding.as_bytes()]);
            refused(
                answer,
                "Error",
                "what was made from a connection's secret is a key already, and spells no other one",
            );
        }
    }
}

/// With a bound on bytes one could fill it with keys of known lengths, and see whether the secret still fits.
#[test]
fn no_bound_measures_a_secret() {
    for length in [8, 64, 1000, 60_000] {
        let mut state = with_secret(&"a".repeat(length));
        let options = json!({ "kind": "pbkdf2", "hash": "sha512", "iterations": 1, "length": 16 << 10 });
        for _ in 0..keys::MOST_KEY_BYTES / (16 << 10) {
            kdf(&mut state, options.clone(), placeholder(1).as_bytes(), b"", b"").unwrap();
        }
        assert!(hkdf(&mut state, placeholder(1).as_bytes(), 16).is_err(), "the bound is filled");
        for encoding in ["hex", "base64", "latin1", "utf16le"] {
            assert!(state.call(KEY, &[placeholder(1).as_bytes(), encoding.as_bytes()]).is_ok(), "{length} {encoding}");
        }
    }
}

#[test]
fn what_no_run_knows_is_text_and_no_key() {
    let mut state = with_secret("0123456789");
    // Of another run, of another step, and of no form at all.
    let elsewhere = text(hkdf(&mut with_secret("0123456789"), placeholder(1).as_bytes(), 32));
    let of_the_form = [placeholder(2), elsewhere];
    for unknown in of_the_form.iter().map(String::as_str).chain(["apcred_", "apcred_short", ""]) {
        let bytes = unknown.as_bytes();
        assert_eq!(state.call(HASH, &[b"sha256", bytes]), without().call(HASH, &[b"sha256", bytes]));
        assert_eq!(state.call(EQUAL, &[bytes, bytes]).unwrap(), [1]);
        assert_eq!(hmac(&mut state, "sha256", b"own", bytes), hmac(&mut without(), "sha256", b"own", bytes));
    }
    for unknown in &of_the_form {
        // Nor where there is no connection at all.
        for mut state in [with_secret("0123456789"), without()] {
            let bytes = unknown.as_bytes();
            let answers = [
                hmac(&mut state, "sha256", bytes, b"x"),
                hkdf(&mut state, bytes, 32),
                state.call(CIPHER, &[gcm().to_string().as_bytes(), bytes, &[1; 12], b"", b"x", b""]),
                // What it spells would be no secret, and no key either.
                state.call(KEY, &[bytes, b"hex"]),
                state.call(KEY, &[bytes, b"base64"]),
                state.call(KEY, &[bytes, b"utf16le"]),
            ];
            for answer in answers {
                refused(answer, "Error", &unknown_key().message);
            }
            assert_eq!(state.call(KEY, &[bytes, b"latin1"]).unwrap(), b"");
        }
    }
    for part in ["apcred_", "apcred_short", "sk-apcred_"] {
        refused(hmac(&mut without(), "sha256", part.as_bytes(), b"x"), "Error", PART_OF_SECRET);
        refused(hkdf(&mut without(), part.as_bytes(), 32), "Error", PART_OF_SECRET);
    }
}

#[test]
fn a_secret_is_nothing_but_a_key() {
    let mut state = with_secret(HEX_KEY);
    let handle = text(hkdf(&mut state, placeholder(1).as_bytes(), 32));
    let tag = json!({ "algorithm": "aes-256-gcm", "decrypt": true }).to_string();
    let (gcm, kdf) = (gcm().to_string(), json!({ "kind": "hkdf", "hash": "sha256", "length": 32 }).to_string());
    for secret in [placeholder(1), handle] {
        let around =
            [secret.clone(), format!("v1:{secret}"), format!("{secret}."), format!("\u{e9}apcred_{secret}{secret}")];
        for text in &around {
            let text = text.as_bytes();
            for own in [&b"0123456789abcdef0123456789abcdef"[..], secret.as_bytes()] {
                // Operation, arguments with the secret where none may stand, what it is there.
                let calls: [(u32, Vec<&[u8]>, &str); 10] = [
                    (HASH, vec![b"sha256", text], "data"),
                    (HMAC, vec![b"sha256", own, text], "data"),
                    (CIPHER, vec![gcm.as_bytes(), own, text, b"", b"", b""], "initialization vector"),
                    (CIPHER, vec![gcm.as_bytes(), own, &[1; 12], text, b"", b""], "additional data"),
                    (CIPHER, vec![gcm.as_bytes(), own, &[1; 12], b"", text, b""], "data"),
                    (CIPHER, vec![tag.as_bytes(), own, &[1; 12], b"", b"", text], "authentication tag"),
                    (KDF, vec![kdf.as_bytes(), own, text, b""], "salt"),
                    (KDF, vec![kdf.as_bytes(), own, b"", text], "info"),
                    (EQUAL, vec![text, own], "compared value"),
                    (EQUAL, vec![b"", text], "compared value"),
                ];
                for (operation, arguments, what) in calls {
                    let message = format!("a connection's secret may be used as a key only, not as {what}");
                    refused(state.call(operation, &arguments), "Error", &message);
                }
            }
        }
        // A key is all of it.
        for text in &around[1..] {
            let text = text.as_bytes();
            let message = "a connection's secret is a key as a whole only: nothing may stand before or after it";
            refused(hmac(&mut state, "sha256", text, b""), "Error", message);
            refused(state.call(CIPHER, &[gcm.as_bytes(), text, &[1; 12]]), "Error", message);
            refused(state.call(KDF, &[kdf.as_bytes(), text, b""]), "Error", message);
        }
    }
}

#[test]
fn parts_are_worthless_text_and_no_keys() {
    let mut state = with_secret(HEX_KEY);
    let read = text(state.call(KEY, &[placeholder(1).as_bytes(), b"hex"]));
    let derived = text(hkdf(&mut state, placeholder(1).as_bytes(), 64));
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    for whole in [placeholder(1), read, derived] {
        for range in [0..8, 0..32, 0..49, 1..50, 7..23, 10..26, 18..50, 34..50] {
            let part = &whole.as_bytes()[range.clone()];
            let digest = state.call(HASH, &[b"sha256", part]).unwrap();
            assert_eq!(digest, without().call(HASH, &[b"sha256", part]).unwrap());
            let utf16: Vec<u8> = part.iter().flat_map(|letter| [*letter, 0]).collect();
            let around = [b"v1:", part, b":end"].concat();
            for key in [part, &utf16, &around].into_iter().filter(|_| range.len() >= 12) {
                refused(hmac(&mut state, "sha256", key, b""), "Error", PART_OF_SECRET);
                refused(hkdf(&mut state, key, 32), "Error", PART_OF_SECRET);
            }
        }
        // As of a secret that has a prefix of its own, and is base64 behind it.
        for start in 3..12 {
            let digits = &whole[start..];
            let digits = &digits[..digits.len() - digits.len() % 4];
            let decoded = base64.decode(digits).unwrap();
            for bytes in [&decoded[..], &decoded[1..], &decoded[2..18]] {
                refused(hmac(&mut state, "sha256", bytes, b""), "Error", PART_OF_SECRET);
            }
        }
        let key = &whole.as_bytes()[..32];
        refused(encrypt(&mut state, &gcm(), key, &[1; 12], b"", b"x"), "Error", PART_OF_SECRET);
    }
    // One's own keys, of any kind.
    for own in [&[0; 32][..], b"ordinary secret of a script", &[0xfb; 4096], b"", b"AAAA"] {
        assert_eq!(hmac(&mut state, "sha256", own, b"x"), hmac(&mut without(), "sha256", own, b"x"));
    }
}

#[test]
fn a_connection_that_is_not_for_code_is_refused_everywhere() {
    let mut state = Run { secrets: vec![(placeholder(1), None)] }.state();
    let secret = placeholder(1);
    let secret = secret.as_bytes();
    for answer in [
        hmac(&mut state, "sha256", secret, b"x"),
        encrypt(&mut state, &gcm(), secret, &[1; 12], b"", b"x"),
        hkdf(&mut state, secret, 32),
        state.call(KEY, &[secret, b"hex"]),
        state.call(KEY, &[secret, b"utf8"]),
    ] {
        refused(answer, "Error", "connection `mail` is not for the piece `crypto`");
    }
    let data = state.call(HASH, &[b"sha256", secret]);
    refused(data, "Error", "a connection's secret may be used as a key only, not as data");
}

#[test]
fn a_secret_of_a_wrong_length_is_refused_whatever_its_length() {
    for cipher in ["aes-128-gcm", "aes-192-cbc", "aes-256-ctr", "chacha20-poly1305"] {
        let (right, iv) = match cipher {
            "aes-128-gcm" => (16, 12),
            "aes-192-cbc" => (24, 16),
            "aes-256-ctr" => (32, 16),
            _ => (32, 12),
        };
        let answers: BTreeSet<String> = (8..100)
            .filter(|length| *length != right)
            .map(|length| {
                let mut state = with_secret(&"k".repeat(length));
                let options = json!({ "algorithm": cipher });
                let error =
                    encrypt(&mut state, &options, placeholder(1).as_bytes(), &vec![0; iv], b"", b"x").unwrap_err();
                assert_eq!(error.name, "code:ERR_CRYPTO_INVALID_KEYLEN");
                error.message
            })
            .collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(answers.first().unwrap().contains(&format!("takes {right} bytes")), "{answers:?}");
    }
}

#[test]
fn handles_of_equal_keys_differ_and_say_nothing_of_them() {
    let run = |secrets: [&str; 2]| {
        let secrets = (1..).zip(secrets).map(|(number, secret)| (placeholder(number), Some(secret.to_owned())));
        let mut state = Run { secrets: secrets.collect() }.state();
        let mut handles = Vec::new();
        for number in [1, 1, 2, 2] {
            handles.push(text(hkdf(&mut state, placeholder(number).as_bytes(), 32)));
            handles.push(text(hkdf(&mut state, placeholder(number).as_bytes(), 1024)));
        }
        handles.push(text(state.call(KEY, &[placeholder(1).as_bytes(), b"base64"])));
        handles.push(text(state.call(KEY, &[placeholder(2).as_bytes(), b"base64"])));
        handles
    };
    let equal = run(["same secret/", "same secret/"]);
    assert_eq!(equal.iter().collect::<BTreeSet<_>>().len(), equal.len());
    assert!(equal.iter().all(|handle| CredentialRef::looks_like(handle)));
    // Other secrets give the very same texts: there is nothing of the secret in them.
    assert_eq!(run(["one secret//", "other secret"]), equal);
}

#[test]
fn a_short_key_cannot_be_made_and_tried_out() {
    let mut state = with_secret("0123456789abcdef");
    for options in [
        json!({ "kind": "hkdf", "hash": "sha256" }),
        json!({ "kind": "pbkdf2", "hash": "sha256", "iterations": 1 }),
        json!({ "kind": "scrypt", "N": 16 }),
    ] {
        for (length, fits) in [(0, false), (1, false), (15, false), (16, true), (17, true)] {
            let mut options = options.clone();
            options["length"] = length.into();
            let answer = kdf(&mut state, options.clone(), placeholder(1).as_bytes(), b"", b"");
            assert_eq!(answer.is_ok(), fits, "{options}");
            // One's own may be as short as one likes.
            assert!(kdf(&mut state, options, b"own", b"", b"").is_ok());
        }
    }
}

#[test]
fn tags_under_a_secret_are_not_short() {
    let mut state = with_secret(HEX_KEY);
    let secret = state.call(KEY, &[placeholder(1).as_bytes(), b"hex"]).unwrap();
    for (length, fits) in [(4, false), (8, false), (12, true), (13, true), (16, true)] {
        let options = json!({ "algorithm": "aes-256-gcm", "tagLength": length });
        let sealed = encrypt(&mut state, &options, &secret, &[1; 12], b"", b"text");
        assert_eq!(sealed.is_ok(), fits, "{length}");
        let own = encrypt(&mut state, &options, &unhex(HEX_KEY), &[1; 12], b"", b"text").unwrap();
        let opened = decrypt(&mut state, &options, &secret, &[1; 12], b"", own.split_at(4));
        assert_eq!(opened.is_ok(), fits, "{length}");
    }
}

#[test]
fn what_a_secret_decrypts_is_scrubbed() {
    // Somebody encrypted a password of this run under the key that the script may use.
    let run = || Run {
        secrets: vec![(placeholder(1), Some(HEX_KEY.to_owned())), (placeholder(2), Some("correct horse".to_owned()))],
    };
    let (mut state, plain) = (run().state(), b"login: correct horse; end");
    let secret = state.call(KEY, &[placeholder(1).as_bytes(), b"hex"]).unwrap();
    for (cipher, iv, tag) in
        [("aes-256-gcm", 12, 16), ("chacha20-poly1305", 12, 16), ("aes-256-cbc", 16, 0), ("aes-256-ctr", 16, 0)]
    {
        let options = json!({ "algorithm": cipher });
        let sealed = encrypt(&mut without(), &options, &unhex(HEX_KEY), &vec![1; iv], b"", plain).unwrap();
        let sealed = sealed.split_at(sealed.len() - tag);
        let opened = decrypt(&mut state, &options, &secret, &vec![1; iv], b"", sealed).unwrap();
        assert_eq!(opened, b"login: [masked]; end", "{cipher}");
        // Under a key of its own the script could decrypt by itself.
        let opened = decrypt(&mut state, &options, &unhex(HEX_KEY), &vec![1; iv], b"", sealed).unwrap();
        assert_eq!(opened, plain, "{cipher}");
    }
    // In counter mode encrypting decrypts.
    let options = json!({ "algorithm": "aes-256-ctr" });
    let sealed = encrypt(&mut without(), &options, &unhex(HEX_KEY), &[1; 16], b"", plain).unwrap();
    assert_eq!(encrypt(&mut state, &options, &secret, &[1; 16], b"", &sealed).unwrap(), b"login: [masked]; end");
}

#[test]
fn a_wrong_guess_of_a_secret_looks_like_any_other() {
    // Encrypt a guess, decrypt it, see whether it is masked: whole values only, no prefix and no byte.
    let run = || Run {
        secrets: vec![(placeholder(1), Some(HEX_KEY.to_owned())), (placeholder(2), Some("correct horse".to_owned()))],
    };
    let mut state = run().state();
    let secret = state.call(KEY, &[placeholder(1).as_bytes(), b"hex"]).unwrap();
    for guess in ["c", "correct", "correct hors", "orrect horse", "Correct horse"] {
        let sealed = encrypt(&mut state, &gcm(), &secret, &[1; 12], b"", guess.as_bytes()).unwrap();
        let opened = decrypt(&mut state, &gcm(), &secret, &[1; 12], b"", sealed.split_at(guess.len())).unwrap();
        assert_eq!(opened, guess.as_bytes());
    }
}

#[test]
fn nothing_shows_a_key() {
    let mut state = with_secret("canary-secret-0123456789");
    text(hkdf(&mut state, placeholder(1).as_bytes(), 32));
    text(state.call(KEY, &[placeholder(1).as_bytes(), b"latin1"]));
    assert_eq!(format!("{state:?}"), "CryptoState { handles: KeyHandles(2), .. }");
}
