//! Cases: a frame, or the fragments of a packet, of every shape that a sender may make, right and wrong.

use std::collections::BTreeSet;

use super::{
    Way,
    addresses::{GUARDED_TCP, GUARDED_UDP, OPEN_UDP, Standing},
    layers::{
        AUTHENTICATION, DESTINATION, Ends, FRAGMENT, HOP_BY_HOP, MORE_V4, ROUTING, chained, framed,
        sum_transport, sum_v4, v4, v6,
    },
};
use crate::random::Random;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Most tags of a frame, and most extension headers of a packet.
const TAGS: usize = 11;
const EXTENSIONS: usize = 30;
/// Longest frame: the veth's MTU, less what tags add.
const LONGEST: usize = 1_400;

/// What is special about a case: the run counts each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trait {
    Plain,
    Tagged,
    ManyTags,
    Options,
    Extensions,
    ManyExtensions,
    WrongExtension,
    Fragments,
    WrongFragments,
    WrongLength,
    WrongChecksum,
    Padded,
    Truncated,
    Tunnel,
    OtherType,
    Mutated,
}

/// Frames that belong together, in the order in which they are sent.
#[derive(Clone, Debug)]
pub struct Case {
    pub frames: Vec<Vec<u8>>,
    pub traits: BTreeSet<Trait>,
    /// Of the packet as it was built.
    pub source: Standing,
    pub destination: Standing,
}

impl Case {
    /// Nothing about it is wrong or rare: it must arrive unless a policy denies it.
    pub fn is_plain(&self) -> bool {
        self.traits.contains(&Trait::Plain)
    }
}

/// A source of cases: the same for the same seed.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    way: Way,
}

/// A packet that is being built.
struct Draft {
    ends: Ends,
    traits: BTreeSet<Trait>,
}

impl Generator {
    pub fn new(seed: u64, way: Way) -> Self {
        Self {
            random: Random(seed),
            way,
        }
    }

    /// The next, which is number `case` of its batch.
    pub fn case(&mut self, case: usize) -> Case {
        let ipv4 = self.random.one_in(2);
        let (source, destination) = self.standings();
        let mut draft = Draft {
            ends: Ends {
                source: source.source(ipv4, case),
                destination: destination.destination(ipv4),
            },
            traits: BTreeSet::new(),
        };
        let frames = if self.random.one_in(5) {
            draft.traits.insert(Trait::Plain);
            self.plain(&draft)
        } else {
            self.rare(&mut draft)
        };
        Case {
            frames,
            traits: draft.traits,
            source,
            destination,
        }
    }

    fn standings(&mut self) -> (Standing, Standing) {
        use Standing::{Denied, Free, Listed, ListedAtPorts};
        if self.way.is_egress() {
            (Free, self.random.of(&[Free, Free, Listed, Listed, ListedAtPorts]))
        } else {
            let source = self
                .random
                .of(&[Free, Free, Listed, Listed, ListedAtPorts, Denied]);
            (source, Free)
        }
    }

    /// As stacks send.
    fn plain(&mut self, draft: &Draft) -> Vec<Vec<u8>> {
        let ends = draft.ends;
        let protocol = self.random.of(&[17, 17, 6, 1]);
        let (protocol, mut segment) = self.segment(ends, protocol);
        sum_transport(ends, protocol, &mut segment);
        let tags: &[(u16, u16)] = if self.way.has_ethernet() && self.random.one_in(4) {
            &[(0x8100, 0)]
        } else {
            &[]
        };
        if ends.ipv4() {
            let id = self.random.next() as u16;
            return vec![framed(
                tags,
                IPV4,
                &v4(ends, protocol, (id, 0x4000), &[], &segment),
            )];
        }
        let mut extensions = Vec::new();
        if self.random.one_in(3) {
            if self.random.one_in(3) {
                extensions.push((HOP_BY_HOP, self.options_header()));
            }
            if self.random.one_in(2) {
                extensions.push((DESTINATION, self.options_header()));
            }
            if self.random.one_in(3) {
                extensions.push((FRAGMENT, self.fragment_header(0)));
            }
        }
        let (next, payload) = chained(&extensions, protocol, &segment);
        vec![framed(tags, IPV6, &v6(ends, next, 64, &payload))]
    }

    /// Anything else.
    fn rare(&mut self, draft: &mut Draft) -> Vec<Vec<u8>> {
        let mut packets = match self.random.below(16) {
            0 => vec![self.tunnel(draft)],
            1..=3 => self.fragments(draft),
            _ => vec![self.packet(draft)],
        };
        for packet in &mut packets {
            self.wrong_length(draft, packet);
        }
        let mut frames: Vec<Vec<u8>> = packets.iter().map(|packet| self.wrapped(draft, packet)).collect();
        for frame in &mut frames {
            self.ended(draft, frame);
            if self.random.one_in(6) {
                draft.traits.insert(Trait::Mutated);
                for _ in 0..=self.random.below(3) {
                    self.mutate(frame);
                }
            }
        }
        frames
    }

