//! Base 16 (RFC 4648 §8), for key files and signatures.

/// Two lower-case digits per byte, appended to `text` without reallocating when its capacity suffices.
pub(crate) fn push_hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
}

/// Fills `out` from exactly `2 * out.len()` digits of either case. On `false`, `out` may be partly written.
#[must_use]
pub(crate) fn decode_hex(text: &[u8], out: &mut [u8]) -> bool {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != out.len() {
        return false;
    }
    let digit = |symbol: u8| char::from(symbol).to_digit(16).and_then(|value| u8::try_from(value).ok());
    for ([high, low], slot) in pairs.iter().zip(out) {
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return false };
        *slot = high << 4 | low;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_in_both_cases(bytes: Vec<u8>) {
            let mut text = String::new();
            push_hex(&bytes, &mut text);
            let mut back = vec![0; bytes.len()];
            prop_assert!(decode_hex(text.as_bytes(), &mut back));
            prop_assert_eq!(&back, &bytes);
            prop_assert!(decode_hex(text.to_uppercase().as_bytes(), &mut back));
            prop_assert_eq!(&back, &bytes);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let mut out = [0; 2];
        for wrong in ["", "ab", "abc", "abcde", "abcdef", "abcg", " bcd", "abc ", "0xab", "+1+1", "é1a"] {
            assert!(!decode_hex(wrong.as_bytes(), &mut out), "{wrong}");
        }
    }
}
