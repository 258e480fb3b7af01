//! Building the request from the settings; everything that could change its framing is refused.

use std::time::Duration;

use ap_core::{
    capability::HttpRequest,
    connection::RESERVED_HEADERS,
    piece::ActionContext,
    run::{StepError, StepErrorKind},
};
use serde_json::{Map, Value};
use url::Url;

use crate::input::{self, wrong};

/// The request that `input` describes.
///
/// # Errors
/// [`StepErrorKind::Input`] naming the property at fault; [`StepErrorKind::Refused`] for an unchecked certificate.
pub(super) fn build(context: &ActionContext<'_>, input: &Value) -> Result<HttpRequest, StepError> {
    let mut url = parse_url(input::text(input, "url"))?;
    if let Some(query) = object(input, "query") {
        add_query(&mut url, query)?;
    }
    let method = match input::text(input, "method") {
        "" => "GET",
        method => method,
    };
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(wrong("url", format_args!("is longer than {MAX_URL_BYTES} bytes with its query")));
    }
    let mut request = HttpRequest::new(method, url);
    request.headers = object(input, "headers").map(headers).transpose()?.unwrap_or_default();
    request.body = body(input.get("body"), &mut request.headers)?;
    if context.send_idempotency_key {
        // The flow's author may have made the key from data.
        check_field_value(context.idempotency_key).map_err(|problem| wrong("idempotencyKey", problem))?;
        add_default(&mut request.headers, "Idempotency-Key", context.idempotency_key);
    }
    request.credential = credential(input)?;
    request.require_tls13 = object(input, "ssl").map(requires_tls13).transpose()?.unwrap_or_default();
    let timeout = input.get("timeout").and_then(Value::as_u64).map(Duration::from_millis);
    request.timeout = timeout.unwrap_or(context.timeout).min(context.timeout);
    Ok(request)
}

fn object<'a>(input: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    input.get(name).and_then(Value::as_object)
}

fn parse_url(text: &str) -> Result<Url, StepError> {
    // The parser would drop tabs and line breaks silently; what the author sees and what is sent must be the same.
    if text.contains(|char: char| char.is_control() || char == ' ') {
        return Err(wrong("url", "must not hold spaces or control characters: percent-encode them, or use `query`"));
    }
    let mut url =
        Url::parse(text).map_err(|_| wrong("url", "must be an absolute URL, such as `https://api.example/v1`"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("url", "must start with `https://` or `http://`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "url",
            "must not hold a user name or password: make a connection, and name it in `connection`",
        ));
    }
    url.set_fragment(None);
    Ok(url)
}

fn add_query(url: &mut Url, query: &Map<String, Value>) -> Result<(), StepError> {
    let pairs = flatten(query, "query")?;
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(())
}

/// One pair per value: arrays give their items, null gives nothing.
fn flatten<'a>(members: &'a Map<String, Value>, property: &str) -> Result<Vec<(&'a str, String)>, StepError> {
    let mut pairs = Vec::new();
    for (name, value) in members {
        let values = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values {
            match value {
                Value::Null => {}
                Value::String(text) => pairs.push((name.as_str(), text.clone())),
                Value::Bool(_) | Value::Number(_) => pairs.push((name.as_str(), value.to_string())),
                Value::Array(_) | Value::Object(_) => {
                    let name = name.escape_default();
                    return Err(wrong(property, format_args!("`{name}` must be text, a number, true or false")));
                }
            }
        }
    }
    Ok(pairs)
}

