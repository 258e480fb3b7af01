//! What JavaScript makes of a JSON value where another type is expected (ECMA-262 §7.1), and dates.

use std::cmp::Ordering;

use jiff::{Timestamp, civil, tz::Offset};
use serde_json::{Number, Value};

/// `Boolean(value)`.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// A side of a comparison: its number, or the value itself if that is none.
#[derive(Debug, PartialEq)]
pub(super) enum Comparable {
    Number(f64),
    /// An array or object, as its text.
    Object(String),
    Text(String),
}

impl Comparable {
    /// `Number(value)`, or the value if that is not a number.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Number(0.0),
            Value::Bool(flag) => Self::Number(f64::from(u8::from(*flag))),
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => text_to_number(text).map_or_else(|| Self::Text(text.clone()), Self::Number),
            Value::Array(_) | Value::Object(_) => {
                let text = to_primitive(value);
                text_to_number(&text).map_or(Self::Object(text), Self::Number)
            }
        }
    }

    /// The order that `<` and `>` see; `None` where both are false.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => left.partial_cmp(right),
            (Self::Number(_), _) | (_, Self::Number(_)) => None,
            (Self::Text(left) | Self::Object(left), Self::Text(right) | Self::Object(right)) => {
                Some(left.encode_utf16().cmp(right.encode_utf16()))
            }
        }
    }

    /// `==`; two arrays or objects are never the same one.
    pub(super) fn equals(&self, other: &Self) -> bool {
        let objects = matches!((self, other), (Self::Object(_), Self::Object(_)));
        !objects && self.order(other) == Some(Ordering::Equal)
    }
}

/// The exact order of two numbers; as floating point if one is not whole.
pub(super) fn number_order(left: &Number, right: &Number) -> Option<Ordering> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// The text that the text and list operators compare: a string itself, nothing for null, else `JSON.stringify(value)`.
pub(super) fn comparison_text(value: &Value, case_sensitive: bool) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => {
            let mut text = String::new();
            write_json(&mut text, other);
            text
        }
    };
    if case_sensitive { text } else { text.to_lowercase() }
}

/// Milliseconds since 1970: of a number as they are, of ISO 8601 text without an offset in UTC.
pub(super) fn to_milliseconds(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let milliseconds = number.as_f64()?.trunc();
            // In this range every whole number is exact in both types.
            (milliseconds.abs() <= MAX_DATE_MS).then_some(milliseconds as i64)
        }
        Value::String(text) => text_to_milliseconds(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text_to_milliseconds(text: &str) -> Option<i64> {
    if text.len() > MAX_DATE_BYTES || text.contains('[') {
        return None;
    }
    let digits = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
    let completed = match text.split_once('-') {
        None if text.len() == 4 && digits(text) => format!("{text}-01-01"),
        Some((year, month)) if year.len() == 4 && month.len() == 2 && digits(year) && digits(month) => {
            format!("{text}-01")
        }
        _ => text.to_owned(),
    };
    if let Ok(moment) = completed.parse::<Timestamp>() {
        return Some(moment.as_millisecond());
    }
    let local = completed.parse::<civil::DateTime>().ok()?;
    Some(Offset::UTC.to_timestamp(local).ok()?.as_millisecond())
}

/// `Number(text)` (ECMA-262 §7.1.4.1), `None` for NaN.
fn text_to_number(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_js_space);
    let radix = |digits: &str, bits: u32| {
        let digit = |digit: char| digit.to_digit(1 << bits);
        // Exact up to 128 bits; beyond, the last place may differ.
        let value = digits
            .chars()
            .try_fold(0.0, |value: f64, next| Some(value * f64::from(1 << bits) + f64::from(digit(next)?)));
        let exact = u128::from_str_radix(digits, 1 << bits).ok().map(|exact| exact as f64);
        if digits.is_empty() { None } else { value.map(|value| exact.unwrap_or(value)) }
    };
    match text.as_bytes() {
        [] => Some(0.0),
        [b'0', b'x' | b'X', ..] => radix(text.get(2..)?, 4),
        [b'0', b'o' | b'O', ..] => radix(text.get(2..)?, 3),
        [b'0', b'b' | b'B', ..] => radix(text.get(2..)?, 1),
        _ => match text.strip_prefix(['+', '-']).unwrap_or(text) {
            "Infinity" if text.starts_with('-') => Some(f64::NEG_INFINITY),
            "Infinity" => Some(f64::INFINITY),
            _ if text.bytes().all(|next| matches!(next, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
                text.parse().ok()
            }
            _ => None,
        },
    }
}

/// White space and line ends of ECMA-262 §12.2 and §12.3.
fn is_js_space(next: char) -> bool {
    next == '\u{feff}' || (next.is_whitespace() && next != '\u{85}')
}

/// `String(value)`: arrays joined by commas, objects without content.
fn to_primitive(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(number),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let item = |item: &Value| if item.is_null() { String::new() } else { to_primitive(item) };
            items.iter().map(item).collect::<Vec<_>>().join(",")
        }
        Value::Object(_) => "[object Object]".to_owned(),
    }
}

