//! What the resume door answers: pages for people, JSON for programs.

use ap_crypto::resume::Decision;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::Outcome;

/// Whether the sender is a browser: it asks for HTML by name.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| {
        accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
    })
}

/// The page that asks for the `POST`. What it says of the token's meaning is the token's own word, which nobody checked; it
/// is the same whether the token works or not.
pub(super) fn ask(decision: Option<Decision>) -> Response<Bytes> {
    let (question, button) = match decision {
        Some(Decision::Approve) => ("Do you approve?", "Approve"),
        Some(Decision::Reject) => ("Do you reject?", "Reject"),
        _ => ("Do you want to continue?", "Continue"),
    };
    let form = format!("<form method=\"post\"><button type=\"submit\">{button}</button></form>");
    html(StatusCode::OK, question, &form)
}

/// The answer to anything else.
pub(super) fn answer(outcome: &Outcome, as_page: bool) -> Response<Bytes> {
    let (status, code, words) = outcome.parts();
    let mut response = if as_page {
        html(status, &sentence(words), "")
    } else {
        let body = match outcome {
            Outcome::Taken => json!({ "status": code }),
            _ => json!({ "error": { "code": code, "message": words } }),
        };
        whole(status, "application/json; charset=utf-8", body.to_string())
    };
    let extra = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
        StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "GET, HEAD, POST")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn html(status: StatusCode, heading: &str, rest: &str) -> Response<Bytes> {
    let heading = escape(heading);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"robots\" content=\"noindex\">\
         <title>{heading}</title></head><body><h1>{heading}</h1>{rest}</body></html>\n"
    );
    whole(status, "text/html; charset=utf-8", page)
}

fn whole(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    for (name, value) in [(header::CONTENT_TYPE, content_type)].into_iter().chain(HARDENED) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The words with a capital and a full stop.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(char::to_uppercase).into_iter().flatten();
    first.chain(letters).chain(['.']).collect()
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

/// No script, style or outside resource; forms to this origin only; no framing; no copy; no word of the address elsewhere.
const HARDENED: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_known_by_what_it_asks_for() {
        let wants = |accept: &'static str| {
            is_wanted(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(wants("text/html,application/xhtml+xml;q=0.9"));
        assert!(wants("application/json, text/html;q=0.1"));
        assert!(!wants("*/*") && !wants("application/json") && !is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn what_a_body_was_refused_for_is_text_on_the_page() {
        let page = answer(&Outcome::BadRequest("<script>alert('&')</script>".to_owned()), true);
        let text = String::from_utf8_lossy(page.body());
        assert!(text.contains("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") && !text.contains("<script"));
    }

    #[test]
    fn pages_are_closed_to_scripts_frames_caches_and_referrers() {
        for page in
            [ask(None), ask(Some(Decision::Approve)), answer(&Outcome::Gone, true), answer(&Outcome::Taken, false)]
        {
            let headers = page.headers();
            assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none';"));
            assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
            assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            assert!(!String::from_utf8_lossy(page.body()).contains("http"));
        }
    }
}
