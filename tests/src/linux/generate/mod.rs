//! Cases: a frame, or the fragments of a packet, of every shape that a sender may make, right and wrong.

mod frames;
mod headers;
mod segments;

use std::collections::BTreeSet;

use super::{
    Way,
    addresses::Standing,
    layers::{DESTINATION, Ends, FRAGMENT, HOP_BY_HOP, MORE_V4, chained, framed, sum_transport, v4, v6},
};
use crate::random::Random;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Most extension headers of a packet.
const EXTENSIONS: usize = 30;

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
}
