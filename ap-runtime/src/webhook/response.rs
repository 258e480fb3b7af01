//! What the door answers. Errors say what the sender can act on, and nothing about the inside.

use std::time::Duration;

use ap_core::id::RunId;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{engine::Reply, replies::Outcome};

/// Why a request made no run, alphabetical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The body is not what its content type says.
    BadRequest(String),
    /// Too much is going on; nothing was read.
    Busy,
    /// Storage or keys failed.
    Internal,
    /// The flow's rate limit is reached for as long.
    Limited(Duration),
    /// No such method here.
    MethodNotAllowed,
    /// No such webhook, or it is not enabled. Which, is nobody's business.
    NotFound,
    /// The body did not arrive in time, or broke off.
    RequestTimeout,
    /// The flow lets it pass, because enough of its runs are under way. Nothing failed.
    Skipped,
    /// The body is larger than allowed.
    TooLarge(usize),
    /// The sender is not who it should be.
    Unauthenticated,
}

impl Rejection {
    pub(super) fn into_response(self) -> Response<Bytes> {
        let wait = match &self {
            Self::Limited(wait) => Some(retry_after(*wait)),
            Self::Busy | Self::Internal => Some(HeaderValue::from_static("1")),
            Self::Skipped => return json_response(StatusCode::OK, &json!({ "skipped": true })),
            _ => None,
        };
        let (status, code, message) = match self {
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, "bad_request", reason),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "try again shortly".to_owned()),
            Self::Internal => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "try again later".to_owned()),
            Self::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, "limited", "too many requests".to_owned()),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method", "use POST, PUT or PATCH".to_owned()),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "no such webhook".to_owned()),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "body", "the body did not arrive whole".to_owned()),
            Self::Skipped => (StatusCode::OK, "skipped", String::new()),
            Self::TooLarge(limit) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("a body may have {limit} bytes"))
            }
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "not authenticated".to_owned()),
        };
        let mut response = json_response(status, &json!({ "error": { "code": code, "message": message } }));
        let extra = match status {
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "POST, PUT, PATCH")),
            // RFC 9110 §11.6.1 wants a challenge with every 401.
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Webhook")),
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        wait.into_iter().for_each(|wait| {
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        });
        response
    }

    /// Name under which the audit trail counts it, for rejections that concern a flow.
    pub(super) const fn audit_reason(&self) -> Option<&'static str> {
        match self {
            Self::BadRequest(_) => Some("malformed body"),
            Self::Limited(_) => Some("rate limit"),
            Self::TooLarge(_) => Some("body too large"),
            Self::Unauthenticated => Some("not authenticated"),
            Self::Busy
            | Self::Internal
            | Self::MethodNotAllowed
            | Self::NotFound
            | Self::RequestTimeout
            | Self::Skipped => None,
        }
    }
}

/// 202: the run exists, and its id says where to look.
pub(super) fn accepted(run: RunId, duplicate: bool) -> Response<Bytes> {
    with_run(json_response(StatusCode::ACCEPTED, &json!({ "runId": run, "duplicate": duplicate })), run)
}

/// 408: the run goes on.
pub(super) fn still_running(run: RunId) -> Response<Bytes> {
    let body = json!({ "error": { "code": "timeout", "message": "the run goes on" }, "runId": run });
    with_run(json_response(StatusCode::REQUEST_TIMEOUT, &body), run)
}

/// What the run answered, or what stands in for an answer.
pub(super) fn outcome(run: RunId, outcome: &Outcome) -> Response<Bytes> {
    let response = match outcome {
        Outcome::Replied(reply) => reply_response(reply),
        Outcome::Ended { end, last_output } if end.error.is_none() => {
            json_response(StatusCode::OK, last_output.as_deref().unwrap_or(&Value::Null))
        }
        Outcome::Ended { end, .. } => {
            let body = json!({ "error": { "code": "run_failed", "message": "the run did not succeed" }, "runId": run, "status": end.status });
            json_response(StatusCode::INTERNAL_SERVER_ERROR, &body)
        }
    };
    with_run(response, run)
}

/// RFC 9110 §10.2.3: whole seconds, here rounded up and at least one.
fn retry_after(wait: Duration) -> HeaderValue {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

fn reply_response(reply: &Reply) -> Response<Bytes> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let content_type = reply.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
    let is_json = content_type.is_none_or(|value| value.to_ascii_lowercase().contains("json"));
    let mut response = match (&*reply.body, is_json) {
        (Value::String(text), false) => Response::new(Bytes::from(text.clone())),
        (Value::Null, _) => Response::new(Bytes::new()),
        (body, _) => json_response(status, body),
    };
    *response.status_mut() = status;
    for (name, value) in &reply.headers {
        // The engine checked both; what does not parse here all the same is left out.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            response.headers_mut().insert(name, value);
        }
    }
    harden(response)
}

fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    harden(response)
}

fn harden(mut response: Response<Bytes>) -> Response<Bytes> {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What a flow answers must not act as a page of the host: no scripts, no forms, an origin of its own.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn with_run(mut response: Response<Bytes>, run: RunId) -> Response<Bytes> {
    if let Ok(value) = HeaderValue::try_from(run.to_string()) {
        response.headers_mut().insert(HeaderName::from_static("x-run-id"), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn reply(headers: &[(&str, &str)], body: Value) -> Response<Bytes> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        outcome(RunId::from_u128(1), &Outcome::Replied(Reply { status: 201, headers, body: Arc::new(body) }))
    }

    #[test]
    fn text_replies_are_sent_as_they_are_and_others_as_json() {
        let html = reply(&[("content-type", "text/html")], json!("<p>"));
        assert_eq!((html.status().as_u16(), &html.body()[..]), (201, &b"<p>"[..]));
        assert_eq!(html.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(html.headers()[header::CONTENT_SECURITY_POLICY], "sandbox; default-src 'none'");
        assert_eq!(&reply(&[], json!("<p>")).body()[..], br#""<p>""#);
        assert_eq!(&reply(&[], json!({"a": 1})).body()[..], br#"{"a":1}"#);
        assert!(reply(&[], Value::Null).body().is_empty());
    }

    #[test]
    fn rejections_carry_what_http_asks_for() {
        let unauthenticated = Rejection::Unauthenticated.into_response();
        assert!(unauthenticated.headers().contains_key(header::WWW_AUTHENTICATE));
        let busy = Rejection::Busy.into_response();
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
        for (wait, seconds) in [(0, "1"), (1_000, "1"), (1_001, "2"), (60_000, "60")] {
            let limited = Rejection::Limited(Duration::from_millis(wait)).into_response();
            assert_eq!(
                (limited.status().as_u16(), &limited.headers()[header::RETRY_AFTER]),
                (429, &HeaderValue::from_static(seconds))
            );
        }
        assert_eq!(&Rejection::Skipped.into_response().body()[..], br#"{"skipped":true}"#);
        assert_eq!(Rejection::MethodNotAllowed.into_response().headers()[header::ALLOW], "POST, PUT, PATCH");
    }
}
