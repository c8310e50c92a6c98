//! What differs between IPv4 and IPv6.

use enforcer_common::layout::Address;

use super::{Sum, word};
use crate::{
    frame::{Frame, Header},
    parse::{
        address::{address, mapped},
        is_extension, protocol,
    },
};

/// TTL and hop limit of answers.
const HOPS: u8 = 64;
/// More fragments follow, or came before.
const FRAGMENTED: u16 = 0x3fff;

/// An IP version.
pub trait Family {
    /// Its header without options or extensions.
    type Header: Copy;

    /// Bytes of that header.
    const LENGTH: usize;
    /// Bytes of a socket lookup's key.
    const TUPLE: usize;
    /// What is sent to who does not say how much it takes (RFC 9293, 3.7.1).
    const LEAST_MSS: u16;
    /// ICMP's protocol number over it.
    const ICMP: u8;
    /// Type and code of the error that says that something is administratively prohibited.
    const PROHIBITED: [u8; 2];

    /// The header at `start`.
    fn header(frame: &Frame, start: usize) -> Option<Self::Header>;
    /// TCP follows, with nothing in between.
    fn is_plain_tcp(header: Self::Header) -> bool;
    /// The transport's protocol, if its header follows, with nothing in between, and the packet is whole.
    fn plain_protocol(header: Self::Header) -> Option<u8>;
    /// Bytes of the packet. No more than the header's: it does not say.
    fn total(header: Self::Header) -> usize;
    /// Whether it comes from one host and goes to one host, as far as addresses tell: errors go to such
    /// alone, and are about such alone (RFC 1122, 3.2.2; RFC 4443, 2.4).
    fn is_between_hosts(header: Self::Header) -> bool;
    /// Where it comes from.
    fn source(header: Self::Header) -> Address;
    /// Where it goes.
    fn destination(header: Self::Header) -> Address;
    /// Where the header is.
    fn pointer<T>(header: Self::Header) -> *mut T;
    /// The key of a socket lookup: source, destination, and `ports` as they lie in the segment.
    fn tuple(header: Self::Header, ports: u32) -> [u32; 9];
    /// Gives `to` the addresses of `from`.
    fn copy_addresses(from: Self::Header, to: Self::Header);
    /// Turns the header round, for `length` bytes of `protocol`; gives the sum of the pseudo-header.
    fn turn(header: Self::Header, protocol: u8, length: u16) -> Sum;
}

/// RFC 791.
pub struct Ipv4;

/// RFC 8200.
pub struct Ipv6;

impl Family for Ipv4 {
    type Header = Header<20>;

    const LENGTH: usize = 20;
    const TUPLE: usize = 12;
    const LEAST_MSS: u16 = 536;
    const ICMP: u8 = protocol::ICMP;
    const PROHIBITED: [u8; 2] = [3, 13];

    #[inline(always)]
    fn header(frame: &Frame, start: usize) -> Option<Self::Header> {
        frame.header::<20>(start)
    }

    #[inline(always)]
    fn is_plain_tcp(header: Self::Header) -> bool {
        header.u8::<0>() == 0x45 && header.u8::<9>() == protocol::TCP
    }

    #[inline(always)]
    fn plain_protocol(header: Self::Header) -> Option<u8> {
        let whole = header.be16::<6>() & FRAGMENTED == 0;
        (header.u8::<0>() == 0x45 && whole).then_some(header.u8::<9>())
    }

    #[inline(always)]
    fn total(header: Self::Header) -> usize {
        usize::from(header.be16::<2>())
    }

    #[inline(always)]
    fn is_between_hosts(header: Self::Header) -> bool {
        let (source, destination) = (header.u8::<12>(), header.u8::<16>());
        // Of this network, of the host itself; multicast, reserved and broadcast (RFC 6890).
        source != 0 && source != 127 && source < 224 && destination < 224
    }

    #[inline(always)]
    fn copy_addresses(from: Self::Header, to: Self::Header) {
        to.put_u64::<12>(from.u64::<12>());
    }

    #[inline(always)]
    fn source(header: Self::Header) -> Address {
        mapped(header.u32::<12>())
    }

    #[inline(always)]
    fn destination(header: Self::Header) -> Address {
        mapped(header.u32::<16>())
    }

    #[inline(always)]
    fn pointer<T>(header: Self::Header) -> *mut T {
        header.pointer()
    }

