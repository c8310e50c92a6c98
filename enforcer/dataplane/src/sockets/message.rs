//! The messages of `NETLINK_SOCK_DIAG`: `struct inet_diag_req_v2` and `struct inet_diag_msg`
//! (`include/uapi/linux/inet_diag.h`), behind `struct nlmsghdr`. Numbers are in the host's byte order but for
//! ports and addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use enforcer_model::flow::Flow;

/// TCP's protocol number.
pub const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// What there is to look through. Sockets of IPv6 may have IPv4 peers.
pub const KINDS: [(u8, u8); 4] = [(IPV4, TCP), (IPV6, TCP), (IPV4, UDP), (IPV6, UDP)];

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

/// TCP states 1 to 11 but for 6, TIME_WAIT, 7, CLOSE, and 10, LISTEN (`include/net/tcp_states.h`). A connected
/// UDP socket is in state 1.
pub const CONNECTED: u32 = 0b1011_0011_1110;

/// No state: no socket.
pub const NO_STATE: u32 = 0;

const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
/// Where a message has the socket's identity, and how long that is.
const IDENTITY: usize = 4;
const IDENTITY_BYTES: usize = 48;

/// A socket, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    family: u8,
    protocol: u8,
    /// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
    identity: [u8; IDENTITY_BYTES],
}

impl Found {
    /// One that is not there: no socket has these ports.
    pub const NONE: Self = Self {
        family: IPV4,
        protocol: TCP,
        identity: [0; IDENTITY_BYTES],
    };

    /// The same, of the protocol that was asked for, which answers do not say.
    pub fn of(self, protocol: u8) -> Self {
        Self { protocol, ..self }
    }

    /// What it is connected to. `None`: nothing.
    pub fn flow(&self) -> Option<Flow> {
        let port = |at: usize| u16::from_be_bytes([self.identity[at], self.identity[at + 1]]);
        let address = |at: usize| {
            let bytes: [u8; 16] = self.identity.get(at..at + 16)?.try_into().ok()?;
            Some(if self.family == IPV4 {
                IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
            } else {
                IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
            })
        };
        let flow = Flow {
            local: SocketAddr::new(address(4)?, port(0)),
            peer: SocketAddr::new(address(20)?, port(2)),
        };
        (flow.peer.port() != 0).then_some(flow)
    }
}

/// Asks for all sockets in one of `states`.
pub fn list(family: u8, protocol: u8, states: u32) -> Vec<u8> {
    request(
        SOCK_DIAG_BY_FAMILY,
        NLM_F_REQUEST | NLM_F_DUMP,
        states,
        &Found {
            family,
            protocol,
            ..Found::NONE
        },
    )
}

/// Asks to destroy one.
pub fn destroy(found: &Found) -> Vec<u8> {
    request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, CONNECTED, found)
}

fn request(kind: u16, flags: u16, states: u32, about: &Found) -> Vec<u8> {
    let mut message = Vec::with_capacity(REQUEST);
    message.extend(72_u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Neither a sequence number nor a port: one request is under way at a time.
    message.extend([0; 8]);
    message.extend([about.family, about.protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(about.identity);
    message
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosed {
    /// There is this one; its protocol is that which was asked for.
    Socket(Found),
    /// An error's number, or zero: it is done.
    Code(i32),
    /// There are no more.
    Done,
}

/// The messages in what was read at once.
pub struct Answers<'a>(&'a [u8]);

impl<'a> Answers<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Iterator for Answers<'_> {
    type Item = io::Result<Diagnosed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((answer, rest)) = first(self.0) else {
            self.0 = &[];
            return Some(Err(io::ErrorKind::InvalidData.into()));
        };
        self.0 = rest;
        Some(Ok(answer))
    }
}

/// The first message, and the bytes behind it.
fn first(bytes: &[u8]) -> Option<(Diagnosed, &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let answer = match kind {
        // The end of a list says whether that went wrong.
        NLMSG_DONE => match code(body)? {
            0 => Diagnosed::Done,
            code => Diagnosed::Code(code),
        },
        NLMSG_ERROR => Diagnosed::Code(code(body)?),
        SOCK_DIAG_BY_FAMILY => Diagnosed::Socket(Found {
            family: *body.first()?,
            protocol: 0,
            identity: body.get(IDENTITY..IDENTITY + IDENTITY_BYTES)?.try_into().ok()?,
        }),
        _ => return None,
    };
    // Messages begin at multiples of four.
    Some((
        answer,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// An error's number; in the message it is negative.
fn code(body: &[u8]) -> Option<i32> {
    i32::from_ne_bytes(body.get(..4)?.try_into().ok()?).checked_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn socket(family: u8, local: &[u8], peer: &[u8]) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0, 0x01, 0xbb, 0x9c, 0x40];
        body.extend(local);
        body.resize(4 + 4 + 16, 0);
        body.extend(peer);
        body.resize(72, 0);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn requests_are_as_long_as_they_say() {
        for message in [list(IPV6, TCP, CONNECTED), destroy(&Found::NONE)] {
            assert_eq!(message.len(), REQUEST);
            assert_eq!(message[..4], (REQUEST as u32).to_ne_bytes());
        }
    }

    #[test]
    fn sockets_are_read_of_either_family() {
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets();
        let bytes = [
            socket(IPV4, &[203, 0, 113, 9], &[192, 0, 2, 7]),
            socket(IPV6, &mapped, &mapped),
            socket(IPV6, &[0xfd; 16], &[0xfe; 16]),
            message(NLMSG_DONE, &[0; 4]),
        ]
        .concat();
        let read: Vec<_> = Answers::new(&bytes).map(Result::unwrap).collect();
        let peers: Vec<Option<SocketAddr>> = read[..3]
            .iter()
            .map(|answer| match answer {
                Diagnosed::Socket(found) => found.flow().map(|flow| flow.peer),
                other => panic!("{other:?}"),
            })
            .collect();
        let v4 = SocketAddr::from(([192, 0, 2, 7], 40_000));
        let v6 = SocketAddr::from(([0xfe; 16], 40_000));
        assert_eq!(peers, [Some(v4), Some(v4), Some(v6)]);
        assert_eq!(read[3], Diagnosed::Done);
    }

    #[test]
    fn errors_are_read_and_what_is_cut_off_is_one() {
        let refused = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        let read: Vec<_> = Answers::new(&refused).map(Result::unwrap).collect();
        assert_eq!(read, [Diagnosed::Code(libc::ENOENT)]);
        let ended = message(NLMSG_DONE, &(-libc::ENOENT).to_ne_bytes());
        assert_eq!(
            Answers::new(&ended).next().unwrap().unwrap(),
            Diagnosed::Code(libc::ENOENT)
        );
        for length in 1..refused.len() {
            let read: Vec<_> = Answers::new(&refused[..length]).collect();
            assert!(matches!(read.as_slice(), [Err(_)]), "{length}");
        }
    }

    #[test]
    fn a_socket_without_a_peer_has_no_flow() {
        assert_eq!(Found::NONE.flow(), None);
    }
}
