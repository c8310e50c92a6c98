//! Random and mutated frames: whatever arrives passes or is dropped, moves one counter, and is read as
//! the reference reads it. Policies on ports, sources and connections show how the programs read it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_common::verdict::{Direction, Reason, Verdict};
use lab::{
    frame::{
        ETHERNET, IPV4, IPV6,
        layers::{TYPE_IPV4, TYPE_IPV6, V4, V6, ethernet, icmp, tcp, udp},
    },
    reference::{Packet, Reading, read},
};

use crate::{
    packets::{SYN, TCP, UDP, tcp_from},
    rig::{Case, Counts, Rig, document, moved},
};

const BATCHES: usize = 100;
const FRAMES: usize = 1_000;

/// The same in each run, so that a failure can be looked at again.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// A small generator (SplitMix64).
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
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn frame(&mut self) -> Vec<u8> {
        if self.one_in(10) {
            let kind = self.of(&[TYPE_IPV4, TYPE_IPV6, 0x8100, 0x0806, 0x1234]);
            let length = self.below(120);
            return ethernet(&[], kind, &self.bytes(length));
        }
        let (kind, packet) = if self.one_in(2) {
            (TYPE_IPV4, self.ipv4())
        } else {
            (TYPE_IPV6, self.ipv6())
        };
        let tags = if self.one_in(4) { self.below(11) } else { 0 };
        let tags: Vec<u16> = (0..tags).map(|_| self.of(&[0x8100, 0x88a8, 0x9100])).collect();
        let mut frame = ethernet(&tags, kind, &packet);
        if self.one_in(2) {
            for _ in 0..=self.below(3) {
                self.mutate(&mut frame);
            }
        }
        frame
    }

    fn protocol(&mut self) -> u8 {
        self.of(&[TCP, TCP, TCP, UDP, UDP, 1, 58, 58, 47, 132, 59])
    }

    fn segment(&mut self, protocol: u8) -> Vec<u8> {
        const PORTS: [u16; 6] = [443, 53, 25, 80, 0, 0xbb01];
        let (from, to) = (self.of(&PORTS), self.of(&PORTS));
        match protocol {
            TCP => {
                let words = self.of(&[5, 5, 5, 8, 15, 4]);
                let flags = self.of(&[0x02, 0x12, 0x10, 0x18, 0x04, 0xc2]);
                tcp(from, to, words, flags)
            }
            UDP => {
                let bytes = self.below(40);
                let length = self.of(&[8 + bytes, 8 + bytes, 8 + bytes, 8, 0, 7, 9 + bytes]);
                udp(from, to, length as u16, bytes)
            }
            _ => {
                let bytes = self.of(&[0, 3, 4, 7, 8, 24]);
                let kind = self.of(&[8, 128, 132, 133, 135, 137, 138]);
                if bytes == 0 { Vec::new() } else { icmp(kind, bytes) }
            }
        }
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let protocol = self.protocol();
        let source = Ipv4Addr::from(self.next() as u32);
        let (anywhere, denied) = (
            Ipv4Addr::from(self.next() as u32),
            Ipv4Addr::new(198, 18, self.next() as u8, 1),
        );
        let destination = self.of(&[anywhere, denied]);
        let plain = V4::new(source, destination, protocol);
        let header = V4 {
            ttl: self.of(&[64, 255]),
            options: self.of(&[0, 0, 0, 1, 10]),
            fragment: self.of(&[0, 0, 0, 0x4000, 0x2000, 0x2005, 5]),
            total: self.of(&[None, None, None, None, Some(0), Some(30)]),
            ..plain
        };
        header.packet(&self.segment(protocol))
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let protocol = self.protocol();
        let mut address = || Ipv6Addr::from(u128::from(self.next()) << 64 | u128::from(self.next()));
        let (source, destination) = (address(), address());
        let egress = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 7, 7, 7, 7, 7);
        let mapped = Ipv4Addr::from(self.next() as u32).to_ipv6_mapped();
        let source = self.of(&[source, source, source, source, source, source, mapped]);
        let mut header = V6::new(source, self.of(&[destination, egress]), protocol);
        header.hop_limit = self.of(&[64, 255, 255]);
        header.length = self.of(&[None, None, None, None, None, Some(0), Some(30)]);
        let extensions = match self.below(20) {
            0 => 62 + self.below(8),
            1..10 => self.below(9),
            _ => 0,
        };
        for _ in 0..extensions {
            let kinds: &[u8] = if extensions > 9 {
                &[60]
            } else {
                &[0, 43, 51, 60, 60, 135, 139, 140, 44]
            };
            header = match self.of(kinds) {
                44 => {
                    let field = self.of(&[0, 1, 1, 6, 8, 0x51]);
                    header.fragment(field)
                }
                51 => header.extended(51, self.of(&[8, 12, 24])),
                kind if extensions > 9 => header.extended(kind, 8),
                kind => header.extended(kind, self.of(&[8, 8, 16, 64])),
            };
        }
        header.packet(&self.segment(protocol))
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        let at = 12 + self.below(frame.len().min(110) - 12);
        match self.below(6) {
            0 => frame[at] ^= 1 << self.below(8),
            1 => frame[at] = self.next() as u8,
            2 => frame[at] = self.of(&[0, 1, 4, 5, 6, 17, 44, 58, 0x45, 0x60, 0x7f, 0x80, 0xe0, 0xff]),
            3 | 4 => frame.truncate(14 + self.below(frame.len() - 13)),
            _ => frame.extend(self.bytes(9)),
        }
    }
}