    #[inline(always)]
    fn tuple(header: Self::Header, ports: u32) -> [u32; 9] {
        [header.u32::<12>(), header.u32::<16>(), ports, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn turn(header: Self::Header, protocol: u8, length: u16) -> Sum {
        let (source, destination) = (header.u32::<12>(), header.u32::<16>());
        let [high, low] = (length + Self::LENGTH as u16).to_be_bytes();
        let words = [
            word([0x45, 0, high, low]),
            // No identification, for it is never fragmented (RFC 6864, 4.1).
            word([0, 0, 0x40, 0]),
            word([HOPS, protocol, 0, 0]),
        ];
        let checksum = Sum::of(&words).add(source).add(destination).checksum();
        header.put_u32::<0>(words[0]);
        header.put_u32::<4>(words[1]);
        header.put_u16::<8>(u16::from_ne_bytes([HOPS, protocol]));
        header.put_u16::<10>(checksum);
        header.put_u32::<12>(destination);
        header.put_u32::<16>(source);
        Sum::of(&[source, destination]).pseudo(protocol, length)
    }
}

impl Family for Ipv6 {
    type Header = Header<40>;

    const LENGTH: usize = 40;
    const TUPLE: usize = 36;
    const LEAST_MSS: u16 = 1_220;
    const ICMP: u8 = protocol::ICMPV6;
    const PROHIBITED: [u8; 2] = [1, 1];

    #[inline(always)]
    fn header(frame: &Frame, start: usize) -> Option<Self::Header> {
        frame.header::<40>(start)
    }

    #[inline(always)]
    fn is_plain_tcp(header: Self::Header) -> bool {
        header.u8::<0>() >> 4 == 6 && header.u8::<6>() == protocol::TCP
    }

    #[inline(always)]
    fn plain_protocol(header: Self::Header) -> Option<u8> {
        let next = header.u8::<6>();
        (!is_extension(next)).then_some(next)
    }

    #[inline(always)]
    fn total(header: Self::Header) -> usize {
        Self::LENGTH + usize::from(header.be16::<4>())
    }

    #[inline(always)]
    fn is_between_hosts(header: Self::Header) -> bool {
        // The unspecified address and loopback are no senders (RFC 4291, 2.5.2 and 2.5.3).
        let host = header.u64::<8>() != 0 || u64::from_be(header.u64::<16>()) > 1;
        host && header.u8::<24>() != 0xff
    }

    #[inline(always)]
    fn copy_addresses(from: Self::Header, to: Self::Header) {
        to.put_u64::<8>(from.u64::<8>());
        to.put_u64::<16>(from.u64::<16>());
        to.put_u64::<24>(from.u64::<24>());
        to.put_u64::<32>(from.u64::<32>());
    }

    #[inline(always)]
    fn source(header: Self::Header) -> Address {
        address([header.u64::<8>(), header.u64::<16>()])
    }

    #[inline(always)]
    fn destination(header: Self::Header) -> Address {
        address([header.u64::<24>(), header.u64::<32>()])
    }

    #[inline(always)]
    fn pointer<T>(header: Self::Header) -> *mut T {
        header.pointer()
    }

    #[inline(always)]
    fn tuple(header: Self::Header, ports: u32) -> [u32; 9] {
        [
            header.u32::<8>(),
            header.u32::<12>(),
            header.u32::<16>(),
            header.u32::<20>(),
            header.u32::<24>(),
            header.u32::<28>(),
            header.u32::<32>(),
            header.u32::<36>(),
            ports,
        ]
    }

    #[inline(always)]
    fn turn(header: Self::Header, protocol: u8, length: u16) -> Sum {
        let source = [header.u64::<8>(), header.u64::<16>()];
        let destination = [header.u64::<24>(), header.u64::<32>()];
        let [high, low] = length.to_be_bytes();
        header.put_u32::<0>(word([0x60, 0, 0, 0]));
        header.put_u32::<4>(word([high, low, protocol, HOPS]));
        header.put_u64::<8>(destination[0]);
        header.put_u64::<16>(destination[1]);
        header.put_u64::<24>(source[0]);
        header.put_u64::<32>(source[1]);
        let sum = Sum::of(&[source[0] as u32, (source[0] >> 32) as u32]);
        let sum = sum.add(source[1] as u32).add((source[1] >> 32) as u32);
        let sum = sum.add(destination[0] as u32).add((destination[0] >> 32) as u32);
        let sum = sum.add(destination[1] as u32).add((destination[1] >> 32) as u32);
        sum.pseudo(protocol, length)
    }
}
