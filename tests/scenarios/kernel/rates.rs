//! What comes through over ten seconds, at half to a hundred times the rate: within one percent. (A sliding
//! window rounds against the source: within two.)

use std::net::IpAddr;

use crate::{
    packets::{FAMILIES, udp_of},
    rig::{Rig, SECOND, START, document},
};

const PACKETS_PER_SECOND: u64 = 50;
const SECONDS: u64 = 10;
const FRAME: u64 = 100;

/// Twice what arrives in a second, of [`PACKETS_PER_SECOND`].
const TWICE_OFFERED: [u64; 4] = [1, 2, 4, 200];

/// Packets that pass when they arrive evenly.
fn passing(rig: &mut Rig, source: IpAddr, twice_offered: u64) -> u64 {
    let frame = udp_of(source, 53, FRAME as usize);
    let interval_ns = 2 * SECOND / (PACKETS_PER_SECOND * twice_offered);
    let packets = SECONDS * SECOND / interval_ns;
    let mut passing = 0;
    for number in 0..packets {
        rig.at(START + number * interval_ns);
        passing += u64::from(rig.passes(&frame));
    }
    passing
}

fn check(algorithm: &str, burst: bool, percent: u64) {
    let bytes = PACKETS_PER_SECOND * FRAME;
    let rows = [
        (format!("count: packets, rate: {PACKETS_PER_SECOND}/s"), 1),
        (format!("count: bytes, rate: {bytes}B/s"), FRAME),
    ];
    for ((limit, unit), (client, _)) in rows.iter().flat_map(|row| FAMILIES.map(|family| (row, family))) {
        for twice_offered in TWICE_OFFERED {
            let burst = if burst {
                format!(", burst: {}", 2 * unit)
            } else {
                String::new()
            };
            let limit = format!("  limits: [{{per: source, algorithm: {algorithm}, {limit}{burst}}}]");
            let Some(mut rig) = Rig::new(&document("p", "enforce", &limit)) else {
                return;
            };
            let passed = passing(&mut rig, client, twice_offered);
            let expected = SECONDS * PACKETS_PER_SECOND * twice_offered.min(2) / 2;
            assert!(
                passed.abs_diff(expected) * 100 <= expected * percent,
                "{client} at {twice_offered}/2 of {limit}: {passed} passed, {expected} were to"
            );
        }
    }
}

#[test]
fn token_bucket() {
    check("token-bucket", true, 1);
}

#[test]
fn fixed_window() {
    check("fixed-window", false, 1);
}

#[test]
fn sliding_window() {
    check("sliding-window", false, 2);
}
