//! Which IP addresses are reachable from the whole Internet.
//!
//! The tables follow the IANA special-purpose address registries (IPv4 and IPv6): what they do not call globally
//! reachable is refused, and so are multicast, reserved and deprecated ranges. IPv6 addresses that a translator or
//! tunnel turns into an IPv4 address are judged as that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not reachable from the whole Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AddressClass {
    /// 255.255.255.255 (RFC 8190).
    Broadcast,
    /// 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180).
    Benchmarking,
    /// A public address inside a cloud that only its own machines can reach.
    CloudPlatform,
    /// Taken out of use: 6to4 relays, site-local, IPv4-compatible and IPv4-translated forms, ORCHID.
    Deprecated,
    /// 100::/64 and 100:0:0:1::/64 (RFC 6666, RFC 9780).
    Discard,
    /// TEST-NET-1 to 3 (RFC 5737), 2001:db8::/32 (RFC 3849), 3fff::/20 (RFC 9637).
    Documentation,
    /// An identifier that no router knows: ORCHIDv2 (RFC 7343), DRIP (RFC 9374).
    Identifier,
    /// Link-local: 169.254.0.0/16 (RFC 3927), where clouds answer with machine credentials, and fe80::/10 (RFC 4291).
    LinkLocal,
    /// 127.0.0.0/8 and ::1.
    Loopback,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// Private use: RFC 1918 and unique local fc00::/7 (RFC 4193).
    Private,
    /// 192.0.0.0/24 and 2001::/23 but for their reachable exceptions (RFC 6890).
    ProtocolAssignment,
    /// 240.0.0.0/4, and every IPv6 range from which no global unicast address is assigned.
    Reserved,
    /// 5f00::/16 (RFC 9602).
    SegmentRouting,
    /// 100.64.0.0/10 (RFC 6598).
    Shared,
    /// 0.0.0.0/8 and `::`: this host, this network.
    ThisNetwork,
    /// Teredo 2001::/32 (RFC 4380) and the local NAT64 prefix 64:ff9b:1::/48 (RFC 8215): leads into a private network.
    Tunnel,
}

impl AddressClass {
    /// The class in words, for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Benchmarking => "benchmarking",
            Self::CloudPlatform => "cloud platform",
            Self::Deprecated => "deprecated",
            Self::Discard => "discard-only",
            Self::Documentation => "documentation",
            Self::Identifier => "overlay identifier",
            Self::LinkLocal => "link-local",
            Self::Loopback => "loopback",
            Self::Multicast => "multicast",
            Self::Private => "private-use",
            Self::ProtocolAssignment => "protocol assignment",
            Self::Reserved => "reserved",
            Self::SegmentRouting => "segment routing",
            Self::Shared => "shared (carrier-grade NAT)",
            Self::ThisNetwork => "this-network",
            Self::Tunnel => "tunnel",
        }
    }
}

/// The address a packet to `address` ends up at: IPv4-mapped, NAT64 (64:ff9b::/96) and 6to4 addresses are unwrapped,
/// everything else is returned as it is.
#[must_use]
pub fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => IpAddr::V4(join(high, low)),
        [0x2002, high, low, ..] => IpAddr::V4(join(high, low)),
        _ => address,
    }
}

