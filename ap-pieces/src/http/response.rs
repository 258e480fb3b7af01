//! What comes out of a response, or which error it is.

use ap_core::{
    capability::HttpResponse,
    json::JsonLimits,
    piece::ActionError,
    run::{StepError, StepErrorKind},
    time::Timestamp,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::retry_after;

/// Status, headers and body; a status of 400 or more is an error.
pub(super) fn output(response: HttpResponse, now: Timestamp) -> Result<Value, ActionError> {
    if response.status >= 400 {
        return Err(failure(&response, now));
    }
    Ok(json!({ "status": response.status, "headers": headers(&response), "body": body(&response) }))
}

/// Values of one name are joined as RFC 9110 §5.3 says, except `set-cookie`, which is an array (RFC 6265 §3).
fn headers(response: &HttpResponse) -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, value) in &response.headers {
        match fields.get_mut(name) {
            Some(Value::String(joined)) => {
                joined.push_str(", ");
                joined.push_str(value);
            }
            Some(Value::Array(values)) => values.push(value.as_str().into()),
            _ => {
                let value = Value::from(value.as_str());
                fields.insert(name.clone(), if name == "set-cookie" { Value::Array(vec![value]) } else { value });
            }
        }
    }
    fields
}

/// Nothing is null; JSON within [`JsonLimits::payload`] is its value; text is text; the rest is `{encoding: "base64", contentType, data}`.
fn body(response: &HttpResponse) -> Value {
    if response.body.is_empty() {
        return Value::Null;
    }
    let content_type = response.header("content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if is_json(&essence)
        && let Ok(value) = ap_core::json::parse(&response.body, &JsonLimits::payload())
    {
        return value;
    }
    is_text(&essence).then(|| decode(&response.body, content_type)).flatten().map_or_else(
        || json!({ "encoding": "base64", "contentType": content_type, "data": STANDARD.encode(&response.body) }),
        Value::String,
    )
}

fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

fn is_text(essence: &str) -> bool {
    essence.is_empty()
        || essence.starts_with("text/")
        || is_json(essence)
        || essence.ends_with("+xml")
        || ["application/xml", "application/javascript", "application/x-www-form-urlencoded", "application/yaml"]
            .contains(&essence)
        || ["application/x-ndjson", "application/jsonl", "application/graphql", "application/sql"].contains(&essence)
}

/// UTF-8, or ISO 8859-1 where the peer says so; `None` for anything else.
fn decode(bytes: &[u8], content_type: &str) -> Option<String> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Some(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned());
    }
    let lower = content_type.to_ascii_lowercase();
    let charset = lower.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    let latin = charset.is_some_and(|charset| matches!(charset.trim_matches('"'), "iso-8859-1" | "latin1"));
    latin.then(|| bytes.iter().map(|byte| char::from(*byte)).collect())
}

fn failure(response: &HttpResponse, now: Timestamp) -> ActionError {
    let transient = matches!(response.status, 408 | 425 | 429 | 500..);
    let kind = if transient { StepErrorKind::OutcomeTransient } else { StepErrorKind::Remote };
    let detail = json!({ "status": response.status, "headers": few_headers(response), "body": short_body(response) });
    let error = StepError::new(kind, format!("the server answered with status {}", response.status));
    let wait = response.header("retry-after").and_then(|value| retry_after::parse(value, now));
    ActionError { error: error.with_detail(detail), retry_after: wait.filter(|_| transient) }
}

/// Header fields as long as they fit; cookies are nothing an error needs.
fn few_headers(response: &HttpResponse) -> Map<String, Value> {
    let mut left = MAX_DETAIL_HEADER_BYTES;
    let mut few = headers(response);
    few.retain(|name, value| {
        let size = Value::from(name.as_str()).to_string().len() + value.to_string().len() + 2;
        let keep = name != "set-cookie" && size <= left;
        left -= if keep { size } else { 0 };
        keep
    });
    few
}