    fn segment(&mut self, ends: Ends, protocol: u8) -> (u8, Vec<u8>) {
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
    fn odd_segment(&mut self, draft: &mut Draft) -> (u8, Vec<u8>) {
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

    fn packet(&mut self, draft: &mut Draft) -> Vec<u8> {
        let (protocol, segment) = self.odd_segment(draft);
        if draft.ends.ipv4() {
            let (protocol, segment) = self.authenticated(protocol, segment);
            let options = self.ip_options(draft);
            let flags = self.random.of(&[0, 0x4000, 0x8000]);
            v4(
                draft.ends,
                protocol,
                (self.random.next() as u16, flags),
                &options,
                &segment,
            )
        } else {
            let extensions = self.extensions(draft, EXTENSIONS);
            let (next, payload) = chained(&extensions, protocol, &segment);
            let hops = self.random.of(&[64, 64, 1, 255, 0]);
            v6(draft.ends, next, hops, &payload)
        }
    }

    /// Sometimes behind an authentication header of IPv4.
    fn authenticated(&mut self, protocol: u8, segment: Vec<u8>) -> (u8, Vec<u8>) {
        if !self.random.one_in(10) {
            return (protocol, segment);
        }
        let mut extensions = Vec::new();
        for _ in 0..=self.random.below(3) {
            extensions.push((AUTHENTICATION, self.extension(AUTHENTICATION)));
        }
        chained(&extensions, protocol, &segment)
    }

    /// Options of IPv4: whole words, mostly legal.
    fn ip_options(&mut self, draft: &mut Draft) -> Vec<u8> {
        if !self.random.one_in(4) {
            return Vec::new();
        }
        draft.traits.insert(Trait::Options);
        let mut options = Vec::new();
        for _ in 0..=self.random.below(3) {
            match self.random.below(7) {
                0 | 1 => options.push(1),
                2 => options.extend([148, 4, 0, 0]),
                3 => options.extend([68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                4 => options.extend([7, 7, 4, 0, 0, 0, 0]),
                5 => options.extend([130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                _ => {
                    let length = self.random.below(9);
                    options.extend(self.random.bytes(length));
                }
            }
        }
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        options
    }

    fn extensions(&mut self, draft: &mut Draft, most: usize) -> Vec<(u8, Vec<u8>)> {
        const KINDS: [u8; 12] = [
            DESTINATION,
            DESTINATION,
            DESTINATION,
            ROUTING,
            ROUTING,
            FRAGMENT,
            AUTHENTICATION,
            HOP_BY_HOP,
            135,
            139,
            140,
            253,
        ];
        let count = match self.random.below(6) {
            0 | 1 => 0,
            2 | 3 => 1 + self.random.below(4),
            4 => 1 + self.random.below(9),
            _ => self.random.below(most + 1),
        };
        // Most chains are such as the stack follows to the end.
        let followed = !self.random.one_in(4);
        let mut extensions = Vec::new();
        for at in 0..count {
            let kind = if at == 0 && self.random.one_in(4) {
                HOP_BY_HOP
            } else if followed {
                self.random.of(&KINDS[..6])
            } else {
                self.random.of(&KINDS)
            };
            let mut header = self.extension(kind);
            if self.random.one_in(60) {
                draft.traits.insert(Trait::WrongExtension);
                header[1] = self.random.of(&[0, 1, 2, 3, 31, 0xff]);
            }
            extensions.push((kind, header));
        }
        if count > 0 {
            draft.traits.insert(Trait::Extensions);
        }
        if count > 6 {
            draft.traits.insert(Trait::ManyExtensions);
        }
        extensions
    }

    /// An extension header; its next header is filled in later.
    fn extension(&mut self, kind: u8) -> Vec<u8> {
        match kind {
            HOP_BY_HOP | DESTINATION => self.options_header(),
            ROUTING => {
                let words = self.random.of(&[0, 2, 2, 4]);
                // Whoever has been to all its places is let on.
                let left = self.random.of(&[0, 0, 0, 0, 1]);
                let mut header = vec![0, words, self.random.of(&[0, 2, 3, 4, 253]), left];
                header.resize(usize::from(words) * 8 + 8, 0);
                header
            }
            FRAGMENT => {
                let field = self.random.of(&[0, 0, 0, 0, 0, 6, 1, 8]);
                self.fragment_header(field)
            }
            AUTHENTICATION => {
                let words = self.random.of(&[1, 2, 4, 4, 5]);
                let mut header = vec![0, words];
                header.resize((usize::from(words) + 2) * 4, 7);
                header
            }
            _ => {
                let words = self.random.of(&[0, 1, 2]);
                let mut header = vec![0, words];
                header.resize(usize::from(words) * 8 + 8, 0);
                header
            }
        }
    }

    /// A hop-by-hop or destination options header that the stack takes: options that it may skip, and padding.
    fn options_header(&mut self) -> Vec<u8> {
        match self.random.below(3) {
            0 => vec![0, 0, 1, 4, 0, 0, 0, 0],
            1 => vec![0, 0, 0x1e, 4, 9, 9, 9, 9],
            _ => {
                let mut header = vec![0, 1, 0x1e, 8];
                header.extend(self.random.bytes(8));
                header.extend([1, 2, 0, 0]);
                header
            }
        }
    }

    fn fragment_header(&mut self, field: u16) -> Vec<u8> {
        let mut header = vec![0, 0];
        header.extend(field.to_be_bytes());
        header.extend(self.random.bytes(4));
        header
    }

    /// The fragments of one packet: in order or not, and in some cases with one too few, too many or at the wrong
    /// place.
    fn fragments(&mut self, draft: &mut Draft) -> Vec<Vec<u8>> {
        draft.traits.insert(Trait::Fragments);
        let (protocol, segment) = self.odd_segment(draft);
        let ipv4 = draft.ends.ipv4();
        let (next, whole) = if ipv4 {
            self.authenticated(protocol, segment)
        } else {
            let extensions = self.extensions(draft, 4);
            chained(&extensions, protocol, &segment)
        };
        let before = if ipv4 {
            Vec::new()
        } else {
            self.extensions(draft, 4)
        };
        let id = self.random.next();
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while at < whole.len() {
            let length = (8 * (1 + self.random.below(8))).min(whole.len() - at);
            pieces.push((at, length));
            at += length;
        }
        match self.random.below(8) {
            0 | 1 => pieces.reverse(),
            2 => {
                draft.traits.insert(Trait::WrongFragments);
                let extra = self.random.below(pieces.len().max(1));
                if let Some(&(at, length)) = pieces.get(extra) {
                    let moved = self.random.of(&[0, 8, 16]);
                    pieces.push((at.saturating_sub(moved), length));
                }
            }
            3 => {
                draft.traits.insert(Trait::WrongFragments);
                let lost = self.random.below(pieces.len().max(1));
                if lost < pieces.len() {
                    pieces.remove(lost);
                }
            }
            _ => {}
        }
        let end = whole.len();
        pieces
            .into_iter()
            .map(|(at, length)| {
                let piece = &whole[at..at + length];
                let more = at + length < end;
                if ipv4 {
                    let field = (at / 8) as u16 | if more { MORE_V4 } else { 0 };
                    v4(draft.ends, next, (id as u16, field), &[], piece)
                } else {
                    let mut header = vec![0, 0];
                    header.extend((at as u16 | u16::from(more)).to_be_bytes());
                    header.extend((id as u32).to_be_bytes());
                    let mut extensions = before.clone();
                    extensions.push((FRAGMENT, header));
                    let (first, payload) = chained(&extensions, next, piece);
                    v6(draft.ends, first, 64, &payload)
                }
            })
            .collect()
    }

    /// A packet in another, whose own ends are others.
    fn tunnel(&mut self, draft: &mut Draft) -> Vec<u8> {
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
    fn inner(&mut self, outer: Ends) -> Vec<u8> {
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

    /// Sometimes lets the IP header lie about its packet's length, or its own.
    fn wrong_length(&mut self, draft: &mut Draft, packet: &mut [u8]) {
        if packet.len() < 20 || !self.random.one_in(12) {
            return;
        }
        draft.traits.insert(Trait::WrongLength);
        let (at, true_length) = if draft.ends.ipv4() {
            (2, packet.len())
        } else {
            (4, packet.len() - 40)
        };
        let length = self
            .random
            .of(&[0, 1, 19, 20, true_length - 1, true_length + 1, 0xffff]);
        packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        if draft.ends.ipv4() {
            if self.random.one_in(3) {
                packet[0] = self.random.of(&[0x44, 0x46, 0x4f, 0x40]);
            }
            sum_v4(packet);
        }
    }

    /// In a frame: with tags, and sometimes of another type.
    fn wrapped(&mut self, draft: &mut Draft, packet: &[u8]) -> Vec<u8> {
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
    fn ended(&mut self, draft: &mut Draft, frame: &mut Vec<u8>) {
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

    fn mutate(&mut self, frame: &mut Vec<u8>) {
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
