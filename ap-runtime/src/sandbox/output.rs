//! Reading the guest's JSON, which no one has checked.

use ap_core::json::{self, JsonError, JsonLimits};
use serde_json::Value;

use super::CodeError;

/// Parses the text of a result. Lone surrogates, which JSON can write and UTF-8 cannot, become U+FFFD.
pub(crate) fn parse(mut text: Vec<u8>) -> Result<Value, CodeError> {
    check_and_mend(&mut text)?;
    json::parse(&text, &JsonLimits::deep()).map_err(|error| match error {
        JsonError::Depth { limit, .. } => CodeError::OutputTooDeep { limit },
        JsonError::ReservedKey { pointer, .. } => CodeError::Thrown {
            name: "TypeError".to_owned(),
            message: format!("the name of the member at `{pointer}` is reserved: give it another one"),
            place: None,
            stack: String::new(),
            console: Vec::new(),
        },
        error => CodeError::Trap { message: format!("the guest wrote invalid JSON: {error}") },
    })
}

/// Measures nesting before a recursive parser sees the text, and overwrites lone surrogates in place.
fn check_and_mend(text: &mut [u8]) -> Result<(), CodeError> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut rest = text;
    while let Some((&mut byte, after)) = rest.split_first_mut() {
        rest = after;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => rest = mend_escape(rest),
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(CodeError::OutputTooDeep { limit: MAX_DEPTH });
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Takes the text after a backslash, and returns what follows the escape.
///
/// `JSON.stringify` writes paired surrogates as characters, so an escaped one is alone. (The prelude removes `rawJSON`.)
fn mend_escape(text: &mut [u8]) -> &mut [u8] {
    match text {
        [b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', _, _, ..] => {
            let (escape, rest) = text.split_at_mut(ESCAPE_BYTES);
            escape.copy_from_slice(b"ufffd");
            rest
        }
        [] => text,
        [_, rest @ ..] => rest,
    }
}

/// The deepest nesting of a result, below what the parser can take.
pub(crate) const MAX_DEPTH: usize = json::MAX_DEPTH;

/// `u` and four digits.
const ESCAPE_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
    }

    #[test]
    fn depth_is_accepted_up_to_the_limit() {
        assert!(parse(nested(MAX_DEPTH - 1)).is_ok());
        assert!(parse(nested(MAX_DEPTH)).is_ok());
        assert_eq!(parse(nested(MAX_DEPTH + 1)), Err(CodeError::OutputTooDeep { limit: MAX_DEPTH }));
        assert_eq!(parse(vec![b'{'; 1 << 20]), Err(CodeError::OutputTooDeep { limit: MAX_DEPTH }));
    }

    #[test]
    fn a_key_that_the_reader_would_expand_is_refused() {
        for key in ["$serde_json::private::RawValue", r"\u0024serde_json::private::Number"] {
            let refused = parse(format!(r#"{{"a":{{"{key}":"[1]"}}}}"#).into_bytes()).unwrap_err();
            assert!(
                matches!(&refused, CodeError::Thrown { message, .. } if message.contains("/a/$serde")),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let text = format!(r#""\"{}\\""#, "[".repeat(MAX_DEPTH * 2));
        let expected = format!("\"{}\\", "[".repeat(MAX_DEPTH * 2));
        assert_eq!(parse(text.into_bytes()), Ok(json!(expected)));
    }

    #[test]
    fn lone_surrogates_are_replaced() {
        assert_eq!(
            parse(br#"{"\ud800":"a\udfffb","c":"\\ud800"}"#.to_vec()),
            Ok(json!({"\u{fffd}": "a\u{fffd}b", "c": "\\ud800"}))
        );
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in ["", "\"", "\"\\", "\"\\u", "\"\\ud8", "[1", "{\"a\"}", "nul", "\u{0}", "1 2"] {
            assert!(matches!(parse(text.into()), Err(CodeError::Trap { .. })), "{text}");
        }
        assert!(parse(vec![b'"', 0xff, b'"']).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(text);
        }

        #[test]
        fn valid_text_is_unchanged(text in "\\PC{0,40}", number in any::<i64>()) {
            let value = json!({ text.clone(): [text, number, null] });
            prop_assert_eq!(parse(value.to_string().into_bytes()), Ok(value));
        }
    }
}
