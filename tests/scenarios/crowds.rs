//! What a crowd does to those who conform: a million sources of which a thousand are heavy, and a verified
//! client among four million forged addresses. Packets are handed to the programs by `BPF_PROG_TEST_RUN`, with the
//! agent's default memory, at a time that the test says.
#![expect(clippy::unwrap_used, reason = "the scenarios fail where something is missing")]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use enforcer_common::{
    limiter::{Algorithm, FRESH, Params},
    verdict::{Direction, Verdict},
};
use enforcer_dataplane::{Config, Offline, XdpChoice};
use enforcer_model::flow::{Flow, Identity};
use lab::{
    frame::layers::{carried, packet, tcp, udp},
    privilege::root_or_skip,
};
use time::OffsetDateTime;

const INTERFACE: &str = "crowd0";
const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000_000 * SECOND;
const NODE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const NODE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 9));
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One at a time: each counts the memory of its process's maps.
static TURN: Mutex<()> = Mutex::new(());

/// The programs with the agent's defaults under one policy. `None`: the machine does not allow it.
fn programs(spec: &str) -> Option<(MutexGuard<'static, ()>, Offline)> {
    if !root_or_skip() {
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config {
        xdp: XdpChoice::Auto,
        management: Vec::new(),
        sketch_bytes: 4 << 20,
        max_flows: 65_536,
    };
    let mut offline = Offline::load(&config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let text = format!(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: crowd}}\nspec:\n  interfaces: [{INTERFACE}]\n{spec}\n"
    );
    std::fs::write(&file, text).unwrap();
    let set = enforcer_policy::load(&[file])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .set;
    offline
        .apply(&Arc::new(set), INTERFACE, OffsetDateTime::now_utc(), START)
        .unwrap();
    Some((turn, offline))
}

fn passes(offline: &mut Offline, frame: &[u8]) -> bool {
    offline.run(Direction::Ingress, frame).unwrap() == Verdict::Pass
}

/// A datagram from each source in turn: the frame is made once, and only its source is written anew.
struct Datagrams {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Datagrams {
    fn new() -> Self {
        let datagram = |source, node| carried(&packet(source, node, UDP, &udp(40_000, 53, 8, 0)));
        Self {
            v4: datagram(IpAddr::V4(Ipv4Addr::UNSPECIFIED), NODE_V4),
            v6: datagram(IpAddr::V6(Ipv6Addr::UNSPECIFIED), NODE_V6),
        }
    }

