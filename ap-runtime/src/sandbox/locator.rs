//! `URL` by the WHATWG standard, for the guest.

use serde_json::{Value, json};
use url::Url;

use super::calls::HostError;

/// The parts of `href`, relative to `base` if that is not empty, as JSON text.
pub(crate) fn parse(href: &[u8], base: &[u8]) -> Result<Vec<u8>, HostError> {
    check_size(&[href, base])?;
    let href = text(href)?;
    let base = if base.is_empty() { None } else { Some(Url::parse(text(base)?).map_err(|_| invalid())?) };
    let url = Url::options().base_url(base.as_ref()).parse(href).map_err(|_| invalid())?;
    parts(&url)
}

/// The parts of `href` after one was set, as JSON text. What cannot be set stays as it was.
pub(crate) fn set(href: &[u8], part: &[u8], value: &[u8]) -> Result<Vec<u8>, HostError> {
    check_size(&[href, value])?;
    let mut url = Url::parse(text(href)?).map_err(|_| invalid())?;
    let value = text(value)?;
    let set = match text(part)? {
        "href" => return parse(value.as_bytes(), b""),
        "protocol" => url::quirks::set_protocol(&mut url, value),
        "username" => url::quirks::set_username(&mut url, value),
        "password" => url::quirks::set_password(&mut url, value),
        "host" => url::quirks::set_host(&mut url, value),
        "hostname" => url::quirks::set_hostname(&mut url, value),
        "port" => url::quirks::set_port(&mut url, value),
        "pathname" => {
            url::quirks::set_pathname(&mut url, value);
            Ok(())
        }
        "search" => {
            url::quirks::set_search(&mut url, value);
            Ok(())
        }
        "hash" => {
            url::quirks::set_hash(&mut url, value);
            Ok(())
        }
        _ => return Err(HostError::new("TypeError", "a URL has no such part")),
    };
    let _ = set; // by the standard, a setter that fails does nothing
    parts(&url)
}

fn parts(url: &Url) -> Result<Vec<u8>, HostError> {
    let parts: Value = json!({
        "href": url::quirks::href(url),
        "origin": url::quirks::origin(url),
        "protocol": url::quirks::protocol(url),
        "username": url::quirks::username(url),
        "password": url::quirks::password(url),
        "host": url::quirks::host(url),
        "hostname": url::quirks::hostname(url),
        "port": url::quirks::port(url),
        "pathname": url::quirks::pathname(url),
        "search": url::quirks::search(url),
        "hash": url::quirks::hash(url),
    });
    Ok(parts.to_string().into_bytes())
}

/// The parts together can be nine times as long as what they are of.
fn check_size(texts: &[&[u8]]) -> Result<(), HostError> {
    if texts.iter().map(|text| text.len()).sum::<usize>() > MOST_BYTES {
        return Err(HostError::new("RangeError", format!("a URL has at most {MOST_BYTES} bytes")));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, HostError> {
    std::str::from_utf8(bytes).map_err(|_| invalid())
}

fn invalid() -> HostError {
    HostError::new("code:ERR_INVALID_URL", "Invalid URL")
}

/// The longest URL, with what it is relative to. Unit: bytes; 2 MiB, as in browsers.
const MOST_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn part(answer: Result<Vec<u8>, HostError>, name: &str) -> String {
        let parts: Value = serde_json::from_slice(&answer.unwrap()).unwrap();
        parts[name].as_str().unwrap().to_owned()
    }

    #[test]
    fn urls_are_read_by_the_standard() {
        let href = |href: &str, base: &str| part(parse(href.as_bytes(), base.as_bytes()), "href");
        assert_eq!(href("HTTP://EXAMPLE.com:80/a/../b", ""), "http://example.com/b");
        assert_eq!(href("../c?d#e", "https://a.example/x/y/z"), "https://a.example/x/c?d#e");
        assert_eq!(part(parse(b"https://u:p@a.example:8443/", b""), "origin"), "https://a.example:8443");
        for wrong in ["", "a", "https://", "http://a b/"] {
            assert_eq!(parse(wrong.as_bytes(), b""), Err(invalid()), "{wrong}");
        }
        assert_eq!(parse(b"/a", b"nothing"), Err(invalid()));
        assert_eq!(parse(b"\xff", b""), Err(invalid()));
    }

    #[test]
    fn a_url_is_long_or_refused() {
        let of = |bytes: usize| format!("a://{}", "\u{1}".repeat(bytes - 4));
        assert!(parse(of(MOST_BYTES).as_bytes(), b"").is_ok_and(|parts| parts.len() < 10 * MOST_BYTES));
        for refused in [parse(of(MOST_BYTES + 1).as_bytes(), b""), set(b"a://b", b"hash", of(MOST_BYTES).as_bytes())] {
            assert!(refused.is_err_and(|error| error.name == "RangeError"));
        }
    }

    #[test]
    fn setters_change_their_part_or_nothing() {
        let href =
            |name: &str, value: &str| part(set(b"https://a.example/b?c#d", name.as_bytes(), value.as_bytes()), "href");
        assert_eq!(href("pathname", "/x y"), "https://a.example/x%20y?c#d");
        assert_eq!(href("search", "?q=1"), "https://a.example/b?q=1#d");
        assert_eq!(href("port", "99999"), "https://a.example/b?c#d");
        assert_eq!(href("host", "b.example:8080"), "https://b.example:8080/b?c#d");
        assert_eq!(href("hash", ""), "https://a.example/b?c");
        assert!(set(b"https://a.example/", b"size", b"1").is_err());
    }
}
