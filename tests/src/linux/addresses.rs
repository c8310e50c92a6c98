//! Which addresses stand for what: the source says which case a packet is of, and both say what policies deny.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet addresses of the sender and the receiver.
pub const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const RECEIVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Where the receiver sends its answers.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 254);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 0xfe);

/// Cases that sources can tell apart.
pub const CASES: usize = 0xff00;

/// What the policies in force say of an address, as a source or as a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing.
    Free,
    /// A deny list names it.
    Listed,
    /// A deny list names it, of the policy for [`GUARDED_UDP`] and [`GUARDED_TCP`] alone.
    ListedAtPorts,
    /// An operator has denied it: as a source alone.
    Denied,
}

/// The ports that the second policy is about.
pub const GUARDED_UDP: u16 = 5300;
pub const GUARDED_TCP: u16 = 4430;
/// Another port with a socket.
pub const OPEN_UDP: u16 = 5301;
/// Where the ends of batches arrive.
pub const BARRIER_UDP: u16 = 5999;

impl Standing {
    pub const ALL: [Self; 4] = [Self::Free, Self::Listed, Self::ListedAtPorts, Self::Denied];

    const fn number(self) -> u8 {
        match self {
            Self::Free => 9,
            Self::Listed => 1,
            Self::ListedAtPorts => 2,
            Self::Denied => 3,
        }
    }

    fn of_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|standing| u64::from(standing.number()) == number)
    }

    /// All sources of this kind, in both families.
    #[must_use]
    pub fn sources(self) -> [String; 2] {
        [
            format!("10.{}.0.0/16", self.number()),
            format!("fd0a:{}::/32", self.number()),
        ]
    }

    /// The source of a case.
    #[must_use]
    pub fn source(self, ipv4: bool, case: usize) -> IpAddr {
        if ipv4 {
            let [high, low] = (case as u16).to_be_bytes();
            Ipv4Addr::new(10, self.number(), high, low).into()
        } else {
            Ipv6Addr::new(0xfd0a, self.number().into(), 0, 0, 0, 0, 0, case as u16).into()
        }
    }

    /// What a source stands for, and the case that it is of.
    #[must_use]
    pub fn of_source(source: IpAddr) -> Option<(Self, usize)> {
        match source {
            IpAddr::V4(address) => {
                let [10, number, high, low] = address.octets() else {
                    return None;
                };
                let case = u16::from_be_bytes([high, low]);
                Some((Self::of_number(number.into())?, case.into()))
            }
            IpAddr::V6(address) => {
                let [0xfd0a, number, .., case] = address.segments() else {
                    return None;
                };
                Some((Self::of_number(number.into())?, case.into()))
            }
        }
    }

    /// One of the receiver's own addresses.
    #[must_use]
    pub fn destination(self, ipv4: bool) -> IpAddr {
        if ipv4 {
            Ipv4Addr::new(172, 20, 0, self.number()).into()
        } else {
            Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, self.number().into()).into()
        }
    }

    /// What one of the receiver's addresses stands for.
    #[must_use]
    pub fn of_destination(destination: IpAddr) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|standing| standing.destination(destination.is_ipv4()) == destination)
    }
}
