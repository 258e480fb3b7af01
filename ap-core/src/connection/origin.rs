//! [`Origin`]: where a connection's secrets may be sent.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::ConnectionError;

/// Scheme, host and port: where a connection's secrets may be sent (RFC 6454 §4).
///
/// The schemes and their own ports: `https` 443, `http` 80, `postgres` 5432, `smtps` 465 (TLS from the first byte), `smtp`
/// 587 (STARTTLS). An object store is the `https` origin of its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

impl Origin {
    /// The origin of a URL; path and query are ignored. `postgresql` counts as `postgres`.
    ///
    /// # Errors
    /// [`ConnectionError::Origin`] for other schemes, and for URLs with user name or password.
    pub fn of_url(url: &str) -> Result<Self, ConnectionError> {
        let refuse = || ConnectionError::Origin { url: url.chars().take(200).collect() };
        let parsed = Url::parse(url).map_err(|_| refuse())?;
        let found = match scheme_of(parsed.scheme()) {
            Some((scheme, own_port)) => Self::of_other(url, scheme, own_port),
            None => Self::of_parsed(&parsed),
        };
        found.ok_or_else(refuse)
    }

    /// The origin of a parsed `http` or `https` URL without user information.
    #[must_use]
    pub fn of_parsed(url: &Url) -> Option<Self> {
        let plain = url.username().is_empty() && url.password().is_none();
        (matches!(url.scheme(), "http" | "https") && plain && url.has_host())
            .then(|| Self(url.origin().ascii_serialization()))
    }

    /// The origin of a server by its parts; `host` is a name or an IP address, IPv6 with or without brackets.
    ///
    /// # Errors
    /// As [`Origin::of_url`].
    pub fn of_server(scheme: &str, host: &str, port: u16) -> Result<Self, ConnectionError> {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let refuse =
            || ConnectionError::Origin { url: format!("{scheme}://{host}:{port}").chars().take(200).collect() };
        let clean = !host.contains(['/', '?', '#', '@', '\\']);
        clean.then(|| Self::of_url(&format!("{scheme}://{host}:{port}"))).ok_or_else(refuse)?
    }

    /// `scheme://host[:port]`, the port left out where it is the scheme's own.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether requests to this origin are HTTP over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The parser knows hosts and ports of web schemes only, so the rest of the URL is read as if it had one.
    fn of_other(url: &str, scheme: &str, own_port: u16) -> Option<Self> {
        // It would skip further slashes to find a host.
        let (_, rest) = url.split_once("://").filter(|(_, rest)| !rest.starts_with(['/', '\\']))?;
        let parsed = Url::parse(&format!("http://{rest}")).ok()?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return None;
        }
        // It drops port 80, which is no default here.
        let port = match parsed.port() {
            Some(port) => port,
            None if Url::parse(&format!("https://{rest}")).ok()?.port() == Some(80) => 80,
            None => own_port,
        };
        let host = match parsed.host()? {
            Host::Ipv6(address) => format!("[{address}]"),
            other => other.to_string(),
        };
        let port = if port == own_port { String::new() } else { format!(":{port}") };
        Some(Self(format!("{scheme}://{host}{port}")))
    }
}

/// The schemes that are no web schemes, each with its own port.
fn scheme_of(scheme: &str) -> Option<(&'static str, u16)> {
    Some(match scheme {
        "postgres" | "postgresql" => ("postgres", 5432),
        "smtp" => ("smtp", 587),
        "smtps" => ("smtps", 465),
        _ => return None,
    })
}

impl TryFrom<String> for Origin {
    type Error = ConnectionError;

    fn try_from(url: String) -> Result<Self, ConnectionError> {
        Self::of_url(&url)
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Result<String, ConnectionError> {
        Origin::of_url(url).map(|origin| origin.as_str().to_owned())
    }

    #[test]
    fn origins_drop_paths_and_refuse_the_rest() {
        assert_eq!(origin("https://API.example:443/v1?x").as_deref(), Ok("https://api.example"));
        assert_eq!(origin("http://127.0.0.1:8080/").as_deref(), Ok("http://127.0.0.1:8080"));
        for wrong in ["ftp://a.example", "a.example", "https://user:pw@a.example", "data:text/plain,x", "mysql://a"] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn databases_and_mail_servers_have_origins() {
        for (url, expected) in [
            ("postgres://DB.example", "postgres://db.example"),
            ("postgresql://db.example:5432/app?sslmode=verify-full", "postgres://db.example"),
            ("postgres://db.example:6432", "postgres://db.example:6432"),
            ("postgres://db.example:80/x", "postgres://db.example:80"),
            ("postgres://db.example:443", "postgres://db.example:443"),
            ("postgres://[2606:4700::1111]:5432", "postgres://[2606:4700::1111]"),
            ("postgres://127.1", "postgres://127.0.0.1"),
            ("smtp://mail.example", "smtp://mail.example"),
            ("smtp://mail.example:587", "smtp://mail.example"),
            ("smtp://mail.example:25", "smtp://mail.example:25"),
            ("smtps://mail.example:465", "smtps://mail.example"),
            ("smtps://bücher.example", "smtps://xn--bcher-kva.example"),
        ] {
            assert_eq!(origin(url).as_deref(), Ok(expected), "{url}");
            assert_eq!(origin(expected).as_deref(), Ok(expected), "{url}");
        }
        for wrong in ["postgres://", "postgres:db", "postgres://u:p@h", "postgres://u@h", "smtp://a b", "smtp:///x"] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers_are_named_by_their_parts() {
        let server =
            |scheme, host, port| Origin::of_server(scheme, host, port).map(|origin| origin.as_str().to_owned());
        assert_eq!(server("postgres", "DB.example", 5432).as_deref(), Ok("postgres://db.example"));
        assert_eq!(server("postgres", "::1", 5433).as_deref(), Ok("postgres://[::1]:5433"));
        assert_eq!(server("smtp", "[::1]", 25).as_deref(), Ok("smtp://[::1]:25"));
        for host in ["", "a/b", "a@b", "a?b", "a#b", "a\\b", "a b", "a:b"] {
            assert!(server("smtp", host, 25).is_err(), "{host}");
        }
    }
}
