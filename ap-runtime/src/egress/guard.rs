//! The guard every protocol goes through: policy, name resolution, and what it refuses.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::IpNet;
use url::Host;

use ap_core::capability::HttpError;

use super::{
    address::{AddressClass, special_class, unwrapped},
    name::{NameClass, classify_name},
    url::{CheckedUrl, parse_host},
};

/// Where the host's flows may connect to. The default allows every address reachable from the whole Internet and no
/// other; a host opts its own networks in, one by one.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    networks: Vec<IpNet>,
    plain_credentials: Vec<IpNet>,
    plain_http_credentials: Vec<IpNet>,
}

impl EgressPolicy {
    /// The default policy: the public Internet, nothing else.
    #[must_use]
    pub const fn new() -> Self {
        Self { networks: Vec::new(), plain_credentials: Vec::new(), plain_http_credentials: Vec::new() }
    }

    /// Allows the addresses of `network` although they are not reachable from the whole Internet.
    ///
    /// Names with a private meaning (`localhost`, `db`, `x.internal`) are then looked up too, and allowed where *all*
    /// their addresses lie in such a network.
    ///
    /// # Errors
    /// [`PolicyError::NetworkTooWide`] for IPv4 networks wider than /8 and IPv6 networks wider than /7.
    ///
    /// # Security
    /// Whoever writes a flow can send requests to every address and port in `network`. Cloud metadata services
    /// (169.254.169.254, fd00:ec2::254) answer with machine credentials: keep them out.
    pub fn allow_network(mut self, network: IpNet) -> Result<Self, PolicyError> {
        let narrowest = if matches!(network, IpNet::V4(_)) { 8 } else { 7 };
        if network.prefix_len() < narrowest {
            return Err(PolicyError::NetworkTooWide { network });
        }
        self.networks.push(network.trunc());
        Ok(self)
    }

    /// Allows credentials on unencrypted connections of every protocol to the addresses of `network`, which must lie in one
    /// that [`EgressPolicy::allow_network`] allowed. Default: databases and mail servers are spoken to over TLS only, and so
    /// are credentials sent over HTTP.
    ///
    /// # Errors
    /// [`PolicyError::NotAllowed`] if no allowed network contains `network`.
    ///
    /// # Security
    /// Whoever can read that network's traffic reads the credentials, and everything else.
    pub fn allow_plain_credentials(mut self, network: IpNet) -> Result<Self, PolicyError> {
        self.check_allowed(network)?;
        self.plain_credentials.push(network.trunc());
        Ok(self)
    }

    /// Allows credentials in unencrypted HTTP requests to the addresses of `network`, which must lie in one that
    /// [`EgressPolicy::allow_network`] allowed. Default: credentials travel over HTTPS only.
    ///
    /// # Errors
    /// [`PolicyError::NotAllowed`] if no allowed network contains `network`.
    ///
    /// # Security
    /// Whoever can read that network's traffic reads the credentials.
    pub fn allow_plain_http_credentials(mut self, network: IpNet) -> Result<Self, PolicyError> {
        self.check_allowed(network)?;
        self.plain_http_credentials.push(network.trunc());
        Ok(self)
    }

    fn check_allowed(&self, network: IpNet) -> Result<(), PolicyError> {
        let allowed = self.networks.iter().any(|allowed| allowed.contains(&network));
        if allowed { Ok(()) } else { Err(PolicyError::NotAllowed { network }) }
    }

    /// Judges one address. Forms that embed an IPv4 address are judged as that address.
    ///
    /// # Errors
    /// [`Refusal::Address`] with the class of the address.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        match special_class(address) {
            Some(class) if !contains(&self.networks, address) => Err(Refusal::Address { class }),
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a host name before it is looked up, and says what its addresses must be.
    ///
    /// # Errors
    /// [`Refusal::Name`] for special names, [`Refusal::Url`] for text that is no host name.
    pub fn check_name(&self, name: &str) -> Result<NameClass, Refusal> {
        match classify_name(name)? {
            NameClass::Private if self.networks.is_empty() => Err(Refusal::Name {
                rule: "it has a meaning inside a private network only, and the host allowed no such network",
            }),
            class => Ok(class),
        }
    }

    /// Judges an address a name resolved to.
    fn check_answer(&self, class: NameClass, address: IpAddr) -> Result<(), Refusal> {
        self.check_address(address)?;
        if class == NameClass::Private && !contains(&self.networks, address) {
            return Err(Refusal::Name { rule: "it is a private name with an address outside the allowed networks" });
        }
        Ok(())
    }

    /// Whether a credential may be sent unencrypted to `address`, by whatever protocol.
    #[must_use]
    pub fn allows_plain_credentials(&self, address: IpAddr) -> bool {
        contains(&self.plain_credentials, address)
    }

