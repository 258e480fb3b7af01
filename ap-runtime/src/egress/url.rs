//! One parser for every URL that leaves the host.
//!
//! The `url` crate (WHATWG URL) is the only parser, and the connection is made from its result, so there is no second
//! reading of the text to disagree with. What it would silently repair (tabs, backslashes, missing slashes) is refused.

use std::{fmt, net::IpAddr};

use ap_core::connection::Origin;
use url::{Host, Url};

use super::guard::{EgressPolicy, Refusal};

/// An `http` or `https` URL whose scheme, host and port the policy allows. Its name, if it has one, is yet to be resolved.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedUrl {
    url: Url,
    origin: Origin,
}

impl CheckedUrl {
    /// Parses and judges `text`. Limit: 8 KiB, before and after normalisation, and before any secret is in it.
    ///
    /// # Errors
    /// [`Refusal`] says which rule refused it; the text itself is not repeated.
    pub fn parse(text: &str, policy: &EgressPolicy) -> Result<Self, Refusal> {
        check_text(text)?;
        check_authority(text)?;
        let url = Url::parse(text).map_err(|_| Refusal::Url { reason: "it is no valid absolute URL" })?;
        Self::judge(url, policy)
    }

    /// Parses the target of a redirect that came as the answer to this URL.
    ///
    /// # Errors
    /// As for [`CheckedUrl::parse`].
    pub fn redirect(&self, location: &str, policy: &EgressPolicy) -> Result<Self, Refusal> {
        check_text(location)?;
        let url = self.url.join(location).map_err(|_| Refusal::Url { reason: "the redirect leads to no valid URL" })?;
        Self::judge(url, policy)
    }

    /// The parsed URL.
    #[must_use]
    pub const fn as_url(&self) -> &Url {
        &self.url
    }

    /// Scheme, host and port.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Puts `query`, which is the URL's own with secrets in it, in the place of the URL's query. Scheme, host and port stay as
    /// judged, and so does the length: an error about that of the result would tell how long a secret is. It stays below what HTTP
    /// clients take, see [`fits_query`](super::place::fits_query).
    pub(crate) fn with_query(mut self, query: &str) -> Self {
        self.url.set_query(Some(query));
        self
    }

    fn judge(url: Url, policy: &EgressPolicy) -> Result<Self, Refusal> {
        check_length(url.as_str())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Url { reason: "it holds user information; use a connection" });
        }
        match url.host() {
            None => return Err(Refusal::Url { reason: "it has no host" }),
            Some(Host::Ipv4(v4)) => policy.check_address(IpAddr::V4(v4))?,
            Some(Host::Ipv6(v6)) => policy.check_address(IpAddr::V6(v6))?,
            Some(Host::Domain(name)) => {
                policy.check_name(name)?;
            }
        }
        match url.port_or_known_default() {
            Some(port) if !BAD_PORTS.contains(&port) => {}
            _ => return Err(Refusal::Port),
        }
        let origin = Origin::of_parsed(&url).ok_or(Refusal::Url { reason: "it has no origin" })?;
        Ok(Self { url, origin })
    }
}

impl fmt::Debug for CheckedUrl {
    /// Prints the origin: path and query may hold private data, and the query a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CheckedUrl").field(&self.origin.as_str()).finish()
    }
}

/// Reads a host that stands outside a URL, as in a database or mail setting: an IP address in any spelling the URL
/// standard knows, IPv6 with or without brackets, or a name.
pub(crate) fn parse_host(text: &str) -> Result<Host, Refusal> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => return Ok(Host::Ipv4(v4)),
        Ok(IpAddr::V6(v6)) => return Ok(Host::Ipv6(v6)),
        Err(_) => {}
    }
    if text.contains('%') {
        return Err(Refusal::Url { reason: "the host holds a percent sign" });
    }
    Host::parse(text).map_err(|_| Refusal::Url { reason: "the host is neither a name nor an address" })
}

fn check_length(text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_URL_BYTES { Err(Refusal::Url { reason: "it is longer than 8192 bytes" }) } else { Ok(()) }
}

fn check_text(text: &str) -> Result<(), Refusal> {
    check_length(text)?;
    let refuse = |reason| Err(Refusal::Url { reason });
    if text.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return refuse("it holds white space or control characters; percent-encode them");
    }
    // A parser reads `\` as `/` or as part of the host, depending on its age; after `?` or `#` it is plain text to all.
    let before_query = text.split(['?', '#']).next().unwrap_or(text);
    if before_query.contains('\\') { refuse("it holds a backslash") } else { Ok(()) }
}

