//! A body in chunks, with secrets in it more often than chance would have it.
#![no_main]

use std::sync::LazyLock;

use ap_crypto::redact::Redactor;
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const SECRETS: [&str; 3] = ["s3cr3t/t0ken+\"q\"", "aaaaaaaab", "hunter2-hunter2"];

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    let secrets: Vec<SecretString> = SECRETS.iter().map(|secret| (*secret).into()).collect();
    let named = ["one", "two", "three"].into_iter().zip(&secrets);
    Redactor::new(named).expect("the secrets are long enough")
});

fuzz_target!(|data: &[u8]| {
    let Some((step, body)) = data.split_first() else { return };
    // Bytes 0xf1 to 0xf3 stand for the secrets, so that the fuzzer need not guess them.
    let mut text = Vec::with_capacity(body.len());
    for byte in body {
        match byte {
            0xf1..=0xf3 => text.extend_from_slice(SECRETS[usize::from(byte - 0xf1)].as_bytes()),
            byte => text.push(*byte),
        }
    }
    let whole = REDACTOR.redact_bytes(&text);
    let mut stream = REDACTOR.stream();
    let mut chunked = Vec::new();
    for chunk in text.chunks(usize::from(*step).max(1)) {
        chunked.extend(stream.push(chunk));
    }
    chunked.extend(stream.finish());
    assert_eq!(chunked, *whole);
    for secret in SECRETS {
        let found = whole.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "`{secret}` is still there");
    }
});