fn headers(members: &Map<String, Value>) -> Result<Vec<(String, String)>, StepError> {
    let refuse =
        |name: &str, problem: &str| Err(wrong("headers", format_args!("`{}` {problem}", name.escape_default())));
    let mut seen: Vec<String> = Vec::new();
    for name in members.keys() {
        let lower = name.to_ascii_lowercase();
        if !is_token(name) {
            return refuse(name, "is not a header name (RFC 9110 §5.1)");
        }
        if RESERVED_HEADERS.contains(&lower.as_str()) {
            return refuse(
                name,
                "cannot be set: it belongs to the connection or the framing of the message, which are ours",
            );
        }
        if seen.contains(&lower) {
            return refuse(name, "is given twice in different case: use one, with an array for several values");
        }
        seen.push(lower);
    }
    let (mut fields, mut size) = (Vec::new(), 0_usize);
    for (name, value) in flatten(members, "headers")? {
        let value = value.trim_matches([' ', '\t']);
        if let Err(problem) = check_field_value(value) {
            return refuse(name, problem);
        }
        size = size.saturating_add(name.len()).saturating_add(value.len());
        if size > MAX_HEADER_BYTES {
            return Err(wrong("headers", format_args!("hold more than {MAX_HEADER_BYTES} bytes")));
        }
        fields.push((name.to_owned(), value.to_owned()));
    }
    Ok(fields)
}

/// Line breaks would split the message; other characters have no meaning every peer agrees on (RFC 9110 §5.5).
fn check_field_value(value: &str) -> Result<(), &'static str> {
    if value.contains(['\r', '\n', '\0']) {
        return Err("must not hold line breaks or NUL");
    }
    let printable = value.chars().all(|char| char == '\t' || char == ' ' || char.is_ascii_graphic());
    if printable { Ok(()) } else { Err("must be printable ASCII: encode other characters as the API asks for") }
}

fn body<B: From<Vec<u8>>>(body: Option<&Value>, headers: &mut Vec<(String, String)>) -> Result<Option<B>, StepError> {
    let bytes = match body {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone().into_bytes(),
        Some(value) => {
            add_default(headers, "Content-Type", "application/json");
            value.to_string().into_bytes()
        }
    };
    if bytes.len() > MAX_BODY_BYTES {
        return Err(wrong("body", format_args!("is larger than {MAX_BODY_BYTES} bytes")));
    }
    Ok(Some(bytes.into()))
}

