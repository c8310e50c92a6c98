//! Addresses as the kernel programs see them: IPv4 as IPv4-mapped.

use std::net::{IpAddr, SocketAddr};

use aya::maps::lpm_trie::Key;
use enforcer_common::layout::{AccessKey, Address, FlowKey, IPV4_LIST};
use ipnet::IpNet;

use enforcer_model::flow::Flow;

/// Bits of the table's number in front of an access list's address.
const TABLE_BITS: u32 = 32;
/// Bits in front of an IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// The kernel's form of an address.
#[must_use]
pub fn address(ip: IpAddr) -> Address {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of the kernel's form.
#[must_use]
pub fn ip(address: Address) -> IpAddr {
    IpAddr::from(address).to_canonical()
}

/// The kernel's form of a prefix on an access list.
#[must_use]
pub fn access_key(table: u32, prefix: IpNet) -> Key<AccessKey> {
    let (table, front) = if prefix.addr().is_ipv4() {
        (table | IPV4_LIST, MAPPED_BITS)
    } else {
        (table, 0)
    };
    Key::new(
        TABLE_BITS + front + u32::from(prefix.prefix_len()),
        AccessKey {
            table,
            address: address(prefix.network()),
        },
    )
}

/// The bits of a prefix whose key in an access list has `key_bits`.
#[must_use]
pub fn prefix_bits(key_bits: u32, ipv4: bool) -> u8 {
    let front = if ipv4 { MAPPED_BITS } else { 0 };
    u8::try_from(key_bits.saturating_sub(TABLE_BITS + front)).unwrap_or(u8::MAX)
}

/// The prefix of an entry of an access list. `None`: it is none of ours.
#[must_use]
pub fn prefix(key: &Key<AccessKey>) -> Option<IpNet> {
    let AccessKey { table, address } = key.data();
    let ipv4 = table & IPV4_LIST != 0;
    let address = IpAddr::from(address);
    let address = if ipv4 { address.to_canonical() } else { address };
    IpNet::new(address, prefix_bits(key.prefix_len(), ipv4)).ok()
}

/// The kernel's form of a connection, as its packets arrive.
#[must_use]
pub fn flow_key(flow: &Flow) -> FlowKey {
    let port = |end: &SocketAddr| end.port().to_be();
    FlowKey {
        source: address(flow.peer.ip()),
        destination: address(flow.local.ip()),
        source_port: port(&flow.peer),
        destination_port: port(&flow.local),
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::layout::{table, table_kind};

    use super::*;

    #[test]
    fn prefixes_are_read_back() {
        for text in [
            "192.0.2.0/24",
            "0.0.0.0/0",
            "2001:db8::/32",
            "::/0",
            "192.0.2.7/32",
        ] {
            let net: IpNet = text.parse().unwrap();
            let list = table(table_kind::OPERATOR, 0, 0);
            assert_eq!(prefix(&access_key(list, net)), Some(net));
        }
    }
}
