//! What is in a packet: segments, datagrams, messages, and other packets.

use super::{Draft, Generator, IPV4, IPV6, Trait};
use crate::linux::{
    addresses::{GUARDED_TCP, GUARDED_UDP, OPEN_UDP, Standing},
    layers::{Ends, framed, sum_transport, v4, v6},
};

impl Generator {
    pub(super) fn segment(&mut self, ends: Ends, protocol: u8) -> (u8, Vec<u8>) {
        let from = self.random.next() as u16 | 1;
        let length = self.random.of(&[0, 1, 7, 8, 12, 18, 33, 64, 200]);
        let payload = self.random.bytes(length);
        let mut segment = Vec::new();
        match protocol {
            6 => {
                let to = self.random.of(&[GUARDED_TCP, GUARDED_TCP, 80]);
                segment.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
                segment.extend(self.random.bytes(8));
                segment.extend([0x50, self.random.of(&[0x02, 0x10, 0x18, 0x11])]);
                segment.extend([0xfa, 0xf0, 0, 0, 0, 0]);
                segment.extend(payload);
                (6, segment)
            }
            17 => {
                let to = self.random.of(&[GUARDED_UDP, GUARDED_UDP, OPEN_UDP]);
                segment.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
                segment.extend(((8 + payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(payload);
                (17, segment)
            }
            1 | 58 => {
                let (protocol, kind) = if ends.ipv4() { (1, 8) } else { (58, 128) };
                segment.extend([kind, 0, 0, 0, 0, 7, 0, 1]);
                segment.extend(payload);
                (protocol, segment)
            }
            other => {
                segment.extend(self.random.bytes(8));
                segment.extend(payload);
                (other, segment)
            }
        }
    }

    /// A transport, not always as it should be.
    pub(super) fn odd_segment(&mut self, draft: &mut Draft) -> (u8, Vec<u8>) {
        const PROTOCOLS: [u8; 22] = [
            17, 17, 17, 17, 6, 6, 6, 1, 58, 2, 4, 41, 47, 50, 51, 59, 132, 136, 103, 115, 139, 253,
        ];
        let protocol = self.random.of(&PROTOCOLS);
        let (protocol, mut segment) = self.segment(draft.ends, protocol);
        if matches!(protocol, 1 | 58) && self.random.one_in(2) {
            segment[0] = self.random.of(&[
                0, 3, 4, 5, 11, 12, 13, 1, 2, 129, 130, 133, 134, 135, 136, 137, 143,
            ]);
            if self.random.one_in(2) {
                segment.extend(self.inner(draft.ends));
            }
        }
        if protocol == 17 && self.random.one_in(12) {
            draft.traits.insert(Trait::WrongLength);
            let length = self.random.of(&[0, 4, 7, 8, 9, segment.len() as u16 + 1, 0xffff]);
            segment[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if protocol == 6 && self.random.one_in(12) {
            draft.traits.insert(Trait::WrongLength);
            segment[12] = self.random.of(&[0, 0x40, 0x60, 0xf0]);
        }
        sum_transport(draft.ends, protocol, &mut segment);
        match self.random.below(24) {
            0 => {
                draft.traits.insert(Trait::WrongChecksum);
                let at = self.random.below(segment.len());
                segment[at] ^= 1 << self.random.below(8);
            }
            1 if protocol == 17 => segment[6..8].fill(0),
            2 => {
                draft.traits.insert(Trait::WrongLength);
                let length = self.random.below(segment.len());
                segment.truncate(length);
            }
            _ => {}
        }
        (protocol, segment)
    }

    /// A packet in another, whose own ends are others.
    pub(super) fn tunnel(&mut self, draft: &mut Draft) -> Vec<u8> {
        draft.traits.insert(Trait::Tunnel);
        let inner = self.inner(draft.ends);
        let inner_ipv4 = inner.first().is_some_and(|first| first >> 4 == 4);
        let kind = if inner_ipv4 { IPV4 } else { IPV6 };
        let (protocol, mut segment) = match self.random.below(3) {
            0 => (if inner_ipv4 { 4 } else { 41 }, inner),
            1 => (47, [&[0, 0], &kind.to_be_bytes()[..], &inner].concat()),
            _ => {
                let vxlan = [&[8, 0, 0, 0, 0, 0, 7, 0], &framed(&[], kind, &inner)[..]].concat();
                let mut segment = [4789_u16.to_be_bytes(), 4789_u16.to_be_bytes()].concat();
                segment.extend(((8 + vxlan.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(vxlan);
                (17, segment)
            }
        };
        sum_transport(draft.ends, protocol, &mut segment);
        if draft.ends.ipv4() {
            v4(draft.ends, protocol, (1, 0), &[], &segment)
        } else {
            v6(draft.ends, protocol, 64, &segment)
        }
    }

    /// A datagram from an address that nothing denies, or one that something does, as the payload of another packet.
    pub(super) fn inner(&mut self, outer: Ends) -> Vec<u8> {
        let ipv4 = self.random.one_in(2);
        let free = Standing::Free;
        let ends = Ends {
            source: free.source(ipv4, 0xfffe),
            destination: free.destination(ipv4),
        };
        let ends = if outer.ipv4() == ipv4 && self.random.one_in(2) {
            Ends {
                source: outer.destination,
                destination: outer.source,
            }
        } else {
            ends
        };
        let (protocol, mut segment) = self.segment(ends, 17);
        sum_transport(ends, protocol, &mut segment);
        if ipv4 {
            v4(ends, protocol, (1, 0), &[], &segment)
        } else {
            v6(ends, protocol, 64, &segment)
        }
    }
}
