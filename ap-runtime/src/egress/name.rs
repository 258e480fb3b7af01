//! Which host names may be looked up at all.
//!
//! A name is judged before it is resolved, so a resolver with a search list, a hosts file or multicast DNS cannot give
//! a private meaning to what looks like an Internet name. Every address it resolves to is judged as well.

use super::guard::Refusal;

/// What a host name promises about its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameClass {
    /// A name of the public DNS.
    Public,
    /// A name with a meaning inside the host's network only. It is looked up only if the policy opts private networks
    /// in, and then each of its addresses must lie in one.
    Private,
}

/// Judges a host name as it stands in a parsed URL: ASCII, lower or upper case, at most one trailing dot.
///
/// `example` and `test` names are ordinary: RFC 6761 asks applications not to treat them as special.
///
/// # Errors
/// [`Refusal::Name`] for names that are never looked up (`.onion`, `.invalid`, cloud metadata services) and
/// [`Refusal::Url`] for text that is no host name.
pub fn classify_name(name: &str) -> Result<NameClass, Refusal> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_suffix('.').unwrap_or(&lower);
    check_form(bare)?;
    if METADATA.iter().any(|metadata| is_within(bare, metadata)) {
        return Err(Refusal::Name { rule: "it names a cloud metadata service" });
    }
    if NEVER.iter().any(|zone| is_within(bare, zone)) {
        return Err(Refusal::Name { rule: "names in this zone are never looked up (RFC 6761, RFC 7686, RFC 9476)" });
    }
    let private = !bare.contains('.') || PRIVATE.iter().any(|zone| is_within(bare, zone));
    Ok(if private { NameClass::Private } else { NameClass::Public })
}

/// Host name syntax of RFC 1123 §2.1 and underscores, as some services use them.
fn check_form(bare: &str) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal::Url { reason });
    if bare.is_empty() || bare.len() > MAX_NAME_BYTES {
        return refuse("a host name has 1 to 253 characters");
    }
    for label in bare.split('.') {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if label.is_empty() || label.len() > 63 || !letters || label.starts_with('-') || label.ends_with('-') {
            return refuse("the host is no host name: labels have 1 to 63 letters, digits, `_` and inner `-`");
        }
    }
    let last = bare.rsplit('.').next().unwrap_or(bare);
    let digits = last.strip_prefix("0x").map_or_else(
        || last.bytes().all(|byte| byte.is_ascii_digit()),
        |hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
    );
    if digits { refuse("the host ends in a number but is no IPv4 address") } else { Ok(()) }
}

fn is_within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// RFC 1035 §2.3.4: 255 bytes on the wire.
const MAX_NAME_BYTES: usize = 253;

/// Names under which clouds give a machine its credentials. Most resolve to link-local addresses; two are public ones.
const METADATA: [&str; 7] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "instance-data.ec2.internal",
];

/// `invalid` (RFC 6761 §6.4), `onion` (RFC 7686), `alt` (RFC 9476).
const NEVER: [&str; 3] = ["alt", "invalid", "onion"];

/// Loopback (RFC 6761 §6.3), multicast DNS (RFC 6762), home networks (RFC 8375), the zone ICANN set aside for private
/// use, the zones networks use privately without right (RFC 6762 appendix G), and those of cluster software.
const PRIVATE: [&str; 12] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "home.arpa",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "svc",
    "consul",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classed() {
        use NameClass::{Private, Public};
        for (name, class) in [
            ("example.com", Public),
            ("EXAMPLE.com.", Public),
            ("api.example", Public),
            ("api.test", Public),
            ("a_b.example.com", Public),
            ("xn--bcher-kva.example", Public),
            ("localhost.example.com", Public),
            ("notlocalhost.com", Public),
            ("mylocal.example", Public),
            ("internal.example.com", Public),
            ("metadata.google.com", Public),
            ("127.0.0.1.nip.io", Public),
            ("1.example", Public),
            ("example.0xg", Public),
            ("localhost", Private),
            ("LOCALHOST", Private),
            ("localhost.", Private),
            ("foo.localhost", Private),
            ("a.b.localhost.", Private),
            ("localhost.localdomain", Private),
            ("printer.local", Private),
            ("db.internal", Private),
            ("host.docker.internal", Private),
            ("router.home.arpa", Private),
            ("wiki.corp", Private),
            ("nas.lan", Private),
            ("kubernetes.default.svc", Private),
            ("kubernetes.default.svc.cluster.local", Private),
            ("db", Private),
            ("metadata", Private),
            ("instance-data", Private),
            ("com.", Private),
        ] {
            assert_eq!(classify_name(name), Ok(class), "{name}");
        }
    }

    #[test]
    fn names_that_are_never_looked_up() {
        for name in [
            "metadata.google.internal",
            "METADATA.google.internal.",
            "x.metadata.google.internal",
            "metadata.goog",
            "metadata.tencentyun.com",
            "instance-data.ec2.internal",
            "abc.onion",
            "onion",
            "x.invalid",
            "name.alt",
        ] {
            assert!(matches!(classify_name(name), Err(Refusal::Name { .. })), "{name}");
        }
    }

    #[test]
    fn text_that_is_no_name() {
        let long = [&"a".repeat(63), ".", &"b".repeat(63), ".", &"c".repeat(63), ".", &"d".repeat(61)].concat();
        assert_eq!(long.len(), 253);
        assert_eq!(classify_name(&long), Ok(NameClass::Public));
        assert_eq!(classify_name(&"a".repeat(63)), Ok(NameClass::Private));
        for name in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.b..",
            "-a.example",
            "a-.example",
            "a b",
            "a\tb",
            "a\0b",
            "a/b",
            "a@b",
            "a:1",
            "é.example",
            "a%2eb",
            "*.example",
            "1.2.3.4",
            "127.1",
            "0x7f.0x1",
            "2130706433",
            "0x7f000001",
            "a.1",
            "a.0x",
            &format!("{long}x"),
            &"a".repeat(64),
        ] {
            assert!(matches!(classify_name(name), Err(Refusal::Url { .. })), "{name}");
        }
    }
}