/// Which policies are in force.
#[derive(Clone, Copy)]
struct Policies {
    /// `rest`, about all traffic, is.
    wildcard: bool,
}

impl Policies {
    fn documents(self) -> String {
        let web = "  ports: [tcp/443, udp/53]\n  deny: [128.0.0.0/1, \"8000::/1\"]
  limits: [{per: service, count: connections, rate: 1/d, burst: 1}]
  egress: {deny: [198.18.0.0/15, \"2001:db8:e::/48\"]}";
        let mut documents = document("a-web", "enforce", web);
        documents += &document(
            "b-mail",
            "shadow",
            "  ports: [tcp/25]\n  deny: [0.0.0.0/0, \"::/0\"]",
        );
        if self.wildcard {
            documents += &document("rest", "enforce", "  allow: [64.0.0.0/2, \"4000::/2\"]");
        }
        documents
    }

    fn of(self, packet: &Packet, port: u16) -> Option<&'static str> {
        let rest = self.wildcard.then_some("rest");
        match (packet.protocol, port) {
            _ if packet.later_fragment => rest.or(Some("a-web")),
            (TCP, 443) | (UDP, 53) => Some("a-web"),
            _ => rest,
        }
    }

    /// What is to become of a frame, by the reference.
    fn arrives(self, frame: Vec<u8>) -> Case {
        let none = |reason| (reason, None);
        let (reason, policy) = match read(&frame) {
            Reading::Arp => none(Reason::Lifeline),
            Reading::Other => none(Reason::NotIp),
            Reading::Opaque => none(Reason::Opaque),
            // Whom `rest` allows, `a-web` may deny.
            Reading::Refused(reason) => (reason, Some(if self.wildcard { "rest" } else { "a-web" })),
            Reading::Packet(packet) if packet.neighbour_discovery => none(Reason::Lifeline),
            Reading::Packet(packet) => match self.of(&packet, packet.ports.1) {
                None => none(Reason::NoPolicy),
                Some("a-web") if first_bits(packet.source, 1) == 1 => (Reason::Denied, Some("a-web")),
                Some("a-web") if packet.opens_connection => (Reason::Limit0, Some("a-web")),
                Some("rest") if first_bits(packet.source, 2) == 1 => (Reason::Allowed, Some("rest")),
                policy => (Reason::WithinLimits, policy),
            },
        };
        Case::arrives("random", frame, reason, policy)
    }

    fn leaves(self, mut frame: Vec<u8>) -> Case {
        // A test run for TC wants a whole IP header where the frame's type says that there is one, and a
        // byte where it does not.
        let least = match u16::from_be_bytes([frame[12], frame[13]]) {
            TYPE_IPV4 => ETHERNET + IPV4,
            TYPE_IPV6 => ETHERNET + IPV6,
            _ => ETHERNET + 1,
        };
        frame.resize(frame.len().max(least), 0);
        let (reason, policy) = match read(&frame) {
            Reading::Arp => (Reason::Lifeline, None),
            Reading::Other => (Reason::NotIp, None),
            Reading::Opaque => (Reason::Opaque, None),
            Reading::Refused(reason) => match addresses(&frame) {
                None => (reason, Some("a-web")),
                Some([_, destination]) if is_egress_denied(destination) => {
                    (Reason::EgressDenied, Some("a-web"))
                }
                Some(_) => (Reason::EgressAllowed, None),
            },
            Reading::Packet(packet) => match (
                is_egress_denied(packet.destination),
                self.of(&packet, packet.ports.0),
            ) {
                (true, _) => (Reason::EgressDenied, Some("a-web")),
                (false, None) => (Reason::NoPolicy, None),
                (false, policy) => (Reason::EgressAllowed, policy),
            },
        };
        Case::leaves("random", frame, reason, policy)
    }
}

fn first_bits(address: IpAddr, count: u32) -> u8 {
    let first = match address {
        IpAddr::V4(address) => address.octets()[0],
        IpAddr::V6(address) => address.octets()[0],
    };
    first >> (8 - count)
}

/// Where a frame comes from and goes, if it has a whole IP header behind at most eight tags.
fn addresses(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let mut at = 12;
    for _ in 0..8 {
        if matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8] | [0x91, 0]) {
            at += 4;
        }
    }
    let (kind, packet) = (frame.get(at..at + 2)?, frame.get(at + 2..)?);
    match u16::from_be_bytes([kind[0], kind[1]]) {
        TYPE_IPV4 => {
            let header = packet.get(..IPV4)?;
            let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).ok().map(IpAddr::from);
            Some([address(12)?, address(16)?])
        }
        TYPE_IPV6 => {
            let header = packet.get(..IPV6)?;
            let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok().map(IpAddr::from);
            Some([address(8)?.to_canonical(), address(24)?.to_canonical()])
        }
        _ => None,
    }
}

