//! What a packet is in: a frame with tags, whose lengths lie, which is cut off or changed.

use super::{Draft, Generator, IPV4, IPV6, Trait};
use crate::linux::layers::{framed, sum_v4};

/// Most tags of a frame.
const TAGS: usize = 11;
/// Longest frame: the veth's MTU, less what tags add.
const LONGEST: usize = 1_400;

impl Generator {
    /// Sometimes lets the IP header lie about its packet's length, or its own.
    pub(super) fn wrong_length(&mut self, draft: &mut Draft, packet: &mut [u8]) {
        if packet.len() < 20 || !self.random.one_in(12) {
            return;
        }
        draft.traits.insert(Trait::WrongLength);
        let (at, true_length) = if draft.ends.ipv4() {
            (2, packet.len())
        } else {
            (4, packet.len() - 40)
        };
        let length = self.random.of(&[
            0,
            1,
            19,
            20,
            true_length.saturating_sub(1),
            true_length + 1,
            0xffff,
        ]);
        packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        if draft.ends.ipv4() {
            if self.random.one_in(3) {
                packet[0] = self.random.of(&[0x44, 0x46, 0x4f, 0x40]);
            }
            sum_v4(packet);
        }
    }

    /// In a frame: with tags, and sometimes of another type.
    pub(super) fn wrapped(&mut self, draft: &mut Draft, packet: &[u8]) -> Vec<u8> {
        let kind = if draft.ends.ipv4() { IPV4 } else { IPV6 };
        if !self.way.has_ethernet() {
            return framed(&[], kind, packet);
        }
        let count = match self.random.below(8) {
            0..=3 => 0,
            4 | 5 => 1 + self.random.below(3),
            _ => self.random.below(TAGS + 1),
        };
        if count > 0 {
            draft.traits.insert(Trait::Tagged);
        }
        if count > 2 {
            draft.traits.insert(Trait::ManyTags);
        }
        let zero = self.random.one_in(2);
        let tags: Vec<(u16, u16)> = (0..count)
            .map(|at| {
                let kind = self.random.of(&[0x8100, 0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100]);
                let id = match self.random.below(4) {
                    _ if zero && at > 0 => 0,
                    0 => self.random.of(&[7, 8, 9, 4095]),
                    _ => 0,
                };
                // Priority and drop eligibility are no part of the id.
                (kind, id | self.random.of(&[0, 0, 0xe000, 0x1000]))
            })
            .collect();
        if !self.random.one_in(25) {
            return framed(&tags, kind, packet);
        }
        draft.traits.insert(Trait::OtherType);
        let length = packet.len() as u16;
        match self.random.below(6) {
            // The other family's type.
            0 => framed(&tags, if kind == IPV4 { IPV6 } else { IPV4 }, packet),
            // 802.3 with a SNAP header.
            1 => {
                let snap = [&[0xaa, 0xaa, 3, 0, 0, 0], &kind.to_be_bytes()[..], packet].concat();
                framed(&tags, length + 8, &snap)
            }
            // PPP over Ethernet.
            2 => {
                let protocol: [u8; 2] = if kind == IPV4 { [0, 0x21] } else { [0, 0x57] };
                let session = [
                    &[0x11, 0, 0, 1],
                    &(length + 2).to_be_bytes()[..],
                    &protocol,
                    packet,
                ]
                .concat();
                framed(&tags, 0x8864, &session)
            }
            // MPLS: the last label of its stack, which says what follows.
            3 => {
                let label = if kind == IPV4 { 0x01 } else { 0x21 };
                let labelled = [&[0, 0, label, 64], packet].concat();
                framed(&tags, self.random.of(&[0x8847, 0x8848]), &labelled)
            }
            4 => framed(&tags, self.random.next() as u16, packet),
            _ => {
                let kind = self.random.of(&[
                    0x0000, 0x0001, 0x0003, 0x0004, 0x0806, 0x8035, 0x6558, 0x88cc, 0x8809, 0x888e, 0x88e5,
                    0x88f7, 0x88e7, 0x894f, 0x8906, 0x9200, 0x9300, 0x8a88,
                ]);
                framed(&tags, kind, packet)
            }
        }
    }

    /// The end of a frame: with padding, or cut off.
    pub(super) fn ended(&mut self, draft: &mut Draft, frame: &mut Vec<u8>) {
        match self.random.below(12) {
            0 | 1 => {
                draft.traits.insert(Trait::Padded);
                let count = self.random.below(50);
                frame.extend(self.random.bytes(count));
            }
            2 => {
                draft.traits.insert(Trait::Truncated);
                let cut = self.random.below(frame.len() - 14);
                frame.truncate(frame.len() - cut);
            }
            _ => {}
        }
        frame.truncate(LONGEST);
    }

    pub(super) fn mutate(&mut self, frame: &mut Vec<u8>) {
        const EDGES: [u8; 16] = [0, 1, 4, 5, 6, 7, 8, 15, 17, 44, 51, 60, 0x45, 0x60, 0x81, 0xff];
        // Ethernet addresses stay: a frame for somebody else shows nothing.
        let first = if self.way.has_ethernet() { 12 } else { 14 };
        let reach = frame.len().min(120).saturating_sub(first);
        if reach == 0 {
            return;
        }
        let at = first + self.random.below(reach);
        match self.random.below(5) {
            0 => frame[at] ^= 1 << self.random.below(8),
            1 => frame[at] = self.random.next() as u8,
            2 | 3 => frame[at] = self.random.of(&EDGES),
            _ => {
                let count = self.random.of(&[1, 2, 4, 8]);
                let bytes = self.random.bytes(count);
                frame.splice(at..at, bytes);
            }
        }
        // Where the sum of the header still fits, the stack reads on.
        if frame.len() >= 34 && frame[12..14] == IPV4.to_be_bytes() && !self.random.one_in(4) {
            sum_v4(&mut frame[14..]);
        }
    }
}
