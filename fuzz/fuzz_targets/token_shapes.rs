//! Text with what looks like tokens: whole, and in chunks.
#![no_main]

use std::borrow::Cow;

use ap_crypto::redact::Redactor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    let redactor = Redactor::token_shapes();
    let whole = redactor.redact_bytes(text);
    assert_eq!(redactor.contains(text), matches!(whole, Cow::Owned(_)));
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    for chunk in text.chunks(usize::from(*size) + 1) {
        out.extend(stream.push(chunk));
    }
    out.extend(stream.finish());
    // Longer ones may be cut inside of what only the whole shows to be one token.
    if text.len() < redactor.held_back_bytes() {
        assert_eq!(out, *whole);
    }
    if let Ok(text) = std::str::from_utf8(text) {
        assert!(std::str::from_utf8(redactor.redact_str(text).as_bytes()).is_ok());
    }
});