/// The body if it fits, else the beginning of its text.
fn short_body(response: &HttpResponse) -> Value {
    let body = body(response);
    let json = body.to_string();
    if json.len() <= MAX_DETAIL_BODY_BYTES {
        return body;
    }
    let text = body.as_str().unwrap_or(&json);
    let mut left = MAX_DETAIL_BODY_BYTES - 8;
    let fits = |char: &char| {
        let size = if char.is_control() { 6 } else { char.len_utf8().max(2) };
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let mut short: String = text.chars().take_while(fits).collect();
    short.push('…');
    Value::String(short)
}

/// Most of a failed response's header fields an error keeps. Unit: bytes of JSON.
const MAX_DETAIL_HEADER_BYTES: usize = 3 << 10;
/// Most of a failed response's body an error keeps. Unit: bytes of JSON. With the headers and the status: 16 KiB at most.
const MAX_DETAIL_BODY_BYTES: usize = 12 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::NOW;

    fn response(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> HttpResponse {
        let mut headers = Vec::new();
        if !content_type.is_empty() {
            headers.push(("content-type".to_owned(), content_type.to_owned()));
        }
        HttpResponse { status, headers, body: body.into().into(), redirected_to: None }
    }

    fn with_header(mut response: HttpResponse, name: &str, value: &str) -> HttpResponse {
        response.headers.push((name.to_owned(), value.to_owned()));
        response
    }

    #[test]
    fn bodies_come_out_by_content_type() {
        for (content_type, bytes, expected) in [
            ("application/json", br#"{"a":[1]}"#.as_slice(), json!({ "a": [1] })),
            ("application/problem+json; charset=utf-8", b"1", json!(1)),
            ("APPLICATION/JSON", b"null", Value::Null),
            ("application/json", b"{broken", json!("{broken")),
            ("application/json", b"", Value::Null),
            ("text/plain", b"{\"a\":1}", json!("{\"a\":1}")),
            ("text/html", "\u{feff}h\u{e9}".as_bytes(), json!("hé")),
            ("text/plain; charset=\"ISO-8859-1\"", b"h\xe9", json!("hé")),
            ("", b"text", json!("text")),
            ("image/png", b"ascii", json!({ "encoding": "base64", "contentType": "image/png", "data": "YXNjaWk=" })),
            ("text/plain", b"\xff\xfe", json!({ "encoding": "base64", "contentType": "text/plain", "data": "//4=" })),
            ("", b"\xff", json!({ "encoding": "base64", "contentType": "", "data": "/w==" })),
        ] {
            assert_eq!(body(&response(200, content_type, bytes)), expected, "{content_type}");
        }
    }

    #[test]
    fn deeply_nested_json_stays_text() {
        let deep = "[".repeat(100_000);
        assert_eq!(body(&response(200, "application/json", deep.as_str())), json!(deep));
    }

    #[test]
    fn repeated_headers_are_joined_and_cookies_listed() {
        let response = ["a", "b"].into_iter().fold(response(200, "", ""), |response, value| {
            with_header(with_header(response, "vary", value), "set-cookie", value)
        });
        assert_eq!(Value::Object(headers(&response)), json!({ "vary": "a, b", "set-cookie": ["a", "b"] }));
    }

    #[test]
    fn statuses_decide_whether_a_retry_may_help() {
        for (status, kind) in [
            (400, StepErrorKind::Remote),
            (401, StepErrorKind::Remote),
            (404, StepErrorKind::Remote),
            (408, StepErrorKind::OutcomeTransient),
            (409, StepErrorKind::Remote),
            (425, StepErrorKind::OutcomeTransient),
            (429, StepErrorKind::OutcomeTransient),
            (499, StepErrorKind::Remote),
            (500, StepErrorKind::OutcomeTransient),
            (503, StepErrorKind::OutcomeTransient),
            (599, StepErrorKind::OutcomeTransient),
        ] {
            let failed = output(response(status, "text/plain", "why"), NOW).expect_err("fails");
            assert_eq!(failed.error.kind, kind, "{status}");
            assert_eq!(failed.error.message, format!("the server answered with status {status}"));
            let detail = json!({ "status": status, "headers": { "content-type": "text/plain" }, "body": "why" });
            assert_eq!(failed.error.detail, Some(detail));
        }
        for status in [200, 204, 304, 399] {
            assert!(output(response(status, "", ""), NOW).is_ok(), "{status}");
        }
    }

    #[test]
    fn the_wait_the_server_asks_for_is_passed_on() {
        let wait = |status| {
            let response = with_header(response(status, "", ""), "retry-after", "120");
            output(response, NOW).expect_err("fails").retry_after
        };
        assert_eq!(wait(429), Some(Duration::from_secs(120)));
        assert_eq!(wait(503), Some(Duration::from_secs(120)));
        assert_eq!(wait(404), None);
    }

    #[test]
    fn a_large_failure_keeps_its_beginning() {
        let failed = output(response(500, "text/plain", "x".repeat(1 << 20)), NOW).expect_err("fails");
        let detail = failed.error.detail.expect("detail");
        let body = detail["body"].as_str().expect("text");
        assert!(body.starts_with("xxx") && body.ends_with('…') && body.len() > 4 << 10);
        let cookies = with_header(response(400, "", ""), "set-cookie", "session=1");
        let failed = output(cookies, NOW).expect_err("fails");
        assert_eq!(failed.error.detail.expect("detail")["headers"], json!({}));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn failure_details_are_bounded(
            text in proptest::collection::vec(any::<char>(), 0..9000),
            binary: bool,
            headers in proptest::collection::vec((".{0,300}", ".{0,300}"), 0..40),
        ) {
            let text: String = text.into_iter().collect();
            let mut response = response(500, if binary { "image/png" } else { "text/plain" }, text.as_str());
            response.headers.extend(headers);
            let detail = output(response, NOW).expect_err("fails").error.detail.expect("detail");
            prop_assert!(detail.to_string().len() <= 16 << 10);
        }
    }
}
