//! Parameters: JSON values as PostgreSQL reads them. They go in its text format, so the server checks each against its type.

use std::error::Error;

use ap_core::capability::ExchangeError;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type};

/// A parameter in the form in which it is sent; `None` is NULL.
pub(super) struct Bound(Option<String>);

impl Bound {
    /// `value` as the parameter `$number` of this type.
    pub(super) fn new(value: &Value, kind: &Type, number: usize) -> Result<Self, ExchangeError> {
        match text_of(value, kind) {
            Ok(text) if text.as_deref().is_some_and(|text| text.contains('\0')) => {
                Err(wrong(number, "holds a NUL character, which PostgreSQL has no room for"))
            }
            Ok(text) => Ok(Self(text)),
            Err(problem) => Err(wrong(number, &problem)),
        }
    }
}

fn text_of(value: &Value, kind: &Type) -> Result<Option<String>, String> {
    if let Kind::Domain(inner) = kind.kind() {
        return text_of(value, inner);
    }
    if *kind == Type::JSON || *kind == Type::JSONB {
        return Ok((!value.is_null()).then(|| value.to_string()));
    }
    if let Kind::Array(member) = kind.kind() {
        return match value {
            Value::Null => Ok(None),
            // Text is PostgreSQL's own form, such as `{1,2}`.
            Value::String(text) => Ok(Some(text.clone())),
            Value::Array(items) => array_of(items, member, 0).map(Some),
            _ => Err(format!("must be an array: the statement expects `{kind}`")),
        };
    }
    match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) if *kind == Type::BYTEA => bytes_of(text).map(Some),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(_) | Value::Object(_) => {
            Err(format!("is an array or object, and the statement expects `{kind}`: cast it (`$1::jsonb`)"))
        }
    }
}

/// Bytes are base64 (RFC 4648 §4), or hexadecimal digits behind `\x` as PostgreSQL writes them.
fn bytes_of(text: &str) -> Result<String, String> {
    if text.starts_with("\\x") {
        return Ok(text.to_owned());
    }
    let bytes = STANDARD.decode(text).map_err(|_| "must be base64: the statement expects `bytea`".to_owned())?;
    let mut hex = String::with_capacity(bytes.len() * 2 + 2);
    hex.push_str("\\x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Ok(hex)
}

/// PostgreSQL's form of an array (its manual, §8.15.6).
fn array_of(items: &[Value], member: &Type, depth: usize) -> Result<String, String> {
    if depth >= MAX_DIMENSIONS {
        return Err(format!("has more than {MAX_DIMENSIONS} dimensions"));
    }
    let json = *member == Type::JSON || *member == Type::JSONB;
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        parts.push(match item {
            Value::Array(inner) if !json => array_of(inner, member, depth + 1)?,
            other => match text_of(other, member)? {
                None => "NULL".to_owned(),
                Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            },
        });
    }
    // A box is the one type with another delimiter.
    let delimiter = if *member == Type::BOX { ";" } else { "," };
    Ok(format!("{{{}}}", parts.join(delimiter)))
}

fn wrong(number: usize, problem: &str) -> ExchangeError {
    ExchangeError::InvalidRequest { reason: format!("parameter ${number} {problem}") }
}

impl ToSql for Bound {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(kind, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bound(…)")
    }
}

/// PostgreSQL's own limit.
const MAX_DIMENSIONS: usize = 6;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(value: Value, kind: &Type) -> Result<Option<String>, ExchangeError> {
        Bound::new(&value, kind, 1).map(|bound| bound.0)
    }

    #[test]
    fn values_become_text_of_their_type() {
        for (value, kind, expected) in [
            (json!(null), Type::TEXT, None),
            (json!(null), Type::JSONB, None),
            (json!(true), Type::BOOL, Some("true")),
            (json!(9_007_199_254_740_993_i64), Type::INT8, Some("9007199254740993")),
            (json!("123.4500"), Type::NUMERIC, Some("123.4500")),
            (json!("a'b"), Type::TEXT, Some("a'b")),
            (json!("a"), Type::JSONB, Some("\"a\"")),
            (json!({ "a": [1, null] }), Type::JSON, Some("{\"a\":[1,null]}")),
            (json!("AP8="), Type::BYTEA, Some("\\x00ff")),
            (json!("\\xabcd"), Type::BYTEA, Some("\\xabcd")),
            (json!([]), Type::INT4_ARRAY, Some("{}")),
            (json!([1, null, 3]), Type::INT4_ARRAY, Some("{\"1\",NULL,\"3\"}")),
            (
                json!([["a\"b\\c", "{d,e}"], ["NULL", ""]]),
                Type::TEXT_ARRAY,
                Some(r#"{{"a\"b\\c","{d,e}"},{"NULL",""}}"#),
            ),
            (json!([["x"], { "y": 1 }]), Type::JSONB_ARRAY, Some(r#"{"[\"x\"]","{\"y\":1}"}"#)),
            (json!(["AQ=="]), Type::BYTEA_ARRAY, Some(r#"{"\\x01"}"#)),
            (json!("{1,2}"), Type::INT4_ARRAY, Some("{1,2}")),
        ] {
            assert_eq!(text(value.clone(), &kind), Ok(expected.map(str::to_owned)), "{value} as {kind}");
        }
    }

    #[test]
    fn values_of_no_type_are_refused() {
        for (value, kind) in [
            (json!({ "a": 1 }), Type::TEXT),
            (json!([1]), Type::INT4),
            (json!(1), Type::INT4_ARRAY),
            (json!("no base64!"), Type::BYTEA),
            (json!("a\0b"), Type::TEXT),
            (json!([[[[[[["too deep"]]]]]]]), Type::TEXT_ARRAY),
        ] {
            assert!(
                matches!(text(value.clone(), &kind), Err(ExchangeError::InvalidRequest { .. })),
                "{value} as {kind}"
            );
        }
    }
}
