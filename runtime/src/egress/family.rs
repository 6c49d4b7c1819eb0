//! What an address is for, by IANA's registries of special-purpose addresses.
//!
//! One table, because a list of `is_private() || is_loopback() || …` is how families are forgotten: Rust's own predicates know neither
//! shared (carrier) addresses nor the benchmark networks, and none of them knows where clouds keep their credentials. IPv6 is turned
//! round: only 2000::/3 is given out for public use, so what lies outside is reserved without having to be listed.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

/// Why an address is not a public one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// 0.0.0.0/8 and `::`: this host, in whatever way it likes to take that.
    Unspecified,
    /// This machine.
    Loopback,
    /// RFC 1918.
    Private,
    /// fc00::/7, IPv6's private networks.
    UniqueLocal,
    /// fec0::/10, what came before them.
    SiteLocal,
    /// Only on this wire.
    LinkLocal,
    /// Where a cloud hands out credentials, or drives the machine.
    Metadata,
    /// 100.64.0.0/10, between a provider and its customers; also overlay networks.
    CarrierNat,
    /// For measuring network equipment.
    Benchmark,
    /// For examples in texts.
    Documentation,
    /// Groups, not machines.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// Not given out, or given to protocols.
    Reserved,
    /// Thrown away on purpose.
    Discard,
    /// Identifiers that look like addresses.
    Orchid,
    /// `::a.b.c.d`, withdrawn.
    Compatible,
    /// `::ffff:0:a.b.c.d`, translation without state, withdrawn.
    Translated,
    /// 64:ff9b:1::/48, a translator of the local network.
    LocalNat64,
    /// 2002::/16.
    SixToFour,
    /// 2001::/32.
    Teredo,
}

impl Family {
    /// With its article, for `… is …`.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address (this host)",
            Self::Loopback => "a loopback address (this machine)",
            Self::Private => "an address of a private network",
            Self::UniqueLocal => "an address of a private network (unique local)",
            Self::SiteLocal => "an address of a private network (site-local)",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata address",
            Self::CarrierNat => "a shared address (carrier-grade NAT, overlay networks)",
            Self::Benchmark => "a benchmark address",
            Self::Documentation => "a documentation address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Reserved => "a reserved address",
            Self::Discard => "a discard address",
            Self::Orchid => "an identifier, not an address (ORCHID)",
            Self::Compatible => "an IPv4-compatible address",
            Self::Translated => "an IPv4-translated address",
            Self::LocalNat64 => "an address behind a local NAT64",
            Self::SixToFour => "a 6to4 address",
            Self::Teredo => "a Teredo address",
        }
    }

    /// Nobody reads a source at such an address by intention, and reaching one by accident is worst. They are refused even on the user's
    /// own word, and no network that merely contains one allows it: a grant of fd00::/8 for an office must not open the metadata service.
    #[must_use]
    pub fn only_by_name(self) -> bool {
        matches!(
            self,
            Self::Unspecified
                | Self::LinkLocal
                | Self::Metadata
                | Self::Multicast
                | Self::Broadcast
        )
    }
}

/// The first row that holds an address counts, so the smaller network stands before the one around it.
const TABLE: [(&str, Family); 44] = [
    // Amazon EC2, Google, Azure, Oracle, OpenStack, DigitalOcean and others; Amazon's containers; Azure's host agent; Alibaba; Oracle.
    ("169.254.169.254/32", Family::Metadata),
    ("169.254.170.2/32", Family::Metadata),
    ("169.254.170.23/32", Family::Metadata),
    ("168.63.129.16/32", Family::Metadata),
    ("100.100.100.200/32", Family::Metadata),
    ("192.0.0.192/32", Family::Metadata),
    ("fd00:ec2::254/128", Family::Metadata),
    ("fd00:ec2::23/128", Family::Metadata),
    ("fd20:ce::254/128", Family::Metadata),
    ("0.0.0.0/8", Family::Unspecified),
    ("10.0.0.0/8", Family::Private),
    ("100.64.0.0/10", Family::CarrierNat),
    ("127.0.0.0/8", Family::Loopback),
    ("169.254.0.0/16", Family::LinkLocal),
    ("172.16.0.0/12", Family::Private),
    ("192.0.0.0/24", Family::Reserved),
    ("192.0.2.0/24", Family::Documentation),
    // Relays of 6to4, withdrawn: what answers there is nobody's.
    ("192.88.99.0/24", Family::Reserved),
    ("192.168.0.0/16", Family::Private),
    ("198.18.0.0/15", Family::Benchmark),
    ("198.51.100.0/24", Family::Documentation),
    ("203.0.113.0/24", Family::Documentation),
    ("224.0.0.0/4", Family::Multicast),
    ("255.255.255.255/32", Family::Broadcast),
    ("240.0.0.0/4", Family::Reserved),
    ("::/128", Family::Unspecified),
    ("::1/128", Family::Loopback),
    ("::ffff:0:0:0/96", Family::Translated),
    ("::/96", Family::Compatible),
    ("64:ff9b:1::/48", Family::LocalNat64),
    ("100::/64", Family::Discard),
    ("2001::/32", Family::Teredo),
    ("2001:2::/48", Family::Benchmark),
    ("2001:10::/28", Family::Orchid),
    ("2001:20::/28", Family::Orchid),
    ("2001:30::/28", Family::Orchid),
    ("2001:db8::/32", Family::Documentation),
    ("2001::/23", Family::Reserved),
    ("2002::/16", Family::SixToFour),
    ("3fff::/20", Family::Documentation),
    ("fc00::/7", Family::UniqueLocal),
    ("fe80::/10", Family::LinkLocal),
    ("fec0::/10", Family::SiteLocal),
    ("ff00::/8", Family::Multicast),
];

static NETWORKS: LazyLock<Vec<(IpNet, Family)>> = LazyLock::new(|| {
    let parse = |text: &str| text.parse().expect("a network of our own table");
    TABLE
        .iter()
        .map(|(text, family)| (parse(text), *family))
        .collect()
});

/// IPv6 that is given out for public use.
static GLOBAL_UNICAST: LazyLock<IpNet> = LazyLock::new(|| "2000::/3".parse().expect("a network"));

/// The networks that are not public, with the first that fits coming first.
#[must_use]
pub fn special_networks() -> &'static [(IpNet, Family)] {
    &NETWORKS
}

/// `None` for a public address, and for a form that only carries another address ([`super::embedded`]) and says nothing of its own.
#[must_use]
pub fn family_of(address: IpAddr) -> Option<Family> {
    let listed = NETWORKS
        .iter()
        .find(|(network, _)| network.contains(&address))
        .map(|(_, family)| *family);
    let IpAddr::V6(six) = address else {
        return listed;
    };
    let only_carries = six.to_ipv4_mapped().is_some() || super::embedded::is_nat64(six);
    listed.or_else(|| {
        (!only_carries && !GLOBAL_UNICAST.contains(&address)).then_some(Family::Reserved)
    })
}