/// `JSON.stringify(value)`, object keys in the order of the map.
fn write_json(out: &mut String, value: &Value) {
    let between = |out: &mut String, index: usize| {
        if index > 0 {
            out.push(',');
        }
    };
    match value {
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                between(out, index);
                write_json(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                between(out, index);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_json(out, member);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

/// `String(number)` (ECMA-262 §6.1.6.1.20); whole numbers beyond 2^53 keep all their digits.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => {
            let size = value.abs();
            if size == 0.0 {
                "0".to_owned()
            } else if (1e-6..1e21).contains(&size) {
                value.to_string()
            } else {
                let text = format!("{value:e}");
                if text.contains("e-") { text } else { text.replace('e', "e+") }
            }
        }
        _ => number.to_string(),
    }
}

/// Farthest moment from 1970 a JavaScript date can be (ECMA-262 §21.4.1.1). Unit: milliseconds.
const MAX_DATE_MS: f64 = 8.64e15;
/// Longest text read as a date. Unit: bytes.
const MAX_DATE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_become_numbers_as_in_javascript() {
        for (text, number) in [
            ("", 0.0),
            (" \t\n\u{a0}\u{feff}\u{2028}", 0.0),
            (" 12 ", 12.0),
            ("+1.", 1.0),
            ("-.5", -0.5),
            ("1e3", 1000.0),
            ("007", 7.0),
            ("0x1F", 31.0),
            ("0b101", 5.0),
            ("0O17", 15.0),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+Infinity", f64::INFINITY),
            ("1e400", f64::INFINITY),
            ("0x20000000000001", 9_007_199_254_740_992.0),
        ] {
            assert_eq!(text_to_number(text), Some(number), "{text:?}");
        }
        for text in [
            "x", "1x", "1 2", "-0x10", "0x", "0xg", "0x+1", "inf", "nan", "NaN", "infinity", ".", "e5", "1e", "1_000",
            "1,5", "\u{85}1",
        ] {
            assert_eq!(text_to_number(text), None, "{text:?}");
        }
        assert_eq!(text_to_number(&format!("0x1{}", "0".repeat(40))), Some(2f64.powi(160)));
    }

    #[test]
    fn numbers_are_written_as_in_javascript() {
        for (number, text) in [
            (json!(1.0), "1"),
            (json!(-0.0), "0"),
            (json!(0.1), "0.1"),
            (json!(1e20), "100000000000000000000"),
            (json!(1e21), "1e+21"),
            (json!(1.5e300), "1.5e+300"),
            (json!(1e-6), "0.000001"),
            (json!(1e-7), "1e-7"),
            (json!(u64::MAX), "18446744073709551615"),
        ] {
            assert_eq!(comparison_text(&number, false), text);
        }
    }

    #[test]
    fn values_are_written_as_json() {
        let value = json!({"b": [1.0, null, "é\"\n"], "a": {"x": true}, "c": {}});
        assert_eq!(comparison_text(&value, true), r#"{"a":{"x":true},"b":[1,null,"é\"\n"],"c":{}}"#);
        assert_eq!(comparison_text(&Value::Null, true), "");
        assert_eq!(comparison_text(&json!("ÀB"), false), "àb");
    }

    #[test]
    fn arrays_and_objects_compare_by_their_text() {
        assert_eq!(Comparable::of(&json!([])), Comparable::Number(0.0));
        assert_eq!(Comparable::of(&json!([[5]])), Comparable::Number(5.0));
        assert_eq!(Comparable::of(&json!([1, null, true])), Comparable::Object("1,,true".to_owned()));
        assert_eq!(Comparable::of(&json!({})), Comparable::Object("[object Object]".to_owned()));
        assert!(!Comparable::of(&json!({})).equals(&Comparable::of(&json!({}))));
        assert!(Comparable::of(&json!([1, 2])).equals(&Comparable::of(&json!("1,2"))));
    }

    #[test]
    fn dates_parse() {
        for (value, milliseconds) in [
            (json!("1970"), 0),
            (json!("1970-02"), 31 * 86_400_000),
            (json!("1970-01-02"), 86_400_000),
            (json!("19700102"), 86_400_000),
            (json!("1970-01-01T00:01"), 60_000),
            (json!("1970-01-01 00:00:01"), 1000),
            (json!("1970-01-01T00:00:00.5"), 500),
            (json!("1970-01-01T00:00:00Z"), 0),
            (json!("1970-01-01T02:00:00+02:00"), 0),
            (json!("1969-12-31T23:00:00-01:00"), 0),
            (json!(1500), 1500),
            (json!(-1.9), -1),
            (json!(8.64e15), 8_640_000_000_000_000),
        ] {
            assert_eq!(to_milliseconds(&value), Some(milliseconds), "{value}");
        }
        for value in [
            json!(""),
            json!("x"),
            json!("1970-13"),
            json!("1970-02-30"),
            json!("12:00"),
            json!("1970-01-01T00:00[Europe/Berlin]"),
            json!(8.64e15 + 2.0),
            json!(null),
            json!(true),
            json!([]),
            json!(format!("1970-01-01T00:00:00.{}Z", "0".repeat(60))),
        ] {
            assert_eq!(to_milliseconds(&value), None, "{value}");
        }
    }
}