/// The text between `//` and the path, which parsers repair most freely.
fn check_authority(text: &str) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal::Url { reason });
    let Some((scheme, rest)) = text.split_once(':') else { return refuse("it is no absolute URL") };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::Scheme);
    }
    let Some(rest) = rest.strip_prefix("//") else { return refuse("two slashes must follow the scheme") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if authority.is_empty() {
        return refuse("it has no host");
    }
    if authority.contains('@') {
        return refuse("it holds user information; use a connection");
    }
    if authority.contains('%') {
        return refuse("its host holds a percent sign: zone ids and encoded hosts are not accepted");
    }
    Ok(())
}

const MAX_URL_BYTES: usize = 8 << 10;

/// Ports of protocols that can be made to misread an HTTP request (WHATWG Fetch §2.9, "bad ports"). Sorted.
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn closed() -> EgressPolicy {
        EgressPolicy::new()
    }

    fn parse(text: &str) -> Result<String, Refusal> {
        CheckedUrl::parse(text, &closed()).map(|checked| checked.url.to_string())
    }

    #[test]
    fn ordinary_urls_pass_normalised() {
        for (text, expected) in [
            ("https://api.example.com", "https://api.example.com/"),
            ("http://example.com:8080/a?b=c#d", "http://example.com:8080/a?b=c#d"),
            ("HTTPS://EXAMPLE.com:443/", "https://example.com/"),
            ("https://example.com./x", "https://example.com./x"),
            ("https://example.com:/x", "https://example.com/x"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            ("https://example.com/a%20b?q=a%5Cb", "https://example.com/a%20b?q=a%5Cb"),
            ("https://example.com/?q=a\\b", "https://example.com/?q=a\\b"),
            ("https://example.com/@user", "https://example.com/@user"),
            ("https://example.com/?u=a@b", "https://example.com/?u=a@b"),
            ("https://example.com/a/../b", "https://example.com/b"),
            ("https://8.8.8.8/", "https://8.8.8.8/"),
            ("https://0x08080808/", "https://8.8.8.8/"),
            ("https://134744072/", "https://8.8.8.8/"),
            ("https://[2606:4700::1111]:8443/", "https://[2606:4700::1111]:8443/"),
            ("https://[::ffff:8.8.8.8]/", "https://[::ffff:808:808]/"),
            ("https://example.com?q", "https://example.com/?q"),
            ("http://example.com#@127.0.0.1/", "http://example.com/#@127.0.0.1/"),
            ("http://example.com?@127.0.0.1/", "http://example.com/?@127.0.0.1/"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for text in [
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com:70/_x",
            "dict://example.com:11211/stat",
            "ldap://example.com/",
            "data:text/plain,x",
            "javascript:alert(1)",
            "ws://example.com/",
            "jar:http://a!/b",
            "blob:https://example.com/1",
            "httpss://example.com/",
            "view-source:http://example.com/",
            "netdoc:///x",
        ] {
            assert_eq!(parse(text), Err(Refusal::Scheme), "{text}");
        }
    }

    /// Spellings known from bypass lists: each means an address that is not reachable from the whole Internet.
    #[test]
    fn special_addresses_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.1.",
            "0x7f.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "0X7F000001",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "0177.1",
            "0177.0000.0000.0001",
            "00000177.1",
            "0x7f.0x0.0x0.0x1",
            "127.0x1",
            "127.0.0.0x1",
            "127.255.255.254",
            "127.65535",
            "0",
            "0.0.0.0",
            "0x0",
            "00",
            "0.0",
            "0.0.0",
            "10.0.0.1",
            "10.1",
            "012.1",
            "0xa.1",
            "167772161",
            "0x0a000001",
            "172.16.0.1",
            "0xac.0x10.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.1",
            "0xc0a80001",
            "3232235521",
            "0300.0250.1",
            "169.254.169.254",
            "169.254.43518",
            "0xa9fea9fe",
            "2852039166",
            "0xa9.0xfe.0xa9.0xfe",
            "0251.0376.0251.0376",
            "025177524776",
            "169.16689662",
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "0xffffffff",
            "4294967295",
            "192.88.99.1",
            "①②⑦.⓪.⓪.①",
            "１２７.０.０.１",
            "127。0。0。1",
            "127．0．0．1",
            "127｡0｡0｡1",
            "⑯⑨。②⑤④。⑯⑨｡②⑤④",
            "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
            "0𝘅7f.1",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[0000:0000:0000:0000:0000:0000:0000:0001]",
            "[::0001]",
            "[::127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::FFFF:7F00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::ffff:0:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::ffff:10.0.0.1]",
            "[::ffff:0.0.0.0]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::808:808]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::]",
            "[2002:a00:1::1]",
            "[2001::1]",
            "[2001:0:7f00:1:0:0:80ff:fffe]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fd00::1]",
            "[ff02::1]",
            "[ff0e::1]",
            "[100::1]",
            "[5f00::1]",
            "[2001:20::1]",
            "[2001:2::1]",
            "[2a00:1450::5efe:7f00:1]",
            "[::a00:1]",
            "[4000::1]",
            "[::5efe:a00:1]",
        ] {
            let text = format!("http://{host}/");
            assert!(matches!(parse(&text), Err(Refusal::Address { .. })), "{text}: {:?}", parse(&text));
        }
    }

    #[test]
    fn names_with_a_private_meaning_are_refused() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "LocalHost.",
            "foo.localhost",
            "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
            "ｌｏｃａｌｈｏｓｔ",
            "local\u{ad}host",
            "local\u{200b}host",
            "localhost。",
            "loc\u{2060}alhost",
            "db",
            "router.local",
            "x.internal",
            "ip6-localhost",
            "metadata.google.internal",
            "metadata.google.internal.",
            "METADATA.GOOGLE.INTERNAL",
            "metadata.goog",
            "kubernetes.default.svc.cluster.local",
            "host.docker.internal",
            "abc.onion",
            "x.invalid",
            "a.home.arpa",
        ] {
            let text = format!("https://{host}/");
            assert!(matches!(parse(&text), Err(Refusal::Name { .. })), "{text}: {:?}", parse(&text));
        }
    }

    #[test]
    fn text_that_parsers_disagree_about_is_refused() {
        for text in [
            "",
            "x",
            "/path",
            "//example.com/",
            "http:",
            "http:/",
            "http://",
            "http:///",
            "http://?x",
            "http://#x",
            "http:example.com",
            "http:/example.com",
            "http:///example.com",
            "https:////example.com",
            "http:\\\\example.com",
            "http://user@example.com/",
            "http://user:pw@example.com/",
            "http://@example.com/",
            "http://:@example.com/",
            "http://example.com@127.0.0.1/",
            "http://127.0.0.1@example.com/",
            "http://example.com:80@127.0.0.1/",
            "http://a@b@127.0.0.1/",
            "http://example.com\\@127.0.0.1/",
            "http://a\\@b",
            "http://127.0.0.1\\.example.com/",
            "http://example.com/\\..",
            "http:/\\127.0.0.1/",
            "http://exa\tmple.com/",
            "http://exa\nmple.com/",
            "http://example.com/\r\nHost:x",
            " http://example.com/",
            "http://example.com/ ",
            "http://example.com/a b",
            "ht\ttp://example.com/",
            "\u{0}http://example.com/",
            "http://example.com\u{0}/",
            "http://example.com/\u{7f}",
            "http://exam\u{a0}ple.com/",
            "http://example\u{3000}.com/",
            "http://example.com/\u{85}",
            "http://example.com/\u{2028}",
            "http://%31%32%37.0.0.1/",
            "http://127.0.0.1%00.example.com/",
            "http://example%2ecom/",
            "http://[fe80::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[::1%25]/",
            "http://[::1",
            "http://[::1]x/",
            "http://::1/",
            "http://[127.0.0.1]/",
            "http://[::ffff:127.1]/",
            "http://[1::2::3]/",
            "http://[:::1]/",
            "http://[v1.x]/",
            "http://256.256.256.256/",
            "http://127.0.0.256/",
            "http://1.2.3.4.5/",
            "http://4294967296/",
            "http://0x100000000/",
            "http://09.1/",
            "http://0x7g.1/",
            "http://127.0.0.1.0x/",
            "http://example.com:65536/",
            "http://example.com:-1/",
            "http://example.com:8 0/",
            "http://example.com:80:80/",
            "http://exa<mple.com/",
            "http://exa^mple.com/",
            "http://exa|mple.com/",
            "http://a..b/",
            "http://.example.com/",
            "http://example.com../",
            "http://-a.example/",
            "http://*.example.com/",
            "http://a!b.example/",
            "http://ex,ample.com/",
            "http://xn--a/",
        ] {
            assert!(matches!(parse(text), Err(Refusal::Url { .. })), "{text:?}: {:?}", parse(text));
        }
    }

    #[test]
    fn ports_of_other_protocols_are_refused() {
        assert!(BAD_PORTS.is_sorted());
        for port in [0, 21, 22, 23, 25, 53, 110, 143, 465, 587, 2049, 5060, 6000, 6667, 10080] {
            assert_eq!(parse(&format!("http://example.com:{port}/")), Err(Refusal::Port), "{port}");
        }
        for port in [2, 24, 80, 81, 443, 3000, 6001, 6379, 8080, 10079, 10081, 65535] {
            assert!(parse(&format!("http://example.com:{port}/")).is_ok(), "{port}");
        }
    }

    #[test]
    fn length_is_limited_at_8_kib() {
        let of_length = |length: usize| format!("https://example.com/{}", "a".repeat(length - 20));
        assert!(parse(&of_length(MAX_URL_BYTES - 1)).is_ok());
        assert!(parse(&of_length(MAX_URL_BYTES)).is_ok());
        assert!(matches!(parse(&of_length(MAX_URL_BYTES + 1)), Err(Refusal::Url { .. })));
        // Three times as long once encoded.
        assert!(matches!(parse(&format!("https://example.com/{}", "é".repeat(2000))), Err(Refusal::Url { .. })));
    }

    #[test]
    fn redirect_chains_end_at_the_first_refused_hop() {
        for (hops, reached) in [
            (&["/next", "https://example.org/a", "//example.net/b"] as &[&str], 3),
            (&["../x?y", "?z", "#w"], 3),
            (&["https://example.org/", "http://127.0.0.1/"], 1),
            (&["http://169.254.169.254/latest/meta-data/"], 0),
            (&["//169.254.169.254/"], 0),
            (&["//user@example.org/"], 0),
            (&["https://user:pw@example.org/"], 0),
            (&["ftp://example.org/"], 0),
            (&["file:///etc/passwd"], 0),
            (&["gopher://example.org/"], 0),
            (&["javascript:alert(1)"], 0),
            (&["http://localhost/"], 0),
            (&["//localhost:8080/"], 0),
            (&["/a", "//metadata.google.internal/"], 1),
            (&["https://example.org:25/"], 0),
            (&["\\\\127.0.0.1/"], 0),
            (&["/\\127.0.0.1/"], 0),
            (&["/\t/127.0.0.1/"], 0),
            (&["https://example.org/\r\nX: y"], 0),
            (&["http://[::ffff:127.0.0.1]/"], 0),
            (&["http://0/"], 0),
            (&["http:0x7f.1"], 1),
            (&["https:127.0.0.1"], 0),
            (&["//①②⑦.⓪.⓪.①/"], 0),
            (&["///127.0.0.1/"], 0),
            (&["https://example.org/", "https://[64:ff9b::7f00:1]/", "https://example.net/"], 1),
        ] {
            let mut url = CheckedUrl::parse("http://example.com/start/", &closed()).expect("start");
            let followed = hops.iter().take_while(|hop| match url.redirect(hop, &closed()) {
                Ok(next) => {
                    url = next;
                    true
                }
                Err(_) => false,
            });
            assert_eq!(followed.count(), reached, "{hops:?}");
        }
    }

    #[test]
    fn hosts_outside_urls_are_read_the_same_way() {
        for (text, host) in
            [("0x7f.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]"), ("DB", "db"), ("127.1", "127.0.0.1")]
        {
            assert_eq!(parse_host(text).map(|parsed| parsed.to_string()).as_deref(), Ok(host));
        }
        for wrong in ["", "fe80::1%eth0", "a b", "a/b", "a:80", "%6cocalhost", "user@a"] {
            assert!(parse_host(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_passes_is_judged(text in "(https?://)?[\\PC\\t\\\\@:%./?#\\[\\]]{0,40}") {
            if let Ok(checked) = CheckedUrl::parse(&text, &closed()) {
                prop_assert!(checked.url.username().is_empty() && checked.url.password().is_none());
                prop_assert_eq!(&CheckedUrl::parse(checked.url.as_str(), &closed()), &Ok(checked.clone()));
                match checked.url.host() {
                    Some(Host::Ipv4(v4)) => prop_assert!(closed().check_address(v4.into()).is_ok()),
                    Some(Host::Ipv6(v6)) => prop_assert!(closed().check_address(v6.into()).is_ok()),
                    Some(Host::Domain(name)) => prop_assert!(closed().check_name(name).is_ok()),
                    None => prop_assert!(false, "no host"),
                }
            }
        }
    }
}
