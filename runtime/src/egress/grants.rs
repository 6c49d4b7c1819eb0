//! Networks that are allowed by name: `allowed_networks = ["10.0.0.0/8"]`.
//!
//! A grant is read strictly. `10.1.2.3/8` may be a slip for /32 as well as for 10.0.0.0/8, and the two differ by sixteen million machines;
//! guessing would open the larger one.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// One network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant(IpNet);

impl Grant {
    /// Reads `10.0.0.0/8`, `fd12:3456::/32` or a single address. The error says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network else {
            return Err(format!(
                "`{}` is not a network; write for example 10.0.0.0/8, or one address such as 10.1.2.3 (names are not networks)",
                text.escape_debug()
            ));
        };
        if network.trunc() != network {
            return Err(format!(
                "`{network}` is an address within a network; write {} for the network or {} for the address",
                network.trunc(),
                network.addr()
            ));
        }
        if let IpNet::V6(six) = network
            && six.addr().to_ipv4_mapped().is_some()
        {
            return Err(format!(
                "`{network}` is an IPv4 network in an IPv6 spelling; write it as IPv4"
            ));
        }
        Ok(Self(network))
    }

    /// Whether this address lies in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether all of it lies in the other.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (IpNet::V4(own), IpNet::V4(other)) => other.contains(&own),
            (IpNet::V6(own), IpNet::V6(other)) => other.contains(&own),
            _ => false,
        }
    }

    /// Whether it is this address and no other.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> bool {
        self.0 == IpNet::from(address)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
