//! What comes through over ten seconds, at half to a hundred times the rate: within one percent of what the
//! exact algorithm admits, of packets, bytes and connections.
//!
//! The exact algorithms are written here a second time, with whole numbers that round nothing. A sliding window
//! is compared with itself, not with its rate: at an even pace of exactly the rate its own rule refuses a few
//! packets in each window, for what is left of the previous one's use and the cost itself add up to more.

use std::net::IpAddr;

use crate::{
    packets::{FAMILIES, SYN, tcp_from, udp_of},
    rig::{Rig, SECOND, START, document},
};

const PER_SECOND: u64 = 20;
const SECONDS: u64 = 10;
const FRAME: u64 = 1_000;

/// Twice what arrives in a second, of [`PER_SECOND`].
const TWICE_OFFERED: [u64; 4] = [1, 2, 4, 200];

/// An algorithm without rounding.
enum Exact {
    /// What is there, in units of cost times ns in a second.
    Bucket { filled: u128, burst: u128, at_ns: u64 },
    /// The previous window's use if it counts, and this one's.
    Windows {
        sliding: bool,
        number: u64,
        used: [u128; 2],
    },
}

impl Exact {
    fn new(algorithm: &str, burst: u64) -> Self {
        let burst = u128::from(burst) * u128::from(SECOND);
        match algorithm {
            "fixed-window" | "sliding-window" => Self::Windows {
                sliding: algorithm == "sliding-window",
                number: 0,
                used: [0, 0],
            },
            _ => Self::Bucket {
                filled: burst,
                burst,
                at_ns: START,
            },
        }
    }

    /// Whether `cost` is admitted at `now_ns` by a limit of `amount` a second.
    fn admits(&mut self, amount: u64, cost: u64, now_ns: u64) -> bool {
        let second = u128::from(SECOND);
        let (amount, cost) = (u128::from(amount), u128::from(cost));
        match self {
            Self::Bucket { filled, burst, at_ns } => {
                let passed = u128::from(now_ns - std::mem::replace(at_ns, now_ns));
                *filled = (*burst).min(*filled + passed * amount);
                let admits = *filled >= cost * second;
                *filled -= if admits { cost * second } else { 0 };
                admits
            }
            Self::Windows {
                sliding,
                number,
                used,
            } => {
                let now = now_ns / SECOND;
                if now != *number {
                    let previous = if now == *number + 1 { used[1] } else { 0 };
                    (*number, *used) = (now, [previous, 0]);
                }
                let left = u128::from(SECOND - now_ns % SECOND);
                let weighed = if *sliding { used[0] * left } else { 0 };
                let admits = weighed + (used[1] + cost) * second <= amount * second;
                used[1] += if admits { cost } else { 0 };
                admits
            }
        }
    }
}

/// What is counted: as a policy writes it, and the frame and cost of one packet.
struct Counted {
    count: &'static str,
    unit: &'static str,
    frame: fn(IpAddr) -> Vec<u8>,
    cost: u64,
}

const COUNTED: [Counted; 3] = [
    Counted {
        count: "packets",
        unit: "",
        frame: |source| udp_of(source, 53, FRAME as usize),
        cost: 1,
    },
    Counted {
        count: "bytes",
        unit: "B",
        frame: |source| udp_of(source, 53, FRAME as usize),
        cost: FRAME,
    },
    Counted {
        count: "connections",
        unit: "",
        frame: |source| tcp_from(source, 443, SYN),
        cost: 1,
    },
];

fn check(algorithm: &str, has_burst: bool) {
    for (counted, per) in COUNTED
        .iter()
        .flat_map(|row| ["source", "service"].map(|per| (row, per)))
    {
        let Counted {
            count, unit, cost, ..
        } = counted;
        let amount = PER_SECOND * cost;
        let burst = if has_burst {
            format!(", burst: {}", 2 * cost)
        } else {
            String::new()
        };
        let limit = format!(
            "  limits: [{{per: {per}, algorithm: {algorithm}, count: {count}, rate: {amount}{unit}/s{burst}}}]"
        );
        for (client, _) in FAMILIES {
            // A limiter that sources share is the same one, so that its table may be shorter.
            let rows = if per == "source" { 4 } else { 3 };
            for twice_offered in TWICE_OFFERED.into_iter().take(rows) {
                let Some(mut rig) = Rig::new(&document("p", "enforce", &limit)) else {
                    return;
                };
                let frame = (counted.frame)(client);
                let interval_ns = 2 * SECOND / (PER_SECOND * twice_offered);
                let mut exact = Exact::new(algorithm, 2 * cost);
                let (mut passed, mut expected) = (0_u64, 0_u64);
                for number in 0..SECONDS * SECOND / interval_ns {
                    let now_ns = START + number * interval_ns;
                    rig.at(now_ns);
                    passed += u64::from(rig.passes(&frame));
                    expected += u64::from(exact.admits(amount, *cost, now_ns));
                }
                println!(
                    "{algorithm}, {count} per {per}, {client}, {twice_offered}/2 of the rate: {passed} of {expected}"
                );
                assert!(
                    passed.abs_diff(expected) * 100 <= expected,
                    "{client} at {twice_offered}/2 of {limit}: {passed} passed, {expected} were to"
                );
            }
        }
    }
}

#[test]
fn token_bucket() {
    check("token-bucket", true);
}

#[test]
fn leaky_bucket() {
    check("leaky-bucket", true);
}

#[test]
fn fixed_window() {
    check("fixed-window", false);
}

#[test]
fn sliding_window() {
    check("sliding-window", false);
}
