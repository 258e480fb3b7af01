//! Views: a text with its escapes undone, and the way back from there to the text.
//!
//! Encoders differ in which characters they escape and in the case of the digits. Undoing whatever is escaped meets all of
//! them, and all mixtures, with one form per secret.

use zeroize::Zeroizing;

/// What a text says near its escapes, with one kind of them undone.
pub(super) struct View {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// `(offset here, offset in the source)` wherever the distance between the two changes; ascending, the first at 0.
    jumps: Vec<(usize, usize)>,
}

/// A part of a text that has escapes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Island {
    start: usize,
    end: usize,
    /// Which kinds it has: one bit for each of [`ESCAPES`].
    kinds: u8,
}

/// One kind of escape.
pub(super) struct Escape {
    mark: u8,
    /// Gets the text from a mark on, and returns what the escape there stands for and how long it is.
    decode: fn(&[u8]) -> Option<(Decoded, usize)>,
}

/// Every kind of escape that is undone.
pub(super) const ESCAPES: [Escape; 3] = [
    // Percent encoding (RFC 3986 §2.1), of any characters and in either case.
    Escape { mark: b'%', decode: |escape| Some((Decoded::byte(hex_value(escape.get(1..3)?)?), 3)) },
    // JSON strings (RFC 8259 §7), and `\xNN` of JavaScript and Python besides.
    Escape { mark: b'\\', decode: backslash },
    // Character references (HTML §13.5, XML §4.1): numbers, and the names that encoders use for what they must escape.
    Escape { mark: b'&', decode: reference },
];

/// Where `text` has escapes, with `reach` bytes around them; parts that touch are one. Empty if it has none.
///
/// Whatever reads `reach` plain bytes at most between two escapes of any kind, before the first and behind the last, and
/// has one, lies inside one island with everything it consists of.
pub(super) fn islands(text: &[u8], reach: usize) -> Vec<Island> {
    let [percent, backslash, ampersand] = ESCAPES.each_ref().map(|escape| escape.mark);
    let mut islands: Vec<Island> = Vec::new();
    for at in memchr::memchr3_iter(percent, backslash, ampersand, text) {
        let escape = text.get(at..).unwrap_or_default();
        let kind = ESCAPES.iter().position(|kind| escape.first() == Some(&kind.mark));
        let Some((kind, decode)) = kind.and_then(|kind| Some((kind, ESCAPES.get(kind)?.decode))) else { continue };
        // The second half of an escaped backslash may be taken for a mark: that makes an island larger, nothing else.
        if let Some((_, length)) = decode(escape) {
            let end = text.len().min(at + length + reach);
            match islands.last_mut() {
                Some(last) if at.saturating_sub(reach) <= last.end => {
                    last.end = end;
                    last.kinds |= 1 << kind;
                }
                _ => islands.push(Island { start: at.saturating_sub(reach), end, kinds: 1 << kind }),
            }
        }
    }
    islands
}

impl View {
    /// `text` where it has escapes of this kind, an index into [`ESCAPES`]; `None` if it has none.
    pub(super) fn new(text: &[u8], islands: &[Island], kind: usize) -> Option<Self> {
        let escape = ESCAPES.get(kind)?;
        let islands = || islands.iter().filter(|island| island.kinds >> kind & 1 != 0);
        let length: usize = islands().map(|island| island.end - island.start + SEAM.len()).sum();
        if length == 0 {
            return None;
        }
        // No part is longer undone than it was, so the buffer never moves and leaves nothing behind.
        let mut view = Self { bytes: Zeroizing::new(Vec::with_capacity(length)), jumps: Vec::new() };
        for island in islands() {
            if !view.bytes.is_empty() {
                view.bytes.extend_from_slice(SEAM);
            }
            view.jumps.push((view.bytes.len(), island.start));
            view.undo(escape, text.get(..island.end)?, island.start);
        }
        Some(view)
    }

    /// The offset in the source of an offset in this view.
    pub(super) fn source(&self, offset: usize) -> usize {
        let index = self.jumps.partition_point(|(here, _)| *here <= offset);
        match index.checked_sub(1).and_then(|index| self.jumps.get(index)) {
            Some((here, source)) => source + (offset - here),
            None => offset,
        }
    }

    /// Takes in `text` from `from` on with the escapes undone.
    fn undo(&mut self, escape: &Escape, text: &[u8], mut from: usize) {
        let mut taken = from;
        while let Some(at) = text.get(from..).and_then(|rest| memchr::memchr(escape.mark, rest)).map(|at| from + at) {
            let Some((decoded, length)) = text.get(at..).and_then(escape.decode) else {
                // No escape: the mark is an ordinary byte.
                from = at + 1;
                continue;
            };
            from = at + length;
            self.bytes.extend_from_slice(text.get(taken..at).unwrap_or_default());
            self.bytes.extend_from_slice(decoded.bytes.get(..decoded.length).unwrap_or_default());
            taken = from;
            self.jumps.push((self.bytes.len(), taken));
        }
        self.bytes.extend_from_slice(text.get(taken..).unwrap_or_default());
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

/// `&amp;` and the like, `&#38;`, `&#x26;`.
fn reference(escape: &[u8]) -> Option<(Decoded, usize)> {
    let end = escape.iter().take(MAX_REFERENCE_BYTES).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(escape.get(1..end)?).ok()?;
    let number = |digits: &str, radix| {
        let plain = !digits.is_empty() && digits.bytes().all(|digit| char::from(digit).is_digit(radix));
        plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten().and_then(char::from_u32)
    };
    let char = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(digits) => number(digits, 16)?,
            None => number(digits, 10)?,
        },
        None => *NAMED_REFERENCES.iter().find_map(|(known, char)| (*known == name).then_some(char))?,
    };
    Some((Decoded::char(char), end + 1))
}

