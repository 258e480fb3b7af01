//! What a caller may put into the head of a request.

use ap_core::{capability::HttpError, connection::RESERVED_HEADERS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// Reads a method. `CONNECT` and `TRACE` are refused: one makes a tunnel, the other echoes credentials.
pub(super) fn parse_method(text: &str) -> Result<Method, HttpError> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if text.len() <= MAX_METHOD_BYTES && method != Method::CONNECT && method != Method::TRACE => {
            Ok(method)
        }
        _ => Err(invalid("the method must be an HTTP method such as `GET` or `POST`, not `CONNECT` or `TRACE`")),
    }
}

/// Reads header fields. `Accept-Encoding` is left out: what can be scrubbed is decided here.
pub(super) fn parse_headers(fields: &[(String, String)]) -> Result<HeaderMap, HttpError> {
    if fields.len() > MAX_FIELDS {
        return Err(invalid("a request has at most 100 header fields"));
    }
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_BYTES {
        return Err(invalid("the header fields of a request have at most 32 KiB together"));
    }
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let shown = || name.chars().take(80).flat_map(char::escape_default).collect::<String>();
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(format!("`{}` is no header name (RFC 9110 §5.1)", shown())))?;
        if RESERVED_HEADERS.contains(&parsed.as_str()) {
            return Err(invalid(format!("the header `{parsed}` belongs to the connection and cannot be set")));
        }
        if parsed == header::ACCEPT_ENCODING {
            continue;
        }
        let visible = value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        let value = HeaderValue::from_str(value).ok().filter(|_| visible).ok_or_else(|| {
            invalid(format!("the value of header `{parsed}` holds characters other than visible ASCII, space and tab"))
        })?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

fn invalid(reason: impl Into<String>) -> HttpError {
    HttpError::InvalidRequest { reason: reason.into() }
}

const MAX_METHOD_BYTES: usize = 32;
const MAX_FIELDS: usize = 100;
const MAX_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<HeaderMap, HttpError> {
        parse_headers(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn fields_that_would_change_the_message_are_refused() {
        for name in RESERVED_HEADERS.into_iter().chain(["Host", "Content-LENGTH", "Transfer-Encoding"]) {
            assert!(matches!(parse(name, "1"), Err(HttpError::InvalidRequest { .. })), "{name}");
        }
        for name in ["", " a", "a ", "a b", "a:b", ":path", "a\r\nb", "a\0", "é", "a\tb", "(a)", "a\n"] {
            assert!(matches!(parse(name, "1"), Err(HttpError::InvalidRequest { .. })), "{name:?}");
        }
        for value in ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "a\u{7f}", "é", "\u{2028}", "\u{10a}\u{10d}"] {
            assert!(matches!(parse("x", value), Err(HttpError::InvalidRequest { .. })), "{value:?}");
        }
        let fine = parse("X-Key", "a\tb ~!\"").expect("visible");
        assert_eq!(fine.get("x-key").expect("there"), "a\tb ~!\"");
        assert!(parse("Accept-Encoding", "br").expect("left out").is_empty());
    }

    #[test]
    fn count_and_size_are_limited() {
        let fields = |count: usize, bytes: usize| parse_headers(&vec![("x".to_owned(), "v".repeat(bytes)); count]);
        assert!(fields(99, 1).is_ok() && fields(100, 1).is_ok() && fields(101, 1).is_err());
        assert!(fields(1, MAX_BYTES - 2).is_ok() && fields(1, MAX_BYTES - 1).is_ok() && fields(1, MAX_BYTES).is_err());
    }

    #[test]
    fn methods_are_tokens() {
        for fine in ["GET", "POST", "PATCH", "PROPFIND", &"A".repeat(32)] {
            assert!(parse_method(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "G ET", "GET\r\n", "CONNECT", "TRACE", "é", &"A".repeat(33)] {
            assert!(parse_method(wrong).is_err(), "{wrong:?}");
        }
    }
}