/// Judges an address: `None` if it is reachable from the whole Internet, else why not.
#[must_use]
pub fn special_class(address: IpAddr) -> Option<AddressClass> {
    match unwrapped(address) {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<AddressClass> {
    use AddressClass as Class;
    Some(match address.octets() {
        [192, 0, 0, 9 | 10] => return None,
        [0, ..] => Class::ThisNetwork,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::Shared,
        [127, ..] => Class::Loopback,
        [168, 63, 129, 16] => Class::CloudPlatform,
        [169, 254, ..] => Class::LinkLocal,
        [192, 0, 0, _] => Class::ProtocolAssignment,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Documentation,
        [192, 88, 99, _] => Class::Deprecated,
        [198, 18 | 19, ..] => Class::Benchmarking,
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        [240..=255, ..] => Class::Reserved,
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<AddressClass> {
    use AddressClass as Class;
    let segments = address.segments();
    if let Some(class) = special_prefix(segments) {
        return Some(class);
    }
    // ISATAP (RFC 5214 §6.1): the interface identifier names an IPv4 address of the site behind the router.
    match segments {
        [.., 0x0000 | 0x0200, 0x5efe, high, low] => special_v4(join(high, low)),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Class::Reserved),
    }
}

const fn special_prefix(segments: [u16; 8]) -> Option<AddressClass> {
    use AddressClass as Class;
    Some(match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::ThisNetwork,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // IPv4-compatible (RFC 4291 §2.5.5.1) and IPv4-translated (RFC 2765 §2.1).
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => Class::Deprecated,
        [0x64, 0xff9b, 1, ..] => Class::Tunnel,
        [0x100, 0, 0, 0 | 1, ..] => Class::Discard,
        [0x2001, 0, ..] => Class::Tunnel,
        [0x2001, 1, 0, 0, 0, 0, 0, 1..=3] | [0x2001, 3, ..] | [0x2001, 4, 0x112, ..] => return None,
        [0x2001, 2, 0, ..] => Class::Benchmarking,
        [0x2001, 0x10..=0x1f, ..] => Class::Deprecated,
        [0x2001, 0x20..=0x3f, ..] => Class::Identifier,
        [0x2001, 0..=0x1ff, ..] => Class::ProtocolAssignment,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Class::Documentation,
        [0x5f00, ..] => Class::SegmentRouting,
        [0xfc00..=0xfdff, ..] => Class::Private,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xfec0..=0xfeff, ..] => Class::Deprecated,
        [0xff00..=0xffff, ..] => Class::Multicast,
        _ => return None,
    })
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(address: &str) -> Option<AddressClass> {
        special_class(address.parse().unwrap_or_else(|_| panic!("{address}")))
    }

    /// First and last address of each range and the neighbours just outside, from the IANA registries.
    #[test]
    fn v4_ranges_begin_and_end_where_the_registry_says() {
        use AddressClass as Class;
        let ranges = [
            ("0.0.0.0", "0.255.255.255", Class::ThisNetwork),
            ("10.0.0.0", "10.255.255.255", Class::Private),
            ("100.64.0.0", "100.127.255.255", Class::Shared),
            ("127.0.0.0", "127.255.255.255", Class::Loopback),
            ("168.63.129.16", "168.63.129.16", Class::CloudPlatform),
            ("169.254.0.0", "169.254.255.255", Class::LinkLocal),
            ("172.16.0.0", "172.31.255.255", Class::Private),
            ("192.0.0.0", "192.0.0.8", Class::ProtocolAssignment),
            ("192.0.0.11", "192.0.0.255", Class::ProtocolAssignment),
            ("192.0.2.0", "192.0.2.255", Class::Documentation),
            ("192.88.99.0", "192.88.99.255", Class::Deprecated),
            ("192.168.0.0", "192.168.255.255", Class::Private),
            ("198.18.0.0", "198.19.255.255", Class::Benchmarking),
            ("198.51.100.0", "198.51.100.255", Class::Documentation),
            ("203.0.113.0", "203.0.113.255", Class::Documentation),
            ("224.0.0.0", "239.255.255.255", Class::Multicast),
            ("240.0.0.0", "255.255.255.254", Class::Reserved),
            ("255.255.255.255", "255.255.255.255", Class::Broadcast),
        ];
        for (first, last, class) in ranges {
            let bits = |text: &str| text.parse::<Ipv4Addr>().expect(text).to_bits();
            for inside in [bits(first), bits(first).midpoint(bits(last)), bits(last)] {
                assert_eq!(special_v4(Ipv4Addr::from_bits(inside)), Some(class), "{first}–{last}");
            }
            for outside in [bits(first).checked_sub(1), bits(last).checked_add(1)].into_iter().flatten() {
                assert_ne!(special_v4(Ipv4Addr::from_bits(outside)), Some(class), "{first}–{last}");
            }
        }
        for global in [
            "1.0.0.0",
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "192.175.48.1",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
        ] {
            assert_eq!(verdict(global), None, "{global}");
        }
    }

    #[test]
    fn v6_ranges_follow_the_registry() {
        use AddressClass as Class;
        for (address, class) in [
            ("::", Class::ThisNetwork),
            ("::1", Class::Loopback),
            ("::2", Class::Deprecated),
            ("::7f00:1", Class::Deprecated),
            ("::8.8.8.8", Class::Deprecated),
            ("::ffff:0:7f00:1", Class::Deprecated),
            ("::ffff:0:808:808", Class::Deprecated),
            ("::1:0:0:0", Class::Reserved),
            ("1::", Class::Reserved),
            ("64:ff9b:0:1::1", Class::Reserved),
            ("64:ff9b:1::7f00:1", Class::Tunnel),
            ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Class::Tunnel),
            ("64:ff9b:2::", Class::Reserved),
            ("100::", Class::Discard),
            ("100::ffff:ffff:ffff:ffff", Class::Discard),
            ("100:0:0:1::1", Class::Discard),
            ("100:0:0:2::", Class::Reserved),
            ("1fff:ffff::1", Class::Reserved),
            ("2001::", Class::Tunnel),
            ("2001:0:7f00:1::", Class::Tunnel),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Class::Tunnel),
            ("2001:1::", Class::ProtocolAssignment),
            ("2001:1::4", Class::ProtocolAssignment),
            ("2001:2::1", Class::Benchmarking),
            ("2001:2:1::", Class::ProtocolAssignment),
            ("2001:4:111::", Class::ProtocolAssignment),
            ("2001:10::1", Class::Deprecated),
            ("2001:1f:ffff::", Class::Deprecated),
            ("2001:20::1", Class::Identifier),
            ("2001:3f:ffff::", Class::Identifier),
            ("2001:40::", Class::ProtocolAssignment),
            ("2001:1ff:ffff::", Class::ProtocolAssignment),
            ("2001:db8::", Class::Documentation),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Class::Documentation),
            ("3fff::", Class::Documentation),
            ("3fff:fff:ffff::", Class::Documentation),
            ("4000::", Class::Reserved),
            ("5eff::1", Class::Reserved),
            ("5f00::1", Class::SegmentRouting),
            ("5f01::1", Class::Reserved),
            ("8000::1", Class::Reserved),
            ("fbff::1", Class::Reserved),
            ("fc00::", Class::Private),
            ("fd00:ec2::254", Class::Private),
            ("fdff:ffff::1", Class::Private),
            ("fe00::1", Class::Reserved),
            ("fe7f:ffff::", Class::Reserved),
            ("fe80::", Class::LinkLocal),
            ("fe80::a9fe:a9fe", Class::LinkLocal),
            ("febf:ffff::", Class::LinkLocal),
            ("fec0::1", Class::Deprecated),
            ("feff:ffff::", Class::Deprecated),
            ("ff00::", Class::Multicast),
            ("ff02::1", Class::Multicast),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Class::Multicast),
            // Unwrapped.
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:a9fe:a9fe", Class::LinkLocal),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("64:ff9b::a00:1", Class::Private),
            ("2002:7f00:1::", Class::Loopback),
            ("2002:a9fe:a9fe::1", Class::LinkLocal),
            ("2002:c0a8:101:1:2:3:4:5", Class::Private),
            ("2a00:1450::5efe:7f00:1", Class::Loopback),
            ("2a00:1450::200:5efe:a00:1", Class::Private),
        ] {
            assert_eq!(verdict(address), Some(class), "{address}");
        }
        for global in [
            "2000::1",
            "2001:1::1",
            "2001:1::2",
            "2001:1::3",
            "2001:3::1",
            "2001:4:112::1",
            "2001:200::",
            "2001:4860:4860::8888",
            "2001:db7:ffff::",
            "2001:db9::",
            "2002:808:808::1",
            "2003::1",
            "2606:4700::1111",
            "2620:4f:8000::1",
            "2a00:1450::5efe:808:808",
            "3ffe:ffff::",
            "3fff:1000::",
            "3fff:ffff::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(verdict(global), None, "{global}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nothing_outside_global_unicast_passes(bits: u128, few in 0..4u8) {
            // Half the samples have mostly zero segments, where the special forms are.
            let bits = if few > 1 { bits } else { bits & 0xffff_0000_ffff_0000_0000_ffff_ffff_ffff };
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
            if special_class(address).is_none() {
                let global = bits >> 125 == 1;
                let embedded = matches!(unwrapped(address), IpAddr::V4(v4) if special_v4(v4).is_none());
                prop_assert!(global || embedded, "{address}");
            }
        }

        #[test]
        fn embedding_forms_agree_with_the_v4_verdict(bits: u32, interface: u64, subnet: u16) {
            let v4 = Ipv4Addr::from_bits(bits);
            let expected = special_class(IpAddr::V4(v4));
            let tail = u128::from(bits);
            let forms = [
                0xffff_u128 << 32 | tail,
                0x0064_ff9b_u128 << 96 | tail,
                0x2002_u128 << 112 | tail << 80 | u128::from(subnet) << 64 | u128::from(interface),
                0x2a00_1450_u128 << 96 | 0x5efe_u128 << 32 | tail,
            ];
            for form in forms {
                prop_assert_eq!(special_class(IpAddr::V6(Ipv6Addr::from_bits(form))), expected);
            }
        }

        #[test]
        fn v4_agrees_with_the_standard_library_where_it_has_a_name(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
            prop_assert!(!special || special_v4(v4).is_some());
        }
    }
}