fn is_egress_denied(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => address.octets()[0] == 198 && address.octets()[1] | 1 == 19,
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 0xe],
    }
}

/// Runs a batch at once; on a difference, one by one until the frame that it is about is found.
fn check_batch(rig: &mut Rig, cases: &[Case]) {
    let before = rig.counts();
    let mut expected = Counts::new();
    let mut surprises = 0;
    for case in cases {
        let counter = expected.entry(case.place()).or_default();
        counter.packets += 1;
        counter.bytes += case.frame.len() as u64;
        let verdict = rig.offline.run(case.direction, &case.frame).unwrap();
        surprises += usize::from((verdict == Verdict::Drop) != (case.verdict == Verdict::Drop));
    }
    if surprises == 0 && moved(&before, &rig.counts()) == expected {
        return;
    }
    rig.check(cases);
    panic!("each frame by itself did as expected, and not the batch: {surprises} verdicts differed");
}

fn check(direction: Direction, policies: Policies, reasons: &[Reason]) {
    let Some(mut rig) = Rig::new(&policies.documents()) else {
        return;
    };
    // From here on, whoever opens a connection to `a-web` is over its limit.
    assert!(rig.passes(&tcp_from(IpAddr::from([1, 2, 3, 4]), 443, SYN)));
    let mut random = Random(SEED ^ direction as u64 ^ u64::from(policies.wildcard) << 8);
    let mut seen: BTreeMap<Reason, usize> = BTreeMap::new();
    for _ in 0..BATCHES / 2 {
        let case = |_| match direction {
            Direction::Ingress => policies.arrives(random.frame()),
            Direction::Egress => policies.leaves(random.frame()),
        };
        let cases: Vec<Case> = (0..FRAMES).map(case).collect();
        check_batch(&mut rig, &cases);
        for case in &cases {
            *seen.entry(case.reason).or_default() += 1;
        }
    }
    println!("{direction:?}: {seen:?}");
    for reason in reasons {
        assert!(
            seen.get(reason).is_some_and(|count| *count >= 50),
            "{reason:?} hardly occurred: {seen:?}"
        );
    }
}

const PARSED: [Reason; 9] = [
    Reason::Truncated,
    Reason::Malformed,
    Reason::Martian,
    Reason::ExtensionHeaders,
    Reason::VlanTags,
    Reason::NotIp,
    Reason::Lifeline,
    Reason::Denied,
    Reason::Limit0,
];

#[test]
fn what_arrives_where_policies_have_ports() {
    check(
        Direction::Ingress,
        Policies { wildcard: false },
        &[&PARSED[..], &[Reason::NoPolicy]].concat(),
    );
}

#[test]
fn what_arrives_where_one_is_about_all() {
    check(
        Direction::Ingress,
        Policies { wildcard: true },
        &[&PARSED[..], &[Reason::Allowed]].concat(),
    );
}

#[test]
fn what_leaves_where_policies_have_ports() {
    let reasons = [
        Reason::NotIp,
        Reason::NoPolicy,
        Reason::EgressAllowed,
        Reason::EgressDenied,
    ];
    check(Direction::Egress, Policies { wildcard: false }, &reasons);
}

#[test]
fn what_leaves_where_one_is_about_all() {
    check(
        Direction::Egress,
        Policies { wildcard: true },
        &[Reason::NotIp, Reason::EgressAllowed, Reason::EgressDenied],
    );
}
