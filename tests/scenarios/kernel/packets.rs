//! The packets that most tables speak of, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::frame::layers::{V4, V6, carried, packet, tcp, udp};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 1);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 9);

/// A client's address and the node's, in each family.
pub const FAMILIES: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(CLIENT_V4), IpAddr::V4(NODE_V4)),
    (IpAddr::V6(CLIENT_V6), IpAddr::V6(NODE_V6)),
];

/// The node's address of the family of `other`.
pub fn node(other: IpAddr) -> IpAddr {
    if other.is_ipv4() {
        IpAddr::V4(NODE_V4)
    } else {
        IpAddr::V6(NODE_V6)
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A plain header from the client to the node.
pub fn v4(protocol: u8) -> V4 {
    V4::new(CLIENT_V4, NODE_V4, protocol)
}

/// A plain header from the client to the node.
pub fn v6(protocol: u8) -> V6 {
    V6::new(CLIENT_V6, NODE_V6, protocol)
}

/// A TCP segment with `flags` from port 40000 of `source` to `port` of the node.
pub fn tcp_from(source: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    carried(&packet(source, node(source), TCP, &tcp(40_000, port, 5, flags)))
}

/// An empty datagram from port 40000 of `source` to `port` of the node.
pub fn udp_from(source: IpAddr, port: u16) -> Vec<u8> {
    carried(&packet(source, node(source), UDP, &udp(40_000, port, 8, 0)))
}

/// A datagram whose frame is `bytes` long.
pub fn udp_of(source: IpAddr, port: u16, bytes: usize) -> Vec<u8> {
    let payload = bytes - udp_from(source, port).len();
    carried(&packet(
        source,
        node(source),
        UDP,
        &udp(40_000, port, (8 + payload) as u16, payload),
    ))
}
