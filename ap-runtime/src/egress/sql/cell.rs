//! Results: PostgreSQL's binary values as JSON that means the same. What has no such form is an error that says what to do.

use std::{
    error::Error,
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use ap_core::{
    capability::ExchangeError,
    json::{self, JsonLimits},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Number, Value};
use tokio_postgres::types::{FromSql, Kind, Type};

use super::cell_time as time;

/// The bytes of a value; `None` is NULL.
pub(super) struct Raw<'a>(pub(super) Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The value of column `name`.
pub(super) fn read(raw: Raw<'_>, name: &str, kind: &Type) -> Result<Value, ExchangeError> {
    let Some(bytes) = raw.0 else { return Ok(Value::Null) };
    value_of(bytes, kind, 0).ok_or_else(|| unreadable(name, kind))
}

pub(super) fn unreadable(name: &str, kind: &Type) -> ExchangeError {
    ExchangeError::InvalidRequest {
        reason: format!(
            "column `{name}` holds a `{kind}` that has no form in JSON: cast it in the statement (`{name}::text`)"
        ),
    }
}

/// `None` for what has no form in JSON, and for bytes that are no value of the type.
fn value_of(bytes: &[u8], kind: &Type, depth: usize) -> Option<Value> {
    match kind.kind() {
        Kind::Domain(inner) => return value_of(bytes, inner, depth),
        Kind::Array(member) if depth == 0 => return array(bytes, member),
        Kind::Enum(_) => return text(bytes),
        _ => {}
    }
    Some(match *kind {
        Type::BOOL => Value::Bool(*bytes.first()? != 0),
        Type::INT2 => Value::from(i16::from_be_bytes(bytes.try_into().ok()?)),
        Type::INT4 => Value::from(i32::from_be_bytes(bytes.try_into().ok()?)),
        Type::INT8 => whole(i64::from_be_bytes(bytes.try_into().ok()?)),
        Type::OID => Value::from(u32::from_be_bytes(bytes.try_into().ok()?)),
        Type::FLOAT4 => {
            let number = f32::from_be_bytes(bytes.try_into().ok()?);
            // Its own shortest digits, not those of the nearest double.
            float(number.to_string().parse().ok()?)
        }
        Type::FLOAT8 => float(f64::from_be_bytes(bytes.try_into().ok()?)),
        Type::NUMERIC => Value::String(numeric(bytes)?),
        Type::UUID => Value::String(uuid(bytes)?),
        Type::BYTEA => Value::String(STANDARD.encode(bytes)),
        Type::JSON => exact_json(bytes)?,
        Type::JSONB => exact_json(bytes.strip_prefix(&[1])?)?,
        Type::TIMESTAMPTZ => Value::String(time::timestamp(i64::from_be_bytes(bytes.try_into().ok()?), true)?),
        Type::TIMESTAMP => Value::String(time::timestamp(i64::from_be_bytes(bytes.try_into().ok()?), false)?),
        Type::DATE => Value::String(time::date(i32::from_be_bytes(bytes.try_into().ok()?))?),
        Type::TIME => Value::String(time::time_of_day(i64::from_be_bytes(bytes.try_into().ok()?))?),
        Type::TIMETZ => Value::String(time::time_with_zone(bytes)?),
        Type::INTERVAL => Value::String(time::interval(bytes)?),
        Type::INET | Type::CIDR => Value::String(network(bytes)?),
        Type::VOID => Value::Null,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN | Type::XML => text(bytes)?,
        _ if kind.name() == "citext" => text(bytes)?,
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<Value> {
    String::from_utf8(bytes.to_vec()).ok().map(Value::String)
}

/// A number where every reader of JSON has it exactly (RFC 8259 §6), else text.
pub(super) fn whole(number: i64) -> Value {
    if number.unsigned_abs() <= MAX_EXACT { Value::from(number) } else { Value::String(number.to_string()) }
}

pub(super) fn float(number: f64) -> Value {
    Number::from_f64(number).map_or_else(
        || {
            Value::String(
                if number.is_nan() {
                    "NaN"
                } else if number > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                }
                .to_owned(),
            )
        },
        Value::Number,
    )
}

/// Base 10,000, as the server sends it.
fn numeric(bytes: &[u8]) -> Option<String> {
    let (head, digits) = bytes.split_at_checked(8)?;
    let field = |at: usize| Some(u16::from_be_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let (count, sign, scale) = (usize::from(field(0)?), field(4)?, usize::from(field(6)?));
    let weight = i32::from(field(2)?.cast_signed());
    match sign {
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        0x0000 | 0x4000 => {}
        _ => return None,
    }
    let groups: Vec<u16> = digits.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    if groups.len() != count || digits.len() != count * 2 {
        return None;
    }
    let group = |place: i32| -> u16 {
        let index = usize::try_from(weight - place).ok();
        index.and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    let mut out = String::from(if sign == 0x4000 { "-" } else { "" });
    let _ = write!(out, "{}", group(weight.max(0)));
    for place in (0..weight.max(0)).rev() {
        let _ = write!(out, "{:04}", group(place));
    }
    if scale > 0 {
        out.push('.');
        let whole = out.len();
        for place in 1..=scale.div_ceil(4) {
            let _ = write!(out, "{:04}", group(-i32::try_from(place).ok()?));
        }
        out.truncate(whole + scale);
    }
    Some(out)
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to);
    Some(format!("{}-{}-{}-{}-{}", part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?))
}

fn network(bytes: &[u8]) -> Option<String> {
    let [family, bits, is_cidr, length, address @ ..] = bytes else { return None };
    let (address, all) = match (*family, *length) {
        (2, 4) => (Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).to_string(), 32),
        (3, 16) => (Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).to_string(), 128),
        _ => return None,
    };
    Some(if *is_cidr != 0 || *bits != all { format!("{address}/{bits}") } else { address })
}

fn array(bytes: &[u8], member: &Type) -> Option<Value> {
    let mut rest = bytes;
    let dimensions = usize::try_from(take_i32(&mut rest)?).ok().filter(|count| *count <= MAX_DIMENSIONS)?;
    let (_flags, _element) = (take_i32(&mut rest)?, take_i32(&mut rest)?);
    if dimensions == 0 {
        return Some(Value::Array(Vec::new()));
    }
    let mut lengths = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let length = usize::try_from(take_i32(&mut rest)?).ok()?;
        let _lower_bound = take_i32(&mut rest)?;
        // Each member takes four bytes at least.
        lengths.push(Some(length).filter(|length| *length <= bytes.len() / 4)?);
    }
    let value = members(&mut rest, &lengths, member)?;
    rest.is_empty().then_some(value)
}

fn members(rest: &mut &[u8], lengths: &[usize], member: &Type) -> Option<Value> {
    let Some((length, inner)) = lengths.split_first() else {
        let size = take_i32(rest)?;
        if size < 0 {
            return Some(Value::Null);
        }
        let (value, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        *rest = after;
        return value_of(value, member, 1);
    };
    (0..*length).map(|_| members(rest, inner, member)).collect::<Option<Vec<_>>>().map(Value::Array)
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    let (head, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*head))
}

/// JSON as it is, unless a number in it has more digits than its readers keep.
fn exact_json(bytes: &[u8]) -> Option<Value> {
    let limits = JsonLimits::payload();
    let value = json::parse(bytes, &limits).ok()?;
    numbers(bytes).all(is_exact).then_some(value)
}

/// The texts of numbers in valid JSON.
fn numbers(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let (first, tail) = rest.split_first()?;
            match first {
                b'"' => {
                    let mut escaped = false;
                    let end = tail.iter().position(|byte| {
                        let ends = *byte == b'"' && !escaped;
                        escaped = *byte == b'\\' && !escaped;
                        ends
                    })?;
                    rest = tail.get(end + 1..)?;
                }
                b'-' | b'0'..=b'9' => {
                    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                    let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                    let (number, after) = rest.split_at_checked(end)?;
                    rest = after;
                    return std::str::from_utf8(number).ok();
                }
                _ => rest = tail,
            }
        }
    })
}

