//! Making outside text safe to print on one line of a log or terminal.

/// `text` on one line, at most `max_bytes` long, with nothing in it that a log or terminal acts on.
///
/// Control characters (C0, DEL, C1), line and paragraph separators, and the characters that reorder or hide text become
/// `\n`, `\r`, `\t` or `\u{…}`; a backslash becomes two, so that the result reads in one way only. What is too long is cut
/// at a character and ends in `…`.
pub(super) fn neutralise(text: &str, max_bytes: usize) -> String {
    let mut safe = String::new();
    let mut buffer = [0; 4];
    for char in text.chars() {
        let escaped: String;
        let piece = if char == '\\' || is_active(char) {
            escaped = if char.is_ascii() { char.escape_default().collect() } else { char.escape_unicode().collect() };
            escaped.as_str()
        } else {
            char.encode_utf8(&mut buffer)
        };
        if safe.len() + piece.len() > max_bytes {
            while !safe.is_empty() && safe.len() + ELLIPSIS.len() > max_bytes {
                safe.pop();
            }
            safe.push_str(ELLIPSIS);
            break;
        }
        safe.push_str(piece);
    }
    safe
}

/// Characters that a log line or terminal would act on instead of showing.
fn is_active(char: char) -> bool {
    char.is_control()
        || matches!(char,
            // Soft hyphen, Arabic letter mark, zero-width characters, directional marks, separators, overrides, isolates
            // and invisible operators (UAX #9 §2, Unicode TR 36 §2.5), byte-order mark, tags.
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

const ELLIPSIS: &str = "…";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn injections_are_shown_not_obeyed() {
        for (hostile, safe) in [
            ("a\r\n2026-01-01 user_1 SUCCESS", "a\\r\\n2026-01-01 user_1 SUCCESS"),
            ("\u{1b}[2J\u{1b}[31mred", "\\u{1b}[2J\\u{1b}[31mred"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\0b\u{7f}\u{8}", "a\\u{0}b\\u{7f}\\u{8}"),
            ("tab\tend", "tab\\tend"),
            ("line\u{2028}para\u{2029}nel\u{85}", "line\\u{2028}para\\u{2029}nel\\u{85}"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("literal \\n", "literal \\\\n"),
            ("plain ünïcödé 日本 🦀 \"quoted\" 'x' <b>", "plain ünïcödé 日本 🦀 \"quoted\" 'x' <b>"),
        ] {
            assert_eq!(neutralise(hostile, 512), safe);
        }
    }

    #[test]
    fn length_is_bounded_one_below_at_and_above() {
        assert_eq!(neutralise("abcd", 5), "abcd");
        assert_eq!(neutralise("abcde", 5), "abcde");
        assert_eq!(neutralise("abcdef", 5), "ab…");
        assert_eq!(neutralise("ééé", 5), "é…");
    }

    proptest! {
        #[test]
        fn the_result_is_bounded_and_inert(text in any::<String>(), max in 3_usize..80) {
            let safe = neutralise(&text, max);
            prop_assert!(safe.len() <= max);
            prop_assert!(!safe.chars().any(is_active));
        }
    }
}
