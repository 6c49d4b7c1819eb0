//! The IPv4 addresses that an IPv6 address carries.
//!
//! Half a dozen ways to cross from one protocol to the other write an IPv4 address into an IPv6 address, and a gateway somewhere takes
//! it out again: `64:ff9b::a9fe:a9fe` arrives at 169.254.169.254. A check that looks at the outside alone lets that pass (two of the
//! three products that we tried it on do). So every form is taken apart and what it carries is judged as if it stood alone.
//!
//! What cannot be known is a translator with a prefix of its operator's own, somewhere in public space; its addresses look like any
//! others. Who runs one can refuse what it must not reach where it stands.

use std::net::{Ipv4Addr, Ipv6Addr};

/// In which way an IPv4 address is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `::ffff:a.b.c.d`: what a socket of both protocols shows for IPv4.
    Mapped,
    /// `::a.b.c.d`.
    Compatible,
    /// `::ffff:0:a.b.c.d`.
    Translated,
    /// 64:ff9b::/96 or 64:ff9b:1::/48.
    Nat64,
    /// 2002:aabb:ccdd::/48.
    SixToFour,
    /// The server of 2001::/32, or the client's own, with its bits turned over.
    Teredo,
    /// `…:0:5efe:a.b.c.d` in any network.
    Isatap,
}

impl Form {
    /// As it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mapped => "IPv4-mapped",
            Self::Compatible => "IPv4-compatible",
            Self::Translated => "IPv4-translated",
            Self::Nat64 => "NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::Isatap => "ISATAP",
        }
    }
}

/// The prefix that all of the internet shares for NAT64 (RFC 6052).
#[must_use]
pub fn is_nat64(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x64, 0xff9b, 0, 0, 0, 0, _, _])
}

/// What an address carries; nothing in most.
#[must_use]
pub fn embedded(address: Ipv6Addr) -> Vec<(Form, Ipv4Addr)> {
    let octets = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let last = at([12, 13, 14, 15]);
    let mut found = match address.segments() {
        // `::` and `::1` are what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => vec![],
        [0, 0, 0, 0, 0, 0, _, _] => vec![(Form::Compatible, last)],
        [0, 0, 0, 0, 0, 0xffff, _, _] => vec![(Form::Mapped, last)],
        [0, 0, 0, 0, 0xffff, 0, _, _] => vec![(Form::Translated, last)],
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => vec![(Form::Nat64, last)],
        // How long the prefix is within the /48 is its operator's choice (RFC 6052 has four places for the address, always leaving out
        // octet 8). Each is looked at; where one is empty the address begins with a zero, and says nothing.
        [0x64, 0xff9b, 1, ..] => [
            at([6, 7, 9, 10]),
            at([7, 9, 10, 11]),
            at([9, 10, 11, 12]),
            last,
        ]
        .into_iter()
        .filter(|carried| carried.octets()[0] != 0)
        .map(|carried| (Form::Nat64, carried))
        .collect(),
        [0x2001, 0, ..] => vec![
            (Form::Teredo, at([4, 5, 6, 7])),
            (Form::Teredo, Ipv4Addr::from_bits(!last.to_bits())),
        ],
        [0x2002, ..] => vec![(Form::SixToFour, at([2, 3, 4, 5]))],
        _ => vec![],
    };
    if let [.., 0 | 0x200, 0x5efe, _, _] = address.segments() {
        found.push((Form::Isatap, last));
    }
    found
}
