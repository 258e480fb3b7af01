//! [`AllowedHosts`]: where a flow may go.

use std::{fmt, net::IpAddr, sync::Arc};

/// The hosts that the HTTP requests of a flow may go to: the flow's `allowedHosts`.
///
/// A flow without it may go wherever the host's egress policy lets it, and its code nowhere. A flow with it may go to these
/// hosts and no others, its code included; the egress policy holds on top. Redirects count like requests.
///
/// ```json
/// { "allowedHosts": ["api.example.com", "*.example.org", "files.example.net:8443"] }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct AllowedHosts(Arc<[HostPattern]>);

/// One entry of [`AllowedHosts`].
///
/// * `api.example.com`: that host, at the default port of the scheme.
/// * `*.example.com`: every host below that domain, at any depth; not the domain itself.
/// * `*`: every host, at every port.
/// * `…:8443`: at that port alone. IPv6 addresses stand in brackets.
#[derive(Clone, PartialEq, Eq)]
struct HostPattern {
    name: Name,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq)]
enum Name {
    Any,
    /// A domain or an address, as URLs write it.
    Exactly(String),
    /// What hosts end with, with the dot before it.
    Below(String),
}

/// Why a text is no pattern of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no host: write a domain in ASCII such as `api.example.com` or `*.example.com`, with `:port` if it is not the default one"
)]
pub struct HostPatternError;

impl AllowedHosts {
    /// Reads a list of patterns.
    ///
    /// # Errors
    /// The index of the first text that is none.
    pub fn parse<'t>(patterns: impl IntoIterator<Item = &'t str>) -> Result<Self, (usize, HostPatternError)> {
        let read = |(index, text)| HostPattern::parse(text).ok_or((index, HostPatternError));
        patterns.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>().map(|list| Self(list.into()))
    }

    /// Whether requests may go to `host`, as the URL writes it, at `port`; `default_port` is that of the URL's scheme.
    #[must_use]
    pub fn permit(&self, host: &str, port: u16, default_port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let permits = |pattern: &HostPattern| match (&pattern.name, pattern.port) {
            (Name::Any, None) => true,
            (name, at) => name.matches(&host) && at.unwrap_or(default_port) == port,
        };
        self.0.iter().any(permits)
    }
}

impl fmt::Debug for AllowedHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(HostPattern::to_string)).finish()
    }
}

impl HostPattern {
    fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                let address: IpAddr = address.parse().ok().filter(IpAddr::is_ipv6)?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
                (Name::Exactly(format!("[{address}]")), port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (Name::parse(host)?, port)
            }
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self { name, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Any => f.write_str("*")?,
            Name::Exactly(host) => f.write_str(host)?,
            Name::Below(domain) => write!(f, "*{domain}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        if let Some(domain) = lower.strip_prefix("*.") {
            return is_domain(domain).then(|| Self::Below(format!(".{domain}")));
        }
        is_domain(&lower).then_some(Self::Exactly(lower))
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(exactly) => exactly == host,
            Self::Below(domain) => host.len() > domain.len() && host.ends_with(domain.as_str()),
        }
    }
}

/// Labels of letters, digits, `-` and `_`, 1 to 63 characters each, 253 in all (RFC 1035 §2.3.4). IPv4 addresses pass.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let of_label = |next: u8| next.is_ascii_alphanumeric() || matches!(next, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(of_label)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Most entries of `allowedHosts`.
pub const MAX_ALLOWED_HOSTS: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permits(pattern: &str, host: &str, port: u16) -> bool {
        AllowedHosts::parse([pattern]).unwrap().permit(host, port, 443)
    }

    #[test]
    fn patterns_name_hosts_and_ports() {
        assert!(permits("api.example.com", "API.example.com", 443));
        assert!(permits("API.example.com", "api.example.com.", 443));
        assert!(!permits("api.example.com", "api.example.com", 8443));
        assert!(permits("api.example.com:8443", "api.example.com", 8443));
        assert!(!permits("api.example.com:8443", "api.example.com", 443));
        assert!(!permits("example.com", "api.example.com", 443));
        assert!(permits("*.example.com", "a.b.example.com", 443));
        assert!(!permits("*.example.com", "example.com", 443));
        assert!(!permits("*.example.com", ".example.com", 443));
        assert!(!permits("*.example.com", "badexample.com", 443));
        assert!(!permits("*.example.com", "a.example.com.evil.example", 443));
        assert!(permits("*", "anything", 443) && permits("*", "anything", 8443));
        assert!(permits("*:8443", "anything", 8443) && !permits("*:8443", "anything", 443));
        assert!(permits("[2001:DB8::1]:443", "[2001:db8::1]", 443));
        assert!(permits("192.0.2.7", "192.0.2.7", 443));
    }

    #[test]
    fn what_is_no_host_is_named() {
        let long = "a".repeat(64);
        for wrong in [
            "",
            "*.",
            "*.*",
            "a*.example",
            "https://a.example",
            "a.example/path",
            "a..b",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:+1",
            "ä.example",
            "a b",
            "[::1",
            "[1.2.3.4]",
            "::1",
            "user@a.example",
            &long,
        ] {
            assert_eq!(AllowedHosts::parse(["a.example", wrong]), Err((1, HostPatternError)), "{wrong}");
        }
        assert_eq!(format!("{:?}", AllowedHosts::parse(["*.A.example:1"]).unwrap()), r#"["*.a.example:1"]"#);
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(pattern in "\\PC{0,40}", host in "\\PC{0,40}", port: u16) {
            if let Ok(hosts) = AllowedHosts::parse([pattern.as_str()]) {
                let _ = hosts.permit(&host, port, 443);
            }
        }
    }
}
