//! Frames to parse: of every shape that there is, mutated, and random bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::layers::{TYPE_IPV4, TYPE_IPV6, V4, V6, ethernet, icmp, tcp, udp};

/// No test run takes less.
const SHORTEST: usize = 14;
/// Enough for all headers; short, so that bounds are met.
const LONGEST: usize = 1_024;
/// Frames that mutations begin with: made anew one by one.
const KEPT: usize = 256;

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const PROTOCOLS: [u8; 12] = [6, 6, 6, 17, 17, 17, 1, 58, 58, 47, 132, 59];
const EXTENSIONS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];
/// Values at which parsers go wrong.
const EDGES: [u8; 16] = [0, 1, 4, 5, 6, 7, 8, 15, 17, 44, 51, 0x40, 0x45, 0x7f, 0x80, 0xff];

/// A source of frames: the same for the same seed.
pub struct Frames {
    random: Random,
    kept: Vec<Vec<u8>>,
    frame: Vec<u8>,
}

impl Frames {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let kept = (0..KEPT).map(|_| random.valid()).collect();
        Self {
            random,
            kept,
            frame: Vec::new(),
        }
    }

    /// The next.
    pub fn next_frame(&mut self) -> &[u8] {
        let Self { random, kept, frame } = self;
        match random.below(16) {
            0 => {
                let length = random.below(LONGEST);
                frame.clear();
                frame.extend((0..length).map(|_| random.next() as u8));
                random.claim(frame);
            }
            1 | 2 => {
                let fresh = random.valid();
                frame.clone_from(&fresh);
                kept[random.below(KEPT)] = fresh;
            }
            _ => {
                frame.clone_from(&kept[random.below(KEPT)]);
                for _ in 0..=random.below(4) {
                    let other = &kept[random.below(KEPT)];
                    random.mutate(frame, other);
                }
            }
        }
        frame.truncate(LONGEST);
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        frame
    }
}

/// A small generator (SplitMix64: Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Makes random bytes say that they are IP.
    fn claim(&mut self, frame: &mut [u8]) {
        let ipv4 = self.below(2) == 0;
        if let Some(head) = frame.get_mut(12..15) {
            let kind: [u8; 3] = if ipv4 {
                [0x08, 0x00, 0x45]
            } else {
                [0x86, 0xdd, 0x60]
            };
            head.copy_from_slice(&kind);
        }
    }

    fn mutate(&mut self, frame: &mut Vec<u8>, other: &[u8]) {
        if frame.is_empty() {
            return;
        }
        // Headers are where it matters.
        let reach = frame.len().min(if self.below(4) == 0 { LONGEST } else { 80 });
        let at = self.below(reach);
        match self.below(8) {
            0 => frame[at] ^= 1 << self.below(8),
            1 => frame[at] = self.next() as u8,
            2 | 3 => frame[at] = self.of(&EDGES),
            4 => frame.truncate(at),
            5 => {
                let count = self.below(24);
                frame.extend((0..count).map(|_| self.next() as u8));
            }
            6 => drop(frame.splice(
                at..(at + self.below(8)).min(frame.len()),
                other.iter().copied().take(8),
            )),
            _ => {
                frame.truncate(at);
                frame.extend_from_slice(other.get(at..).unwrap_or_default());
            }
        }
    }

    /// A frame as a sender might mean it, or nearly so.
    fn valid(&mut self) -> Vec<u8> {
        if self.below(16) == 0 {
            let kind = self.of(&[0x0806, 0x88cc, 0x8847, 0x0800, 0x86dd]);
            return ethernet(&[], kind, &[0; 28]);
        }
        let (kind, packet) = if self.below(2) == 0 {
            (TYPE_IPV4, self.ipv4())
        } else {
            (TYPE_IPV6, self.ipv6())
        };
        let count = self.of(&[0, 0, 0, 1, 2, 3, 8, 9]);
        let tags: Vec<u16> = (0..count).map(|_| self.of(&TAGS)).collect();
        ethernet(&tags, kind, &packet)
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let protocol = self.of(&PROTOCOLS);
        let any = Ipv4Addr::from(self.next() as u32);
        let source = self.of(&[
            any,
            any,
            Ipv4Addr::new(192, 0, 2, 7),
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1),
        ]);
        let header = V4 {
            ttl: self.of(&[1, 64, 255]),
            options: self.of(&[0, 0, 0, 1, 3, 10]),
            fragment: self.of(&[0, 0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1fff]),
            total: self.of(&[None, None, None, None, Some(0), Some(19), Some(28), Some(40)]),
            ..V4::new(source, Ipv4Addr::new(192, 0, 2, 1), protocol)
        };
        header.packet(&self.segment(protocol))
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let protocol = self.of(&PROTOCOLS);
        let any = Ipv6Addr::from((u128::from(self.next()) << 64) | u128::from(self.next()));
        let near = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        let source = self.of(&[any, near, near, near, mapped]);
        let destination = self.of(&[near, near, near, mapped]);
        let mut header = V6 {
            hop_limit: self.of(&[64, 255, 255]),
            length: self.of(&[None, None, None, None, Some(0), Some(8), Some(20)]),
            ..V6::new(source, destination, protocol)
        };
        let count = self.of(&[0, 0, 0, 1, 2, 5, 6, 7, 64, 65]);
        for _ in 0..count {
            // So many must be short, that the frame holds them.
            let kind = if count > 7 { 60 } else { self.of(&EXTENSIONS) };
            header = match kind {
                44 => {
                    let field = self.of(&[0, 1, 8, 9, 0xfff8]);
                    header.fragment(field)
                }
                51 => {
                    let bytes = self.of(&[12, 16, 24]);
                    header.extended(51, bytes)
                }
                kind => {
                    let bytes = if count > 7 { 8 } else { self.of(&[8, 8, 16, 40]) };
                    header.extended(kind, bytes)
                }
            };
        }
        header.packet(&self.segment(protocol))
    }

    fn segment(&mut self, protocol: u8) -> Vec<u8> {
        const PORTS: [u16; 6] = [443, 443, 53, 80, 0, 0xbb01];
        let (from, to) = (self.of(&PORTS), self.of(&PORTS));
        match protocol {
            6 => {
                let words = self.of(&[5, 5, 5, 6, 8, 15, 4, 0]);
                tcp(from, to, words, self.next() as u8)
            }
            17 => {
                let bytes = self.below(40);
                let whole = 8 + bytes;
                let length = self.of(&[whole, whole, whole, 8, 0, 7, whole + 1]);
                udp(from, to, length as u16, bytes)
            }
            _ => {
                let bytes = self.of(&[1, 3, 4, 7, 8, 24]);
                let kind = self.of(&[0, 8, 128, 132, 133, 134, 135, 136, 137, 138]);
                icmp(kind, bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_all() {
        let (mut one, mut same, mut other) = (Frames::new(1), Frames::new(1), Frames::new(2));
        let mut differ = false;
        for _ in 0..1_000 {
            let frame = one.next_frame().to_vec();
            assert_eq!(frame, same.next_frame());
            assert!((SHORTEST..=LONGEST).contains(&frame.len()));
            differ |= frame != other.next_frame();
        }
        assert!(differ);
    }
}
