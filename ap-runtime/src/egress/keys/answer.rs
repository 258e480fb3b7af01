//! Reading one text out of a small JSON answer, without a copy of the rest.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// The text under these names, one inside the other. `None` if there is none, if it is no text, or if a name is there twice.
pub(super) fn text(json: &[u8], names: &[&str]) -> Option<Zeroizing<String>> {
    unescaped(member(json, names)?.get())
}

/// The number under these names.
#[cfg(feature = "vault")]
pub(super) fn number(json: &[u8], names: &[&str]) -> Option<u64> {
    member(json, names)?.get().parse().ok()
}

fn member<'j>(json: &'j [u8], names: &[&str]) -> Option<&'j RawValue> {
    let (name, rest) = names.split_first()?;
    let mut parser = serde_json::Deserializer::from_slice(json);
    let found = Member(name).deserialize(&mut parser).ok()??;
    parser.end().ok()?;
    if rest.is_empty() { Some(found) } else { member(found.get().as_bytes(), rest) }
}

/// Finds a member of an object.
struct Member<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = members.next_key()? {
            if name != self.0 {
                members.next_value::<IgnoredAny>()?;
            } else if found.replace(members.next_value()?).is_some() {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(found)
    }
}

#[derive(serde::Deserialize)]
struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

/// What a JSON string says, in a buffer that never grows: a parser's own is not wiped.
fn unescaped(json: &str) -> Option<Zeroizing<String>> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Zeroizing::new(String::with_capacity(inside.len()));
    let mut rest = inside;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let kind = escape.chars().next()?;
        rest = escape.get(kind.len_utf8()..)?;
        text.push(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (unit, after) = code_unit(rest)?;
                rest = after;
                match unit {
                    0xD800..=0xDBFF => {
                        let (low, after) = code_unit(rest.strip_prefix("\\u")?)?;
                        rest = after;
                        let low = low.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                        char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + low)?
                    }
                    unit => char::from_u32(unit)?,
                }
            }
            _ => return None,
        });
    }
    text.push_str(rest);
    Some(text)
}

fn code_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((u32::from_str_radix(digits, 16).ok().filter(|_| plain)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_found_under_its_names() {
        let json = br#" { "other": [1, {"key": 2}], "data": { "k\u0065y": "a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z", "n": 7 } } "#;
        let found = text(json, &["data", "key"]).expect("there");
        assert_eq!(*found, "a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}z");
        assert_eq!(number(json, &["data", "n"]), Some(7));
        for names in [&["data"][..], &["data", "n"], &["data", "none"], &["other", "key"], &["none"], &[]] {
            assert!(text(json, names).is_none(), "{names:?}");
        }
    }

    #[test]
    fn what_is_no_such_answer_has_no_text() {
        for json in [
            "",
            "[]",
            "{",
            r#"{"a":"1"} x"#,
            r#"{"a":"1","a":"2"}"#,
            r#"{"a":null}"#,
            r#"{"a":"\ud83d"}"#,
            r#"{"a":"\ud83dx"}"#,
            r#"{"a":"\ud83d\u0041"}"#,
            r#"{"a":"\udc00"}"#,
        ] {
            assert!(text(json.as_bytes(), &["a"]).is_none(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back(written: String, noise: Vec<u8>) {
            let json = serde_json::json!({ "before": noise, "a": written, "z": {} }).to_string();
            let found = text(json.as_bytes(), &["a"]).expect("there");
            prop_assert_eq!(&*found, &written);
            let ascii: String = written.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            let found = text(format!("{{\"a\":\"{ascii}\"}}").as_bytes(), &["a"]).expect("there");
            prop_assert_eq!(&*found, &written);
            prop_assert!(text(&noise, &["a"]).is_none());
        }
    }
}