    /// Whether a credential may be sent to `address` over plain HTTP.
    #[must_use]
    pub fn allows_plain_http_credentials(&self, address: IpAddr) -> bool {
        self.allows_plain_credentials(address) || contains(&self.plain_http_credentials, address)
    }
}

/// Looks up the addresses of a host name.
///
/// # Contract
///
/// * The answer holds every address a connection may be made to: the guard checks each, and connects to no other.
/// * No caching beyond the records' lifetime. A wrong answer cannot widen what the policy allows.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, a name the guard has judged, each with `port`.
    ///
    /// # Errors
    /// Whatever the look-up failed with. The text is not shown to flow authors.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The operating system's resolver.
#[cfg(any(feature = "http", feature = "tls"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[cfg(any(feature = "http", feature = "tls"))]
#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Policy and resolver together: turns a host into addresses that may be connected to.
#[derive(Clone, Debug)]
pub struct Guard {
    policy: EgressPolicy,
    resolver: Arc<dyn Resolver>,
}

impl Guard {
    /// A guard that applies `policy` to what `resolver` answers.
    #[must_use]
    pub fn new(policy: EgressPolicy, resolver: Arc<dyn Resolver>) -> Self {
        Self { policy, resolver }
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &EgressPolicy {
        &self.policy
    }

    /// Parses and judges a URL; its name is resolved and judged when the connection is made.
    ///
    /// # Errors
    /// [`Refusal`] says which rule refused it.
    pub fn check_url(&self, text: &str) -> Result<CheckedUrl, Refusal> {
        CheckedUrl::parse(text, &self.policy)
    }

    /// The addresses of `host` (a name, or an IP address in any spelling). Connect to these and no others.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] if the name or *any one* of its addresses is refused: a mixed answer is how a name that
    /// is rebound between check and connection looks.
    ///
    /// # Cancel safety
    /// Nothing is kept.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let name = match parse_host(host)? {
            Host::Ipv4(v4) => return self.literal(IpAddr::V4(v4), port),
            Host::Ipv6(v6) => return self.literal(IpAddr::V6(v6), port),
            Host::Domain(name) => name,
        };
        let class = self.policy.check_name(&name)?;
        let addresses = self.resolver.resolve(&name, port).await.map_err(ResolveError::Failed)?;
        if addresses.is_empty() {
            return Err(ResolveError::NoAddress);
        }
        for address in &addresses {
            self.policy.check_answer(class, address.ip())?;
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address.ip(), port)).collect())
    }

    fn literal(&self, address: IpAddr, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        self.policy.check_address(address)?;
        Ok(vec![SocketAddr::new(address, port)])
    }
}

/// Which rule refused a host or URL. Neither the text nor an address is repeated: the answer of a resolver inside the
/// host's network is not the flow author's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An address that is not reachable from the whole Internet, in no network the host allowed.
    #[error("its address is {}, and the host has not allowed that network", class.as_str())]
    Address {
        /// What kind of address.
        class: AddressClass,
    },
    /// A special name.
    #[error("its host name is refused: {rule}")]
    Name {
        /// Which rule.
        rule: &'static str,
    },
    /// A port that belongs to another protocol.
    #[error("its port belongs to another protocol than HTTP")]
    Port,
    /// Neither `http` nor `https`.
    #[error("its scheme is neither `http` nor `https`")]
    Scheme,
    /// Text that is no URL or host, or that parsers read differently.
    #[error("{reason}")]
    Url {
        /// What is wrong.
        reason: &'static str,
    },
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Url { reason } => Self::InvalidRequest { reason: format!("the URL is not usable: {reason}") },
            refused => Self::Refused { reason: refused.to_string() },
        }
    }
}

