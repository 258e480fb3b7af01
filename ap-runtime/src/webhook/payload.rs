//! From a verified request to what a flow sees as `trigger`, and to the identity of the delivery.

use ap_core::json::{self, JsonLimits};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::{Map, Value, json};

use super::auth::VerifiedWebhook;

/// The body is not what its content type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

/// What a flow sees as `trigger`: `{ method, headers, queryParams, body }`, as in the reference product.
///
/// Header names are in lower case and several values joined by `, `; a query parameter given more than once is a list.
/// The body is parsed by its content type: JSON, a form, text, or else `{ base64, contentType }`.
pub(super) fn trigger_payload(method: &Method, query: &str, verified: VerifiedWebhook) -> Result<Value, Malformed> {
    let (headers, body) = verified.into_parts();
    let body = parse_body(&headers, &body)?;
    // Not `json!`, which copies every value that is put in.
    let members = [
        ("method", Value::from(method.as_str())),
        ("headers", header_object(&headers)),
        ("queryParams", form_object(query.as_bytes())),
        ("body", body),
    ];
    Ok(Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

/// Where the sender's delivery id stands: what the trigger names, else `webhook-id` (Standard Webhooks), else
/// `idempotency-key`; without one every request is its own delivery.
pub(crate) fn delivery_id(named: Option<&str>, payload: &Value) -> Option<String> {
    let header = |name: &str| text(payload.get("headers")?.get(name.to_ascii_lowercase())?);
    let named = named.and_then(|place| match place.strip_prefix('/') {
        Some(_) => text(payload.get("body")?.pointer(place)?),
        None => header(place),
    });
    named.or_else(|| header("webhook-id")).or_else(|| header("idempotency-key"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A body by its content type, as the module says. An empty one is null.
pub(crate) fn parse_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, Malformed> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let utf8 = || String::from_utf8(body.to_vec()).map_err(|_| Malformed("the body is not UTF-8 text".to_owned()));
    if essence == "application/json" || essence.ends_with("+json") {
        json::parse(body, &JsonLimits::payload()).map_err(|error| Malformed(error.to_string()))
    } else if essence == "application/x-www-form-urlencoded" {
        Ok(form_object(body))
    } else if essence.starts_with("text/") {
        utf8().map(Value::String)
    } else if essence.is_empty() {
        // Without a content type, take JSON for JSON and text for text.
        Ok(json::parse(body, &JsonLimits::payload())
            .ok()
            .or_else(|| utf8().ok().map(Value::String))
            .unwrap_or_else(|| binary(body, "")))
    } else {
        Ok(binary(body, content_type))
    }
}

fn binary(body: &Bytes, content_type: &str) -> Value {
    json!({ "base64": STANDARD.encode(body), "contentType": content_type })
}

fn header_object(headers: &HeaderMap) -> Value {
    let mut object = Map::new();
    for name in headers.keys() {
        let values: Vec<String> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        object.insert(name.as_str().to_owned(), Value::String(values.join(", ")));
    }
    Value::Object(object)
}

/// `application/x-www-form-urlencoded` pairs as an object; repeated names become lists.
fn form_object(encoded: &[u8]) -> Value {
    let mut object = Map::new();
    for (name, value) in url::form_urlencoded::parse(encoded) {
        let value = Value::String(value.into_owned());
        match object.get_mut(&*name) {
            None => {
                object.insert(name.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(single) => {
                let first = single.take();
                *single = Value::Array(vec![first, value]);
            }
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::super::auth::Authentication;
    use super::*;

    fn payload(fields: &[(&'static str, &'static str)], query: &str, body: &'static [u8]) -> Result<Value, Malformed> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        let verified = Authentication::None.verify(headers, Bytes::from_static(body)).expect("verified");
        trigger_payload(&Method::POST, query, verified)
    }

    #[test]
    fn bodies_follow_their_content_type() {
        let body =
            |content_type, body| payload(&[("content-type", content_type)], "", body).map(|all| all["body"].clone());
        assert_eq!(body("application/json; charset=utf-8", br#"{"a":1}"#), Ok(json!({"a": 1})));
        assert_eq!(body("application/vnd.api+json", b"[1]"), Ok(json!([1])));
        assert_eq!(
            body("application/x-www-form-urlencoded", b"a=1&b=x%20y&a=2"),
            Ok(json!({"a": ["1", "2"], "b": "x y"}))
        );
        assert_eq!(body("text/plain", b"{\"a\":1}"), Ok(json!("{\"a\":1}")));
        assert_eq!(body("image/png", b"\x89P"), Ok(json!({"base64": "iVA=", "contentType": "image/png"})));
        assert_eq!(body("application/json", b""), Ok(Value::Null));
        assert!(body("application/json", b"{").is_err());
        assert!(body("text/plain", b"\xff").is_err());
    }

    #[test]
    fn a_body_without_content_type_is_taken_for_what_it_is() {
        let body = |body| payload(&[], "", body).map(|all| all["body"].clone());
        assert_eq!(body(br#"{"a":1}"#), Ok(json!({"a": 1})));
        assert_eq!(body(b"hello"), Ok(json!("hello")));
        assert_eq!(body(b"\xff"), Ok(json!({"base64": "/w==", "contentType": ""})));
    }

    #[test]
    fn headers_and_query_keep_every_value() {
        let all = payload(&[("x-a", "1"), ("x-a", "2")], "q=1&q=2&p=%2B", b"").expect("payload");
        assert_eq!(all["headers"], json!({"x-a": "1, 2"}));
        assert_eq!(all["queryParams"], json!({"q": ["1", "2"], "p": "+"}));
    }

    #[test]
    fn the_delivery_id_is_looked_for_in_order() {
        let all = json!({
            "headers": {"x-github-delivery": "d", "webhook-id": "w", "idempotency-key": "i"},
            "body": {"event": {"id": 7}},
        });
        assert_eq!(delivery_id(Some("X-GitHub-Delivery"), &all).as_deref(), Some("d"));
        assert_eq!(delivery_id(Some("/event/id"), &all).as_deref(), Some("7"));
        assert_eq!(delivery_id(Some("/event/none"), &all).as_deref(), Some("w"));
        assert_eq!(delivery_id(None, &all).as_deref(), Some("w"));
        assert_eq!(delivery_id(None, &json!({"headers": {"idempotency-key": "i"}})).as_deref(), Some("i"));
        assert_eq!(delivery_id(None, &json!({"headers": {}})), None);
    }
}
