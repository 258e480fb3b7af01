//! Writing a secret into header, query and JSON text. Buffers that hold one are wiped, where the HTTP types allow it.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use ap_core::{capability::HttpError, json::push_pointer};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, value::RawValue};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::credential::{CredentialUse, Place};

/// Why a secret cannot be written where it should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("a user name for basic authentication must not hold a colon (RFC 7617 §2)")]
    Colon,
    #[error("a header holds visible ASCII characters and spaces only")]
    HeaderCharacters,
    #[error("the body must be a JSON object, and so must every member on the way to the pointer")]
    NoJsonObject,
    #[error("the request already sets it; leave it to the connection")]
    Occupied,
    #[error(
        "a secret in a URL has at most {MAX_QUERY_SECRET_BYTES} bytes once it is percent-encoded: send it in a header or a body"
    )]
    LongQuery,
    #[error("a URL holds at most {MAX_QUERY_SECRETS} secrets")]
    ManyQuery,
    #[error("the pointer is no RFC 6901 pointer of at most {MAX_POINTER_DEPTH} steps")]
    Pointer,
}

/// `text` with secrets in the place of the given ranges (ascending, disjoint).
pub(super) fn filled(
    text: &str,
    places: &[(Range<usize>, &SecretString)],
    write: impl Fn(&str, &mut Vec<u8>),
) -> Zeroizing<Vec<u8>> {
    let longest: usize = places.iter().map(|(_, secret)| secret.expose_secret().len() * ESCAPE_BYTES).sum();
    // Large enough from the start: a buffer that grows leaves copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + longest));
    let mut done = 0;
    for (range, secret) in places {
        out.extend_from_slice(text.get(done..range.start).unwrap_or_default().as_bytes());
        write(secret.expose_secret(), &mut out);
        done = range.end;
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default().as_bytes());
    out
}

/// What of `text` is outside the given ranges (ascending, disjoint).
pub(super) fn around<'t>(text: &'t str, places: &[(Range<usize>, &SecretString)]) -> impl Iterator<Item = &'t str> {
    let starts = places.iter().map(|(range, _)| range.start).chain([text.len()]);
    let ends = [0].into_iter().chain(places.iter().map(|(range, _)| range.end));
    ends.zip(starts).map(|(from, to)| text.get(from..to).unwrap_or_default())
}

/// Whether what stands at `at` would be read as part of a percent escape that begins before it.
pub(super) fn cuts_percent_escape(text: &str, at: usize) -> bool {
    text.bytes().take(at).skip(at.saturating_sub(2)).any(|byte| byte == b'%')
}

