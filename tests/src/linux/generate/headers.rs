//! Options of IPv4, and extension headers.

use super::{Draft, Generator, Trait};
use crate::linux::layers::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, chained};

impl Generator {
    /// Sometimes behind an authentication header of IPv4.
    pub(super) fn authenticated(&mut self, protocol: u8, segment: Vec<u8>) -> (u8, Vec<u8>) {
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
    pub(super) fn ip_options(&mut self, draft: &mut Draft) -> Vec<u8> {
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

    pub(super) fn extensions(&mut self, draft: &mut Draft, most: usize) -> Vec<(u8, Vec<u8>)> {
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
    pub(super) fn extension(&mut self, kind: u8) -> Vec<u8> {
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
    pub(super) fn options_header(&mut self) -> Vec<u8> {
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

    pub(super) fn fragment_header(&mut self, field: u16) -> Vec<u8> {
        let mut header = vec![0, 0];
        header.extend(field.to_be_bytes());
        header.extend(self.random.bytes(4));
        header
    }
}