fn add_default(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

fn credential(input: &Value) -> Result<Option<String>, StepError> {
    let named = |name| Some(input::text(input, name)).filter(|text| !text.is_empty());
    match (named("connection"), named("auth")) {
        (Some(connection), Some(auth)) if connection != auth => {
            Err(wrong("auth", "names another connection than `connection`: give one of them"))
        }
        (connection, auth) => Ok(connection.or(auth).map(str::to_owned)),
    }
}

fn requires_tls13(ssl: &Map<String, Value>) -> Result<bool, StepError> {
    let mut tls13 = false;
    for (name, value) in ssl {
        match (name.as_str(), value) {
            ("verify", Value::Bool(true)) => {}
            ("verify", Value::Bool(false)) => {
                return Err(StepError::new(
                    StepErrorKind::Refused,
                    "property `ssl` must not turn `verify` off: without a checked certificate anybody on the way can read \
                     the request and its credentials; let the host trust the peer's certificate authority instead",
                ));
            }
            ("verify", _) => return Err(wrong("ssl", "`verify` can only be true")),
            ("minVersion", Value::String(version)) if version == "TLSv1.2" => {}
            ("minVersion", Value::String(version)) if version == "TLSv1.3" => tls13 = true,
            ("minVersion", _) => return Err(wrong("ssl", "`minVersion` must be `TLSv1.2` or `TLSv1.3`")),
            (_, _) => return Err(wrong("ssl", "holds only `verify` and `minVersion`")),
        }
    }
    Ok(tls13)
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Longest URL, the query included. Unit: bytes.
const MAX_URL_BYTES: usize = 32 << 10;
/// Most names and values of header fields together. Unit: bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Largest request body. Unit: bytes.
const MAX_BODY_BYTES: usize = 10 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{KEY, NONE, NOW, Recorder};

    fn build_from(input: Value) -> Result<HttpRequest, StepError> {
        let http = Recorder::default();
        let context = ActionContext {
            http: &http,
            sql: &NONE,
            mail: &NONE,
            objects: &NONE,
            keys: &NONE,
            idempotency_key: KEY,
            send_idempotency_key: false,
            timeout: Duration::from_secs(30),
            now: NOW,
        };
        build(&context, &input)
    }

    fn with(name: &str, value: Value) -> Result<HttpRequest, StepError> {
        let mut input = json!({ "url": "https://a.example/" });
        input[name] = value;
        build_from(input)
    }

    #[test]
    fn headers_that_could_split_or_frame_the_message_are_refused() {
        for (name, value) in [
            ("X-A", "a\r\nX-Injected: 1"),
            ("X-A", "a\nb"),
            ("X-A", "a\rb"),
            ("X-A", "a\0b"),
            ("X-A", "a\u{1b}[0m"),
            ("X-A", "a\u{7f}"),
            ("X-A", "ä"),
            ("X-A", "a\u{010a}b"),
            ("X-A: 1\r\nX-B", "a"),
            ("X A", "a"),
            ("X-A:", "a"),
            ("", "a"),
            ("Xä", "a"),
            ("Host", "evil.example"),
            ("content-length", "0"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Connection", "X-A"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "x"),
        ] {
            let error = with("headers", json!({ name: value })).expect_err(name);
            assert_eq!(error.kind, StepErrorKind::Input);
            assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
        }
    }

    #[test]
    fn header_values_are_texts_numbers_booleans_or_lists_of_them() {
        let request = with("headers", json!({ "A": " x\t", "B": [1, "two", true], "C": null })).expect("valid");
        let fields: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, [("A", "x"), ("B", "1"), ("B", "two"), ("B", "true")]);
        assert!(with("headers", json!({ "A": {} })).is_err());
        assert!(with("headers", json!({ "A": "1", "a": "2" })).expect_err("twice").message.contains("twice"));
    }

    #[test]
    fn urls_that_are_not_what_they_look_like_are_refused() {
        for url in [
            "",
            "/path",
            "a.example",
            "ftp://a.example",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://",
            "https://user:pw@a.example",
            "https://user@a.example",
            "https://a.example/\r\nX: y",
            "https://a.exa\tmple/",
            " https://a.example",
            "https://a.example/a b",
        ] {
            assert_eq!(build_from(json!({ "url": url })).expect_err(url).kind, StepErrorKind::Input, "{url:?}");
        }
        assert_eq!(build_from(json!({ "url": "https://a.example/x#frag" })).expect("valid").url, "https://a.example/x");
    }

    #[test]
    fn query_values_cannot_leave_their_parameter() {
        let request = with("query", json!({ "k=v": "1", "q": "a&admin=1#x?\r\n" })).expect("valid");
        assert_eq!(request.url, "https://a.example/?k%3Dv=1&q=a%26admin%3D1%23x%3F%0D%0A");
        assert_eq!(with("query", json!({})).expect("valid").url, "https://a.example/");
        assert!(with("query", json!({ "q": { "a": 1 } })).is_err());
    }

    #[test]
    fn text_is_sent_as_it_is_and_the_rest_as_json() {
        let sent = |body| {
            let request = with("body", body).expect("valid");
            (request.body.map(|body| body.to_vec()), request.headers)
        };
        let json_type = || vec![("Content-Type".to_owned(), "application/json".to_owned())];
        assert_eq!(sent(json!("a=1")), (Some(b"a=1".to_vec()), vec![]));
        assert_eq!(sent(json!([1])), (Some(b"[1]".to_vec()), json_type()));
        assert_eq!(sent(json!(false)), (Some(b"false".to_vec()), json_type()));
        assert_eq!(sent(Value::Null), (None, vec![]));
        let own = build_from(json!({ "url": "https://a.example", "body": {}, "headers": { "content-type": "x/y" } }));
        assert_eq!(own.expect("valid").headers, [("content-type".to_owned(), "x/y".to_owned())]);
    }

    #[test]
    fn bodies_are_limited_one_below_at_and_above() {
        for (bytes, accepted) in [(MAX_BODY_BYTES - 1, true), (MAX_BODY_BYTES, true), (MAX_BODY_BYTES + 1, false)] {
            assert_eq!(with("body", "x".repeat(bytes).into()).is_ok(), accepted, "{bytes}");
        }
    }

    #[test]
    fn urls_and_headers_are_limited_one_below_at_and_above() {
        let base = "https://a.example/".len();
        for (over, accepted) in [(-1, true), (0, true), (1, false)] {
            let path = "x".repeat((MAX_URL_BYTES - base).saturating_add_signed(over));
            assert_eq!(build_from(json!({ "url": format!("https://a.example/{path}") })).is_ok(), accepted, "{over}");
            let value = "x".repeat((MAX_HEADER_BYTES - "X-A".len()).saturating_add_signed(over));
            assert_eq!(with("headers", json!({ "X-A": value })).is_ok(), accepted, "{over}");
        }
    }

    #[test]
    fn an_idempotency_key_cannot_split_the_message() {
        let http = Recorder::default();
        for key in ["a\r\nX-Injected: 1", "ä", "a\0"] {
            let context = ActionContext {
                http: &http,
                sql: &NONE,
                mail: &NONE,
                objects: &NONE,
                keys: &NONE,
                idempotency_key: key,
                send_idempotency_key: true,
                timeout: Duration::from_secs(30),
                now: NOW,
            };
            let error = build(&context, &json!({ "url": "https://a.example" })).expect_err(key);
            assert!(error.message.contains("idempotencyKey"), "{}", error.message);
        }
    }

    #[test]
    fn the_shorter_of_both_time_limits_counts() {
        let timeout = |input| build_from(input).expect("valid").timeout;
        assert_eq!(timeout(json!({ "url": "https://a.example" })), Duration::from_secs(30));
        assert_eq!(timeout(json!({ "url": "https://a.example", "timeout": 5 })), Duration::from_millis(5));
        assert_eq!(timeout(json!({ "url": "https://a.example", "timeout": 60_000 })), Duration::from_secs(30));
    }

    #[test]
    fn one_connection_at_most() {
        let named = |connection, auth| {
            build_from(json!({ "url": "https://a.example", "connection": connection, "auth": auth }))
                .map(|request| request.credential)
        };
        assert_eq!(named("apcred_a", "apcred_a"), Ok(Some("apcred_a".to_owned())));
        assert_eq!(named("", "apcred_b"), Ok(Some("apcred_b".to_owned())));
        assert!(named("apcred_a", "apcred_b").is_err());
        assert_eq!(build_from(json!({ "url": "https://a.example" })).expect("valid").credential, None);
    }

    #[test]
    fn certificates_are_always_checked() {
        assert!(!with("ssl", json!({ "verify": true, "minVersion": "TLSv1.2" })).expect("valid").require_tls13);
        assert!(with("ssl", json!({ "minVersion": "TLSv1.3" })).expect("valid").require_tls13);
        assert_eq!(with("ssl", json!({ "verify": false })).expect_err("off").kind, StepErrorKind::Refused);
        for wrong in [json!({ "verify": "false" }), json!({ "minVersion": "TLSv1.1" }), json!({ "ca": "x" })] {
            assert_eq!(with("ssl", wrong).expect_err("wrong").kind, StepErrorKind::Input);
        }
    }

    proptest! {
        #[test]
        fn no_header_text_gets_a_control_character_out(name in any::<String>(), value in any::<String>()) {
            if let Ok(request) = with("headers", json!({ name: value })) {
                for (name, value) in request.headers {
                    prop_assert!(is_token(&name));
                    prop_assert!(value.chars().all(|char| char == '\t' || (' '..='~').contains(&char)));
                }
            }
        }

        #[test]
        fn any_url_text_is_sent_in_one_line_or_refused(url in "(https?://)?[ -~\\PC\r\n\t]{0,30}") {
            if let Ok(request) = build_from(json!({ "url": url })) {
                prop_assert!(request.url.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