/// Writes `text` as the inside of a JSON string (RFC 8259 §7).
pub(super) fn json_escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..=0x1f => {
                let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                out.extend([b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
}

pub(super) fn header_value(text: &str, places: &[(Range<usize>, &SecretString)]) -> Result<HeaderValue, PlaceError> {
    sensitive(filled(text, places, |secret, out| out.extend(secret.bytes())))
}

pub(super) fn prefixed_value(prefix: &str, secret: &str) -> Result<HeaderValue, PlaceError> {
    let mut value = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
    value.extend(prefix.bytes());
    value.extend(secret.bytes());
    sensitive(value)
}

/// RFC 7617 §2, in UTF-8.
pub(super) fn basic_value(username: &str, password: &str) -> Result<HeaderValue, PlaceError> {
    if username.contains(':') {
        return Err(PlaceError::Colon);
    }
    let mut pair = Zeroizing::new(Vec::with_capacity(username.len() + password.len() + 1));
    pair.extend(username.bytes());
    pair.push(b':');
    pair.extend(password.bytes());
    prefixed_value("Basic ", &Zeroizing::new(STANDARD.encode(&*pair)))
}

fn sensitive(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, PlaceError> {
    let visible = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    if !value.iter().all(visible) {
        return Err(PlaceError::HeaderCharacters);
    }
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| PlaceError::HeaderCharacters)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Name and value of one `name=value` part of a query (WHATWG `application/x-www-form-urlencoded`).
pub(super) fn decoded_pair(part: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    form_urlencoded::parse(part.as_bytes()).next().unwrap_or_default()
}

pub(super) fn encoded_pair(name: &str, value: &[u8]) -> String {
    let mut pair: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    pair.push('=');
    pair.extend(form_urlencoded::byte_serialize(value));
    pair
}

/// Whether a secret may go into a query that holds those of `uses` already.
///
/// Judged by the secret alone: if the rest of the URL had a say, whoever writes it could measure the secret. What is let through
/// together is below 64 KiB, where the client would refuse the URL.
pub(super) fn fits_query(uses: &[CredentialUse], secret: &str) -> Result<(), PlaceError> {
    if uses.iter().filter(|used| matches!(used.place, Place::Query(_))).count() >= MAX_QUERY_SECRETS {
        return Err(PlaceError::ManyQuery);
    }
    let bytes: usize = form_urlencoded::byte_serialize(secret.as_bytes()).map(str::len).sum();
    if bytes > MAX_QUERY_SECRET_BYTES { Err(PlaceError::LongQuery) } else { Ok(()) }
}

/// Paths and fragments decode like queries, except that `+` stays: no placeholder holds one.
pub(super) fn percent_decoded(text: &str) -> String {
    let escaped = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(escaped.as_bytes()).next().unwrap_or_default().0.into_owned()
}

/// Calls `visit` with every string of `json`: values with their RFC 6901 pointer, names of members without one.
///
/// The depth of `json` must be bounded.
pub(super) fn walk_strings(json: &Value, visit: &mut VisitString<'_>) -> Result<(), HttpError> {
    walk_inside(json, &mut String::new(), visit)
}

pub(super) type VisitString<'v> = dyn FnMut(Option<&str>, &str) -> Result<(), HttpError> + 'v;

fn walk_inside(json: &Value, pointer: &mut String, visit: &mut VisitString<'_>) -> Result<(), HttpError> {
    let length = pointer.len();
    match json {
        Value::String(text) => visit(Some(pointer), text)?,
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                push_pointer(pointer, &index.to_string());
                walk_inside(item, pointer, visit)?;
                pointer.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                visit(None, name)?;
                push_pointer(pointer, name);
                walk_inside(member, pointer, visit)?;
                pointer.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// `body` with the member at `pointer` set to `secret`. Members on the way are made where they are missing; everything
/// else keeps its spelling, numbers above all.
pub(super) fn set_json_member(
    body: Option<&[u8]>,
    pointer: &str,
    secret: &str,
) -> Result<Zeroizing<Vec<u8>>, PlaceError> {
    let steps: Vec<String> = pointer
        .strip_prefix('/')
        .ok_or(PlaceError::Pointer)?
        .split('/')
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect();
    if steps.len() > MAX_POINTER_DEPTH {
        return Err(PlaceError::Pointer);
    }
    let body = std::str::from_utf8(body.ok_or(PlaceError::NoJsonObject)?).map_err(|_| PlaceError::NoJsonObject)?;
    let room = body.len() + pointer.len() * (ESCAPE_BYTES + 1) + (secret.len() + steps.len()) * ESCAPE_BYTES + 64;
    let mut out = Zeroizing::new(Vec::with_capacity(room));
    write_with_member(Some(body), &steps, secret, &mut out)?;
    Ok(out)
}

fn write_with_member(
    object: Option<&str>,
    steps: &[String],
    secret: &str,
    out: &mut Vec<u8>,
) -> Result<(), PlaceError> {
    let Some((step, rest)) = steps.split_first() else {
        if object.is_some() {
            return Err(PlaceError::Occupied);
        }
        out.push(b'"');
        json_escape(secret, out);
        out.push(b'"');
        return Ok(());
    };
    let members: BTreeMap<String, &RawValue> = match object {
        Some(text) => serde_json::from_str(text).map_err(|_| PlaceError::NoJsonObject)?,
        None => BTreeMap::new(),
    };
    out.push(b'{');
    for (name, value) in members.iter().filter(|(name, _)| *name != step) {
        write_name(name, out);
        out.extend_from_slice(value.get().as_bytes());
        out.push(b',');
    }
    write_name(step, out);
    write_with_member(members.get(step).map(|value| value.get()), rest, secret, out)?;
    out.push(b'}');
    Ok(())
}

fn write_name(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    json_escape(name, out);
    out.extend_from_slice(b"\":");
}

/// `\u0000`: the longest form of one byte.
const ESCAPE_BYTES: usize = 6;
const MAX_POINTER_DEPTH: usize = 32;
/// Most secrets in one query, so that 8 KiB of URL and all of them stay below 64 KiB, also with every byte in percent escapes.
const MAX_QUERY_SECRETS: usize = 4;
/// Longest secret in a query. Unit: bytes, percent-encoded.
const MAX_QUERY_SECRET_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(body: &str, pointer: &str, secret: &str) -> Result<String, PlaceError> {
        set_json_member(Some(body.as_bytes()), pointer, secret)
            .map(|json| String::from_utf8(json.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn members_are_set_and_the_rest_keeps_its_spelling() {
        for (body, pointer, expected) in [
            ("{}", "/a", r#"{"a":"s"}"#),
            (r#"{"n":1e400,"m":12345678901234567890123}"#, "/a", r#"{"m":12345678901234567890123,"n":1e400,"a":"s"}"#),
            (r#"{"auth":{"x":[1, 2]}}"#, "/auth/token", r#"{"auth":{"x":[1, 2],"token":"s"}}"#),
            ("{}", "/a/b/c", r#"{"a":{"b":{"c":"s"}}}"#),
            ("{}", "/", r#"{"":"s"}"#),
            ("{}", "/a~1b~0c", r#"{"a/b~c":"s"}"#),
            (r#"{"k\"\u0001":1}"#, "/a", r#"{"k\"\u0001":1,"a":"s"}"#),
        ] {
            assert_eq!(set(body, pointer, "s").as_deref(), Ok(expected));
        }
        assert_eq!(set("{}", "/a", "q\"\\\n\u{7f}é").as_deref(), Ok("{\"a\":\"q\\\"\\\\\\u000a\u{7f}é\"}"));
    }

    #[test]
    fn members_that_cannot_be_set() {
        for (body, pointer, expected) in [
            ("", "/a", PlaceError::NoJsonObject),
            ("[]", "/0", PlaceError::NoJsonObject),
            ("null", "/a", PlaceError::NoJsonObject),
            ("{} x", "/a", PlaceError::NoJsonObject),
            (r#"{"a":1}"#, "/a/b", PlaceError::NoJsonObject),
            (r#"{"a":[]}"#, "/a/0", PlaceError::NoJsonObject),
            (r#"{"a":""}"#, "/a", PlaceError::Occupied),
            (r#"{"a":null}"#, "/a", PlaceError::Occupied),
            ("{}", "a", PlaceError::Pointer),
            ("{}", "", PlaceError::Pointer),
            ("{}", &"/a".repeat(33), PlaceError::Pointer),
        ] {
            assert_eq!(set(body, pointer, "s"), Err(expected), "{body} {pointer}");
        }
        assert!(set("{}", &"/a".repeat(32), "s").is_ok());
        assert_eq!(set_json_member(None, "/a", "s").map(|_| ()), Err(PlaceError::NoJsonObject));
    }

    #[test]
    fn header_values_hold_visible_ascii_and_are_marked() {
        let value = prefixed_value("Bearer ", "abc").expect("plain");
        assert!(value.is_sensitive() && value == "Bearer abc" && !format!("{value:?}").contains("abc"));
        assert_eq!(basic_value("Aladdin", "open sesame").expect("RFC 7617"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic_value("a:b", "c"), Err(PlaceError::Colon));
        for wrong in ["a\nb", "a\rb", "a\0b", "a\u{7f}", "é"] {
            assert_eq!(prefixed_value("", wrong), Err(PlaceError::HeaderCharacters), "{wrong:?}");
        }
    }

    #[test]
    fn paths_are_decoded_whole() {
        assert_eq!(percent_decoded("/a%70b&c=d+%zz"), "/apb&c=d %zz");
    }

    proptest! {
        #[test]
        fn a_set_member_reads_back(secret in "\\PC{0,20}", name in "\\PC{0,10}", body in "\\PC{0,30}") {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let json = set("{\"other\":[1]}", &pointer, &secret);
            if name != "other" {
                let json: Value = serde_json::from_str(&json.expect("an object")).expect("JSON");
                prop_assert_eq!(json.pointer(&pointer).and_then(Value::as_str), Some(secret.as_str()));
                prop_assert_eq!(json.pointer("/other/0"), Some(&Value::from(1)));
            }
            let _ = set(&body, &pointer, &secret);
        }

        #[test]
        fn pairs_round_trip(name in "\\PC{1,10}", value in "\\PC{0,20}") {
            let pair = encoded_pair(&name, value.as_bytes());
            prop_assert!(!pair.contains('&') && !pair.contains('#'));
            let (back, text) = decoded_pair(&pair);
            prop_assert_eq!((&*back, &*text), (&*name, &*value));
        }
    }
}