/// Whether a reader of JSON has the number that is written.
fn is_exact(number: &str) -> bool {
    if number.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= MAX_EXACT) {
        return true;
    }
    let read = number.parse::<f64>().ok().filter(|read| read.is_finite());
    read.is_some_and(|read| decimal(number) == decimal(&format!("{read:e}")))
}

/// Sign, significant digits, and the power of ten of the last one.
fn decimal(number: &str) -> Option<(bool, String, i64)> {
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut exponent = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    exponent = exponent.checked_add(i64::try_from(digits.len() - kept.len()).ok()?)?;
    let kept = kept.trim_start_matches('0');
    Some(if kept.is_empty() { (false, String::new(), 0) } else { (negative, kept.to_owned(), exponent) })
}

/// 2^53 − 1.
const MAX_EXACT: u64 = (1 << 53) - 1;
const MAX_DIMENSIONS: usize = 6;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn numeric_of(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Option<String> {
        let head = [digits.len() as u16, weight as u16, sign, scale];
        let bytes: Vec<u8> = head.iter().chain(digits).flat_map(|field| field.to_be_bytes()).collect();
        numeric(&bytes)
    }

    #[test]
    fn numeric_keeps_every_digit() {
        for (weight, sign, scale, digits, expected) in [
            (0, 0, 0, &[][..], "0"),
            (0, 0, 2, &[], "0.00"),
            (0, 0, 2, &[1, 5000], "1.50"),
            (1, 0x4000, 4, &[1, 2345, 6789], "-12345.6789"),
            (-1, 0, 4, &[1], "0.0001"),
            (-2, 0, 8, &[1], "0.00000001"),
            (2, 0, 0, &[1], "100000000"),
            (0, 0xC000, 0, &[], "NaN"),
            (0, 0xD000, 0, &[], "Infinity"),
            (0, 0xF000, 0, &[], "-Infinity"),
        ] {
            assert_eq!(numeric_of(weight, sign, scale, digits).as_deref(), Some(expected));
        }
        assert_eq!(numeric_of(0, 1, 0, &[]), None);
        assert_eq!(numeric(b"\0\x01\0\0\0\0\0\0"), None);
    }

    #[test]
    fn numbers_that_readers_would_round_are_no_json() {
        for exact in [
            "0",
            "-0",
            "1.50",
            "1e2",
            "0.1",
            "9007199254740991",
            "1.7976931348623157e308",
            "123456.789e-3",
            "1E400000000000000000000",
        ] {
            assert_eq!(is_exact(exact), !exact.contains("E4"), "{exact}");
        }
        for rounded in ["9007199254740993", "0.1000000000000000055511151231257827", "1e400", "12345678901234567890"] {
            assert!(!is_exact(rounded), "{rounded}");
        }
        assert_eq!(
            exact_json(br#"{"a": [1.5, "\"9007199254740993"]}"#),
            Some(json!({ "a": [1.5, "\"9007199254740993"] }))
        );
        assert_eq!(exact_json(br#"{"a": [9007199254740993]}"#), None);
        assert_eq!(whole(9_007_199_254_740_991), json!(9_007_199_254_740_991_i64));
        assert_eq!(whole(-9_007_199_254_740_992), json!("-9007199254740992"));
    }

    #[test]
    fn arrays_keep_their_dimensions() {
        let int = |number: i32| number.to_be_bytes().to_vec();
        let member = |number: i32| [int(4), int(number)].concat();
        let bytes = [int(2), int(1), int(23), int(2), int(1), int(2), int(1), member(1), member(2), int(-1), member(4)]
            .concat();
        assert_eq!(value_of(&bytes, &Type::INT4_ARRAY, 0), Some(json!([[1, 2], [null, 4]])));
        assert_eq!(value_of(&[int(0), int(0), int(23)].concat(), &Type::INT4_ARRAY, 0), Some(json!([])));
        for end in 0..bytes.len() {
            assert_eq!(value_of(&bytes[..end], &Type::INT4_ARRAY, 0), None, "{end}");
        }
        let huge = [int(1), int(0), int(23), int(i32::MAX), int(1)].concat();
        assert_eq!(value_of(&huge, &Type::INT4_ARRAY, 0), None);
    }

    #[test]
    fn bytes_of_no_value_are_refused() {
        for kind in [
            Type::INT4,
            Type::INT8,
            Type::FLOAT8,
            Type::UUID,
            Type::TIMESTAMPTZ,
            Type::JSONB,
            Type::INET,
            Type::INTERVAL,
            Type::POINT,
        ] {
            assert_eq!(value_of(b"abc", &kind, 0), None, "{kind}");
        }
        let error = unreadable("p", &Type::POINT).to_string();
        assert!(error.contains("`p`") && error.contains("p::text"), "{error}");
    }
}
