//! Addresses and prefixes as both halves name them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bits in front of an IPv4 address in its mapped form.
const MAPPED_BITS: u8 = 96;

/// The prefix by which packets are known: IPv4 for an IPv4-mapped one (RFC 4291, 2.5.5.2), which never arrive as such.
#[must_use]
pub fn canonical_prefix(prefix: IpNet) -> IpNet {
    let mapped = match prefix {
        IpNet::V6(v6) => v6
            .addr()
            .to_ipv4_mapped()
            .zip(v6.prefix_len().checked_sub(MAPPED_BITS)),
        IpNet::V4(_) => None,
    };
    mapped
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(prefix, IpNet::V4)
}

/// The addresses that one client has: an IPv4 address, an IPv6 /64 (RFC 4291, 2.5.4).
#[must_use]
pub fn client_prefix(source: IpAddr) -> IpNet {
    const CLIENT_V6: u8 = 64;
    match source.to_canonical() {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::from(address)),
        IpAddr::V6(address) => match Ipv6Net::new(address, CLIENT_V6) {
            Ok(prefix) => IpNet::V6(prefix.trunc()),
            Err(_) => IpNet::V6(Ipv6Net::from(address)),
        },
    }
}
