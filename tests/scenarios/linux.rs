//! The packet filter sees what Linux sees: random packets are sent to sockets of the stack, and none arrives that a
//! list denies.
//!
//! `ENFORCER_FULL=1` sends a million, and `ENFORCER_PACKETS=N` sends `N` in all.

use std::env;

use anyhow::{Result, ensure};
use lab::{
    linux::{self, Way},
    privilege::root_or_skip,
};

const SEED: u64 = 20_261_130;
/// Of all ways together.
const PACKETS: u64 = 100_000;
const FULL: u64 = 1_000_000;
/// Kinds of which some must have been stopped that the stack would have delivered: else nothing is shown.
const WRAPPED: [&str; 5] = ["Tagged", "ManyTags", "Extensions", "ManyExtensions", "Fragments"];

/// How many of all packets go one way.
fn share(hundredths: u64) -> Result<u64> {
    let all = match env::var("ENFORCER_PACKETS") {
        Ok(count) => count.parse()?,
        Err(_) if env::var("ENFORCER_FULL").is_ok_and(|full| full == "1") => FULL,
        Err(_) => PACKETS,
    };
    Ok(all * hundredths / 100)
}

fn nothing_denied_arrives(way: Way, hundredths: u64, wrapped: &[&str]) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let outcome = linux::run(way, share(hundredths)?, SEED ^ way as u64, &mut |line| {
        println!("{line}");
    })?;
    println!("{outcome}");
    ensure!(
        outcome.all.stopped * 10 >= outcome.all.denied,
        "too few could have arrived\n{outcome}"
    );
    ensure!(
        outcome.all.delivered * 2 >= outcome.all.deliverable,
        "too much is stopped\n{outcome}"
    );
    for special in wrapped {
        ensure!(
            outcome.stopped(special) > 0,
            "nothing is shown of {special}\n{outcome}"
        );
    }
    Ok(())
}

#[test]
fn h1_nothing_denied_arrives_past_xdp_in_the_driver() -> Result<()> {
    nothing_denied_arrives(Way::Native, 35, &WRAPPED)
}

#[test]
fn h1_nothing_denied_arrives_past_xdp_in_the_stack() -> Result<()> {
    nothing_denied_arrives(Way::Generic, 20, &WRAPPED)
}

#[test]
fn h1_nothing_leaves_for_a_denied_destination() -> Result<()> {
    nothing_denied_arrives(Way::Egress, 20, &WRAPPED)
}

#[test]
fn h1_nothing_leaves_a_pod_for_a_denied_destination() -> Result<()> {
    nothing_denied_arrives(Way::Pod, 15, &WRAPPED)
}

#[test]
fn nothing_denied_arrives_by_a_device_without_ethernet() -> Result<()> {
    nothing_denied_arrives(Way::Tun, 10, &["Extensions", "ManyExtensions", "Fragments"])
}
