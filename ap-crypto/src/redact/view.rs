//! Views: a text with its escapes undone, and the way back from there to the text.
//!
//! Encoders differ in which characters they escape and in the case of the digits. Undoing whatever is escaped meets all of
//! them, and all mixtures, with one form per secret.

use zeroize::Zeroizing;

/// A text with one kind of escape undone.
pub(super) struct View {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// `(offset here, offset in the source)` wherever the distance between the two changes; ascending.
    jumps: Vec<(usize, usize)>,
}

/// Undoes one kind of escape; `None` if the text has none.
pub(super) type Unescape = fn(&[u8]) -> Option<View>;

/// Every kind of escape that is undone.
pub(super) const UNESCAPES: [Unescape; 2] = [
    // Percent encoding (RFC 3986 §2.1), of any characters and in either case.
    |text| unescape(text, b'%', |rest| Some((Decoded::byte(hex_value(rest.get(1..3)?)?), 3))),
    // JSON strings (RFC 8259 §7), and `\xNN` of JavaScript and Python besides.
    |text| unescape(text, b'\\', backslash),
];

impl View {
    /// The offset in the source of an offset in this view.
    pub(super) fn source(&self, offset: usize) -> usize {
        let index = self.jumps.partition_point(|(here, _)| *here <= offset);
        match index.checked_sub(1).and_then(|index| self.jumps.get(index)) {
            Some((here, source)) => source + (offset - here),
            None => offset,
        }
    }
}

/// Up to four bytes that one escape stands for.
struct Decoded {
    bytes: [u8; 4],
    length: usize,
}

impl Decoded {
    const fn byte(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1 }
    }

    fn char(char: char) -> Self {
        let mut bytes = [0; 4];
        let length = char.encode_utf8(&mut bytes).len();
        Self { bytes, length }
    }
}

/// Copies `text`, replacing what `decode` understands of each part that starts with `mark`. `decode` gets the rest of the
/// text and returns what the escape stands for and how long it is.
fn unescape(text: &[u8], mark: u8, decode: impl Fn(&[u8]) -> Option<(Decoded, usize)>) -> Option<View> {
    let mut rest = text;
    let mut from = 0;
    let mut view: Option<View> = None;
    while let Some(plain) = rest.iter().position(|byte| *byte == mark) {
        let (before, escape) = rest.split_at_checked(plain)?;
        let Some((decoded, length)) = decode(escape) else {
            // No escape: the mark is an ordinary byte.
            let (taken, behind) = rest.split_at_checked(plain + 1)?;
            if let Some(view) = &mut view {
                view.bytes.extend_from_slice(taken);
            }
            (rest, from) = (behind, from + plain + 1);
            continue;
        };
        let view = view.get_or_insert_with(|| {
            // The result is never longer than the text, so the buffer never moves.
            let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
            bytes.extend_from_slice(text.get(..from).unwrap_or_default());
            View { bytes, jumps: Vec::new() }
        });
        view.bytes.extend_from_slice(before);
        view.bytes.extend_from_slice(decoded.bytes.get(..decoded.length)?);
        from += plain + length;
        view.jumps.push((view.bytes.len(), from));
        rest = escape.get(length..)?;
    }
    let mut view = view?;
    view.bytes.extend_from_slice(rest);
    Some(view)
}

fn backslash(escape: &[u8]) -> Option<(Decoded, usize)> {
    let byte = match escape.get(1)? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        mark @ (b'"' | b'\\' | b'/' | b'\'') => *mark,
        b'x' => return Some((Decoded::byte(hex_value(escape.get(2..4)?)?), 4)),
        b'u' => return unicode(escape),
        _ => return None,
    };
    Some((Decoded::byte(byte), 2))
}

/// `\uXXXX`, or two of them that make a surrogate pair.
fn unicode(escape: &[u8]) -> Option<(Decoded, usize)> {
    let unit = |at: usize| -> Option<u16> {
        let digits = escape.get(at..at + 6)?.strip_prefix(b"\\u")?;
        Some(u16::from(hex_value(digits.get(..2)?)?) << 8 | u16::from(hex_value(digits.get(2..)?)?))
    };
    let first = unit(0)?;
    if let Some(char) = char::from_u32(u32::from(first)) {
        return Some((Decoded::char(char), 6));
    }
    let pair = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((Decoded::char(pair), 12))
}

fn hex_value(digits: &[u8]) -> Option<u8> {
    let mut byte = [0];
    crate::hex::decode_hex(digits, &mut byte).then(|| byte[0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn undone(kind: usize, text: &str) -> Option<String> {
        UNESCAPES[kind](text.as_bytes()).map(|view| String::from_utf8_lossy(&view.bytes).into_owned())
    }

    #[test]
    fn percent_escapes_are_undone() {
        assert_eq!(undone(0, "a%41%2f%2Fb%").as_deref(), Some("aA//b%"));
        assert_eq!(undone(0, "100% %zz %4").as_deref(), None);
        assert_eq!(undone(0, "%%41%4%41").as_deref(), Some("%A%4A"));
        assert_eq!(undone(0, "%+1").as_deref(), None);
    }

    #[test]
    fn json_escapes_are_undone() {
        assert_eq!(undone(1, r#"a\"\\\/\n\t\u0041\u00e9\x41"#).as_deref(), Some("a\"\\/\n\tA\u{e9}A"));
        assert_eq!(undone(1, r"\ud83d\ude00!").as_deref(), Some("\u{1f600}!"));
        assert_eq!(undone(1, r"\ud83d\u0041").as_deref(), Some(r"\ud83dA"));
        assert_eq!(undone(1, r"\\u0041").as_deref(), Some(r"\u0041"));
        for none in [r"\", r"\u", r"\u12", r"\x4", r"\ud83d", r"\q", "plain"] {
            assert_eq!(undone(1, none), None, "{none}");
        }
    }

    #[test]
    fn offsets_lead_back_to_the_source() {
        let view = UNESCAPES[1](br"ab\u0041cd\ne").unwrap();
        assert_eq!(&**view.bytes, b"abAcd\ne");
        let sources: Vec<usize> = (0..=7).map(|offset| view.source(offset)).collect();
        assert_eq!(sources, [0, 1, 2, 8, 9, 10, 12, 13]);
    }

    proptest! {
        #[test]
        fn undoing_never_panics_grows_or_goes_backwards(text in "([%\\\\u]|[0-9a-f]|\\PC){0,60}") {
            for undo in UNESCAPES {
                if let Some(view) = undo(text.as_bytes()) {
                    prop_assert!(view.bytes.len() < text.len());
                    prop_assert_eq!(view.source(view.bytes.len()), text.len());
                    for offset in 0..view.bytes.len() {
                        prop_assert!(view.source(offset) < view.source(offset + 1));
                    }
                }
            }
        }
    }
}