/// Why a host has no address to connect to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The look-up failed.
    #[error("its name could not be resolved")]
    Failed(#[source] io::Error),
    /// The name has no address.
    #[error("its name has no address")]
    NoAddress,
    /// The policy refused the name or one of its addresses.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why a policy was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The network is wider than any private one.
    #[error("`{network}` is wider than any private network: allow at most an IPv4 /8 or an IPv6 /7")]
    NetworkTooWide {
        /// The network.
        network: IpNet,
    },
    /// Plain HTTP credentials for a network that is not allowed at all.
    #[error("`{network}` lies in no allowed network: allow that first")]
    NotAllowed {
        /// The network.
        network: IpNet,
    },
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let inner = unwrapped(address);
    networks.iter().any(|network| network.contains(&address) || network.contains(&inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn loopback_allowed() -> EgressPolicy {
        EgressPolicy::new().allow_network(net("127.0.0.0/8")).expect("narrow enough")
    }

    #[derive(Debug)]
    struct Answers(Vec<&'static str>);

    #[async_trait]
    impl Resolver for Answers {
        async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            // The guard sets the port itself, whatever a resolver says.
            Ok(self.0.iter().map(|text| SocketAddr::new(ip(text), 1)).collect())
        }
    }

    async fn resolve(
        policy: EgressPolicy,
        answers: &[&'static str],
        host: &str,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        Guard::new(policy, Arc::new(Answers(answers.to_vec()))).resolve(host, 443).await
    }

    #[test]
    fn opting_in_covers_embedded_forms_and_nothing_else() {
        let policy = loopback_allowed();
        for allowed in ["127.0.0.1", "127.255.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "8.8.8.8"]
        {
            assert_eq!(policy.check_address(ip(allowed)), Ok(()), "{allowed}");
        }
        for refused in ["10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "::7f00:1", "2001:0:7f00:1::"] {
            assert!(policy.check_address(ip(refused)).is_err(), "{refused}");
        }
        let by_form = EgressPolicy::new().allow_network(net("64:ff9b::a00:0/104")).expect("narrow enough");
        assert_eq!(by_form.check_address(ip("64:ff9b::a00:1")), Ok(()));
        assert!(by_form.check_address(ip("10.0.0.1")).is_err());
    }

    #[test]
    fn networks_wider_than_any_private_one_are_refused() {
        for (network, accepted) in
            [("10.0.0.0/8", true), ("10.0.0.0/7", false), ("0.0.0.0/0", false), ("fc00::/7", true), ("fc00::/6", false)]
        {
            assert_eq!(EgressPolicy::new().allow_network(net(network)).is_ok(), accepted, "{network}");
        }
    }

    #[test]
    fn plain_http_credentials_need_an_allowed_network() {
        let refused = EgressPolicy::new().allow_plain_http_credentials(net("127.0.0.1/32"));
        assert!(matches!(refused, Err(PolicyError::NotAllowed { .. })));
        assert!(!loopback_allowed().allows_plain_http_credentials(ip("127.0.0.1")));
        let policy = loopback_allowed().allow_plain_http_credentials(net("127.0.0.1/32")).expect("inside");
        assert!(policy.allows_plain_http_credentials(ip("127.0.0.1")));
        assert!(policy.allows_plain_http_credentials(ip("::ffff:127.0.0.1")));
        assert!(!policy.allows_plain_http_credentials(ip("127.0.0.2")));
        assert!(!policy.allows_plain_http_credentials(ip("8.8.8.8")));
    }

    #[tokio::test]
    async fn one_refused_address_refuses_the_answer() {
        let open = resolve(EgressPolicy::new(), &["8.8.8.8", "2606:4700::1111"], "example.com").await.expect("public");
        assert_eq!(open, ["8.8.8.8:443".parse().expect("v4"), "[2606:4700::1111]:443".parse().expect("v6")]);
        for mixed in [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "::ffff:10.0.0.1"]] {
            let refused = resolve(EgressPolicy::new(), &mixed, "example.com").await;
            assert!(matches!(refused, Err(ResolveError::Refused(Refusal::Address { .. }))), "{mixed:?}");
        }
        assert!(matches!(resolve(EgressPolicy::new(), &[], "example.com").await, Err(ResolveError::NoAddress)));
    }

    #[tokio::test]
    async fn private_names_need_an_allowed_network_and_stay_inside() {
        for (policy, answers, allowed) in [
            (EgressPolicy::new(), vec!["127.0.0.1"], false),
            (EgressPolicy::new(), vec!["8.8.8.8"], false),
            (loopback_allowed(), vec!["127.0.0.1"], true),
            (loopback_allowed(), vec!["8.8.8.8"], false),
            (loopback_allowed(), vec!["127.0.0.1", "8.8.8.8"], false),
            (loopback_allowed(), vec!["127.0.0.1", "10.0.0.1"], false),
        ] {
            for host in ["localhost", "localhost.", "db", "api.internal"] {
                let result = resolve(policy.clone(), &answers, host).await;
                assert_eq!(result.is_ok(), allowed, "{host} → {answers:?}");
            }
            assert!(resolve(policy, &answers, "metadata.google.internal").await.is_err());
        }
    }

    #[tokio::test]
    async fn addresses_are_judged_without_a_look_up() {
        for host in ["127.0.0.1", "127.1", "::1", "[::1]", "0x7f.1", "169.254.169.254"] {
            assert!(matches!(
                resolve(EgressPolicy::new(), &["8.8.8.8"], host).await,
                Err(ResolveError::Refused(Refusal::Address { .. }))
            ));
        }
        let literal = resolve(EgressPolicy::new(), &[], "1.1.1.1").await.expect("public");
        assert_eq!(literal, ["1.1.1.1:443".parse().expect("v4")]);
    }

    #[test]
    fn refusals_name_no_address() {
        let refusal = EgressPolicy::new().check_address(ip("10.11.12.13")).expect_err("private");
        let shown = format!("{refusal} {refusal:?} {}", HttpError::from(refusal));
        assert!(shown.contains("private-use") && !shown.contains("10."), "{shown}");
    }
}