    /// From source `number`, below 2^24: every second is an IPv6 /64 of its own.
    fn from(&mut self, number: u32) -> &[u8] {
        // Odd, so that no two are the same, and neighbours are far apart.
        let spread = number.wrapping_mul(0x9e_3779) & 0xff_ffff;
        if number.is_multiple_of(2) {
            let source = Ipv4Addr::from(10 << 24 | spread);
            self.v4[26..30].copy_from_slice(&source.octets());
            &self.v4
        } else {
            let [_, high, middle, low] = spread.to_be_bytes();
            let source = [
                0x20, 0x01, 0x0d, 0xb8, 0x10, high, middle, low, 0, 0, 0, 0, 0, 0, 0, 1,
            ];
            self.v6[22..38].copy_from_slice(&source);
            &self.v6
        }
    }
}

const SOURCES: u32 = 1_000_000;
/// One in so many is heavy.
const HEAVY: u32 = 1_000;
/// Per second and at once, of each source.
const RATE: u64 = 10;
/// Tenths of a second that pass.
const STEPS: u64 = 100;

#[test]
fn of_a_million_sources_the_thousand_heavy_are_held_and_hardly_any_other() {
    let spec = format!("  limits: [{{per: source, rate: {RATE}/s, burst: {RATE}}}]");
    let Some((_turn, mut offline)) = programs(&spec) else {
        return;
    };
    let exact = Params::new(Algorithm::TokenBucket, RATE, SECOND, RATE).unwrap();
    let (mut state, mut right) = (FRESH, 0_u64);
    let mut datagrams = Datagrams::new();
    let mut admitted = vec![0_u64; (SOURCES / HEAVY) as usize];
    let mut limited = HashSet::new();
    for step in 0..STEPS {
        let now_ns = START + step * SECOND / 10;
        offline.set_time(now_ns).unwrap();
        // Ten times the rate, among two packets in ten seconds of each of the others.
        for round in 0..10 {
            if let Some(next) = exact.admit(state, now_ns, 1) {
                (state, right) = (next, right + 1);
            }
            for number in 0..SOURCES {
                if number.is_multiple_of(HEAVY) {
                    let passed = passes(&mut offline, datagrams.from(number));
                    admitted[(number / HEAVY) as usize] += u64::from(passed);
                } else if (u64::from(number) + step * 10 + round).is_multiple_of(500)
                    && !passes(&mut offline, datagrams.from(number))
                {
                    limited.insert(number);
                }
            }
        }
    }
    // Nobody has more than 2 % too much. Who shares all cells with another, heavy or not, may have less.
    let within = admitted
        .iter()
        .filter(|passed| *passed * 100 >= right * 98)
        .count();
    let most = admitted.iter().max().unwrap();
    println!(
        "{SOURCES} sources, {} heavy at ten times the rate: {most} packets of one passed at most, by the exact limiter {right}, and of {within} no more than 2 % less; {} of the others were limited ever",
        admitted.len(),
        limited.len(),
    );
    assert!(right >= RATE * STEPS / 10);
    assert!(*most * 100 <= right * 102);
    assert!(within * 100 >= admitted.len() * 99);
    assert!(limited.len() < (SOURCES / 1_000) as usize);
}

/// Milliseconds that pass, and what comes in each.
const MILLISECONDS: u64 = 4_000;
const FORGED_EACH: u32 = 1_000;

/// Bytes that the maps of this process take.
fn maps_bytes() -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // The folder's own descriptor is gone when it is read.
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        if text.contains("map_id:") {
            let bytes = text
                .lines()
                .find_map(|line| line.strip_prefix("memlock:"))
                .unwrap();
            total += bytes.trim().parse::<u64>().unwrap();
        }
    }
    total
}

#[test]
fn a_verified_client_has_its_whole_budget_among_four_million_forged_sources() {
    let spec = "  limits: [{per: source, rate: 20/s}, {per: service, rate: 1000/s}]\n  verified: {rate: 1000/s, burst: 10, recent: off}";
    for (client, node) in [
        (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), NODE_V4),
        (
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 1)),
            NODE_V6,
        ),
    ] {
        let Some((_turn, mut offline)) = programs(spec) else {
            return;
        };
        let flow = Flow {
            peer: SocketAddr::new(client, 50_000),
            local: SocketAddr::new(node, 53),
        };
        let identity = Identity::Certificate("spiffe://crowd.example/client".into());
        offline.flows.enter(flow, &identity).unwrap();
        let segment = |port, flags| carried(&packet(client, node, TCP, &tcp(port, 53, 5, flags)));
        let (verified, syn, own) = (
            segment(50_000, 0x10),
            segment(50_000, 0x02),
            segment(50_001, 0x10),
        );
        let mut datagrams = Datagrams::new();
        let before = maps_bytes();
        let (mut passed, mut forged_passed, mut number) = (0_u64, 0_u64, 0_u32);
        for millisecond in 0..MILLISECONDS {
            offline.set_time(START + millisecond * SECOND / 1_000).unwrap();
            for packet in 0..FORGED_EACH {
                // One in ten with the client's own address; of those every other a SYN of its own connection.
                let frame = match packet % 20 {
                    0 => &syn,
                    10 => &own,
                    _ => datagrams.from(number),
                };
                forged_passed += u64::from(offline.run(Direction::Ingress, frame).unwrap() == Verdict::Pass);
                number = (number + 1) % (1 << 24);
            }
            passed += u64::from(passes(&mut offline, &verified));
        }
        let grown = maps_bytes() - before;
        println!(
            "{client}: {passed} of {MILLISECONDS} verified packets passed at the whole budget among {number} forged, of which {forged_passed} passed; maps of {before} bytes grew by {grown}"
        );
        assert_eq!(passed, MILLISECONDS);
        assert_eq!(grown, 0);
        // What all strangers may: a second's worth at once, and the rate.
        assert!(forged_passed <= 1_000 * (MILLISECONDS / 1_000 + 1));
    }
}