fn hex_value(digits: &[u8]) -> Option<u8> {
    let mut byte = [0];
    crate::hex::decode_hex(digits, &mut byte).then(|| byte[0])
}

/// Stands between two islands in a view: no text in UTF-8 has it.
const SEAM: &[u8] = &[0xff; 8];
const NAMED_REFERENCES: [(&str, char); 9] = [
    ("amp", '&'),
    ("apos", '\''),
    ("equals", '='),
    ("gt", '>'),
    ("lt", '<'),
    ("nbsp", '\u{a0}'),
    ("plus", '+'),
    ("quot", '"'),
    ("sol", '/'),
];
/// The longest reference that is undone, `&#1114111;` or `&#x10ffff;`.
const MAX_REFERENCE_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn undone(kind: usize, text: &str) -> Option<String> {
        undone_within(kind, text, usize::MAX / 4).pop()
    }

    fn undone_within(kind: usize, text: &str, reach: usize) -> Vec<String> {
        let islands = islands(text.as_bytes(), reach);
        let view = View::new(text.as_bytes(), &islands, kind);
        let parts = view.iter().flat_map(|view| view.bytes.split(|byte| *byte == 0xff));
        parts.filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
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
    fn character_references_are_undone() {
        assert_eq!(undone(2, "a&amp;&lt;&#38;&#x2F;&#X2f;&#0065;&quot").as_deref(), Some("a&<&//A&quot"));
        assert_eq!(undone(2, "&#1114111;&#x10ffff;").as_deref(), Some("\u{10ffff}\u{10ffff}"));
        assert_eq!(undone(2, "&amp;amp;").as_deref(), Some("&amp;"));
        for none in ["&", "&;", "&#;", "&#x;", "&#xd800;", "&#+65;", "&copy;", "&a=1&b=2;", "&#00000065;", "&é;"] {
            assert_eq!(undone(2, none), None, "{none}");
        }
    }

    #[test]
    fn only_what_is_near_an_escape_is_shown() {
        assert_eq!(undone_within(0, "0123456789%41 123456 %42abcdefgh", 3), ["789A 12", "56 Babc"]);
        assert_eq!(undone_within(0, "0123456789%41 12345 %42abcdefgh", 4), ["6789A 12345 Babcd"]);
        assert_eq!(undone_within(0, "%41", 4), ["A"]);
        assert!(undone_within(0, "no escape", 4).is_empty());
        // An escape of another kind leads on, but makes no view by itself.
        assert_eq!(undone_within(0, r"0123\\456%417..........\n.", 3), [r"123\\456A7.."]);
        assert!(undone_within(0, r"abc\ndef%zz", 3).is_empty());
    }

    #[test]
    fn offsets_lead_back_to_the_source() {
        let text = br"ab\u0041cd\ne........x\ty";
        let view = View::new(text, &islands(text, 4), 1).unwrap();
        assert_eq!(**view.bytes, [&b"abAcd\ne..."[..], SEAM, b"...x\ty"].concat());
        let sources =
            |range: std::ops::RangeInclusive<usize>| range.map(|offset| view.source(offset)).collect::<Vec<_>>();
        assert_eq!(sources(0..=10), [0, 1, 2, 8, 9, 10, 12, 13, 14, 15, 16]);
        assert_eq!(sources(18..=24), [18, 19, 20, 21, 22, 24, 25]);
    }

    proptest! {
        #[test]
        fn undoing_never_panics_grows_or_goes_backwards(text in "([%\\\\&#;u]|[0-9a-f]|\\PC){0,60}", reach in 0_usize..70) {
            let islands = islands(text.as_bytes(), reach);
            prop_assert!(islands.is_sorted_by(|one, other| one.end < other.start));
            for view in (0..ESCAPES.len()).filter_map(|kind| View::new(text.as_bytes(), &islands, kind)) {
                let seams = islands.len().saturating_sub(1) * SEAM.len();
                prop_assert!(view.bytes.len() < text.len() + seams);
                prop_assert!(view.source(view.bytes.len()) <= text.len());
                for offset in 0..view.bytes.len() {
                    let seam = view.bytes[offset] == 0xff;
                    prop_assert!(seam || view.source(offset) < view.source(offset + 1));
                }
            }
        }
    }
}
