//! What kind of place a host is: one of the internet, or one that only this machine or its network reaches.
//!
//! Pure. An address counts as public when the IANA registries of special-purpose addresses (RFC 6890 ff.) do not say
//! otherwise; an IPv6 address that carries an IPv4 address is what the latter is. Not here: what is done about it,
//! which [`guard`](super::guard) knows.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

/// What kind of place an address, or a name before it is resolved, is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Reachable for everybody. Of a name: as far as the name alone tells.
    Public,
    /// This machine.
    Loopback,
    /// `0.0.0.0`, `::` and what is near: on Linux this machine too.
    Unspecified,
    /// Of the network that this machine is in (RFC 1918, RFC 4193).
    Private,
    /// Of a provider's network behind its NAT (RFC 6598).
    Shared,
    /// Of the same link.
    LinkLocal,
    /// Where clouds tell their machines secrets.
    Metadata,
    /// A group of machines.
    Multicast,
    /// For documentation, benchmarks, protocols or the future.
    Reserved,
    /// A name that only this machine or its network knows.
    LocalName,
}

/// Where AWS and many others, AWS's containers, Azure, Alibaba and Oracle have their metadata.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// AWS and Google.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
/// Names for local use: RFC 6761, RFC 6762, RFC 8375, and what ICANN keeps back for private use (2024).
const LOCAL_NAMES: [&str; 5] = ["localhost", "localdomain", "local", "internal", "home.arpa"];

impl Destination {
    /// Of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    /// Of a host as a URL has it. A name that is not for local use is public until it is resolved.
    #[must_use]
    pub fn of_host<S: AsRef<str>>(host: &Host<S>) -> Self {
        match host {
            Host::Ipv4(address) => Self::of_v4(*address),
            Host::Ipv6(address) => Self::of_v6(*address),
            Host::Domain(name) => Self::of_name(name.as_ref()),
        }
    }

    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_public(self) -> bool {
        self == Self::Public
    }

    fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_local = LOCAL_NAMES
            .iter()
            .any(|local| name.strip_suffix(local).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        if is_local { Self::LocalName } else { Self::Public }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        if METADATA_V4.contains(&address) {
            return Self::Metadata;
        }
        match address.octets() {
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            [100, 64..=127, ..] => Self::Shared,
            [169, 254, ..] => Self::LinkLocal,
            // Protocols, documentation, the relays of 6to4, benchmarks.
            [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Self::Reserved,
            [192, 88, 99, _] | [198, 18 | 19, ..] => Self::Reserved,
            [224..=239, ..] => Self::Multicast,
            [240..=255, ..] => Self::Reserved,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if METADATA_V6.contains(&address) {
            return Self::Metadata;
        }
        let segments = address.segments();
        let v4 = |high: u16, low: u16| Self::of_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
        match segments {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // Mapped, and translated without state (RFC 2765).
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
            // Compatible; no longer in use, whatever is in it.
            [0, 0, 0, 0, 0, 0, high, low] => v4(high, low).or_reserved(),
            // NAT64 (RFC 6052), and its prefix for local use (RFC 8215).
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
            [0x64, 0xff9b, 1, ..] => Self::Private,
            // 6to4.
            [0x2002, high, low, ..] => v4(high, low),
            // Protocols, Teredo and ORCHIDs; documentation.
            [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => Self::Reserved,
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            [0xff00..=0xffff, ..] => Self::Multicast,
            // ISATAP: the address of a machine behind a gateway of that name.
            [0x2000..=0x3fff, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Reserved,
        }
    }

    fn or_reserved(self) -> Self {
        if self.is_public() { Self::Reserved } else { self }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Private => "a private address",
            Self::Shared => "an address behind a provider's NAT",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::LocalName => "a name for local use",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    fn of(address: &str) -> Destination {
        Destination::of(address.parse().unwrap_or_else(|_| panic!("{address} is an address")))
    }

    fn of_url(url: &str) -> Destination {
        Destination::of_host(&Url::parse(url).unwrap().host().unwrap())
    }

    #[track_caller]
    fn check(expected: Destination, addresses: &[&str]) {
        for address in addresses {
            assert_eq!(of(address), expected, "{address}");
        }
    }

    #[test]
    fn places_of_the_internet() {
        let addresses =
            ["8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "223.255.255.255"];
        check(Destination::Public, &addresses);
        check(
            Destination::Public,
            &["2606:4700::1", "2001:4860:4860::8888", "2001:200::", "64:ff9b::8.8.8.8"],
        );
    }

    #[test]
    fn places_that_are_near() {
        check(
            Destination::Loopback,
            &["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::127.0.0.1"],
        );
        check(Destination::Loopback, &["64:ff9b::127.0.0.1", "2002:7f00:1::", "2001:db9::5efe:7f00:1"]);
        check(Destination::Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "::ffff:0:0:0"]);
        check(
            Destination::Private,
            &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "64:ff9b:1::"],
        );
        check(Destination::Private, &["fc00::", "fdff::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]);
        check(Destination::Shared, &["100.64.0.0", "100.127.255.255"]);
        check(Destination::LinkLocal, &["169.254.0.1", "fe80::1", "febf::1"]);
        check(Destination::Metadata, &["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"]);
        check(Destination::Metadata, &["fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]);
        check(Destination::Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1"]);
        check(
            Destination::Reserved,
            &["192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "255.255.255.255"],
        );
        check(
            Destination::Reserved,
            &["2001::1", "2001:db8::1", "3fff::1", "100::1", "4000::1", "::8.8.8.8"],
        );
    }

    #[test]
    fn names_for_local_use() {
        let local = [
            "localhost",
            "LocalHost.",
            "a.localhost",
            "metadata.google.internal",
            "printer.local",
            "x.home.arpa",
        ];
        for name in local {
            assert_eq!(of_url(&format!("http://{name}/")), Destination::LocalName, "{name}");
        }
        for name in ["ghcr.io", "notlocalhost", "internal.example", "localhost.example.com"] {
            assert_eq!(of_url(&format!("http://{name}/")), Destination::Public, "{name}");
        }
    }

    /// What the registries of IANA keep back, with the length of each prefix; stated here on its own.
    const KEPT_BACK_V4: [(&str, u32); 16] = [
        ("0.0.0.0", 8),
        ("10.0.0.0", 8),
        ("100.64.0.0", 10),
        ("127.0.0.0", 8),
        ("168.63.129.16", 32),
        ("169.254.0.0", 16),
        ("172.16.0.0", 12),
        ("192.0.0.0", 24),
        ("192.0.2.0", 24),
        ("192.88.99.0", 24),
        ("192.168.0.0", 16),
        ("198.18.0.0", 15),
        ("198.51.100.0", 24),
        ("203.0.113.0", 24),
        ("224.0.0.0", 4),
        ("240.0.0.0", 4),
    ];

    fn is_kept_back(address: Ipv4Addr) -> bool {
        KEPT_BACK_V4.iter().any(|(prefix, bits)| {
            let prefix: Ipv4Addr = prefix.parse().unwrap();
            (u32::from(address) ^ u32::from(prefix)).leading_zeros() >= *bits
        })
    }

    /// Any address; every second one within or at the edge of a prefix that is kept back.
    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let near = (0..KEPT_BACK_V4.len(), any::<u32>(), -1i64..=1).prop_map(|(prefix, low, step)| {
            let (prefix, bits) = KEPT_BACK_V4[prefix];
            let prefix = u32::from(prefix.parse::<Ipv4Addr>().unwrap());
            let size = 1u64 << (32 - bits);
            let inside = u64::from(low) % size;
            Ipv4Addr::from((i64::from(prefix) + inside as i64 + step * size as i64) as u32)
        });
        prop_oneof![near, any::<u32>().prop_map(Ipv4Addr::from)]
    }

    proptest! {
        #[test]
        fn what_is_kept_back_is_not_public(address in any_v4()) {
            prop_assert_eq!(Destination::of(address.into()).is_public(), !is_kept_back(address), "{}", address);
        }

        #[test]
        fn an_address_is_the_same_in_every_disguise(address in any_v4()) {
            let expected = Destination::of(address.into());
            let [a, b, c, d] = address.octets();
            let number = u32::from(address);
            for host in [
                format!("{number}"),
                format!("0x{number:x}"),
                format!("0{number:o}"),
                format!("0x{a:X}.0{b:o}.{}", u32::from(c) << 8 | u32::from(d)),
                format!("{a}.{b}.{c}.{d}."),
                format!("user:pass@{a}.{b}.{c}.{d}"),
                format!("{}.{b}.{c}.{d}", a.to_string().bytes().map(|digit| format!("%{digit:x}")).collect::<String>()),
                format!("[::ffff:{address}]"),
                format!("[::ffff:{:x}:{:x}]", number >> 16, number & 0xffff),
                format!("[64:ff9b::{address}]"),
                format!("[2002:{:x}:{:x}::1]", number >> 16, number & 0xffff),
            ] {
                let url = format!("http://{host}:5000/");
                prop_assert_eq!(of_url(&url), expected, "{}", url);
            }
        }

        #[test]
        fn beyond_global_unicast_only_translated_addresses_are_public(high: u64, low: u64) {
            let address = Ipv6Addr::from((u128::from(high) << 64) | u128::from(low));
            let unicast = address.segments()[0] & 0xe000 == 0x2000;
            prop_assert!(unicast || !Destination::of(address.into()).is_public(), "{}", address);
        }
    }
}
