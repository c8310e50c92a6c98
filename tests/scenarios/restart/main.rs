//! Staying up: what a restart, an upgrade, a crash and a change of layout mean for packets under way.

mod bench;
mod budgets;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use enforcer_common::layout::{Interface, SEATS, Seat};
use lab::{agent::Signal, privilege::root_or_skip, residue, topology::Neighbour};

use crate::bench::{
    Bench, EAGER_BURST, PATIENCE, STEADY_PORT, assert_kept, assert_limited_throughout, assert_nothing_lost,
    gone, only_folder, over_limit, wait_until,
};

#[test]
fn a_restart_an_upgrade_and_a_crash_lose_no_packet_and_no_state() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let before = residue::find("enf-")?;
    let mut bench = Bench::start("sketchMemory: 1MiB")?;
    assert_eq!(bench.kernel_status()?["state"], "fresh");
    let deny = bench.agent()?.command(&[
        "deny",
        "192.0.2.9",
        "--for",
        "10m",
        "--reason",
        "ticket 4711",
        "--runtime-dir",
        "run",
    ])?;
    ensure!(deny.status.success(), "{deny:?}");
    let (steady, eager) = (bench.steady()?, bench.eager()?);
    let counted = bench
        .agent()?
        .wait_for("packets over the limit", |metrics| over_limit(metrics) > 500.0)?;

    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;
    // Counters go on too.
    assert!(over_limit(&bench.agent()?.metrics()?) > over_limit(&counted));

    let next = bench.workspace.path().join("enforcer-next");
    std::fs::copy(&bench.binary, &next)?;
    bench.binary = next;
    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;

    bench.replace_agent(Signal::Kill)?;
    assert_kept(&bench)?;
    let ended = bench.agent()?.metrics()?;
    bench.agent()?.wait_for("limits that go on", |metrics| {
        over_limit(metrics) > over_limit(&ended) + 500.0
    })?;

    let (steady, eager) = (steady.finish()?, eager.finish()?);
    println!("steady {steady:?}\neager {eager:?}");
    assert_nothing_lost(&steady);
    assert_limited_throughout(&eager);
    assert_eq!(gone(&bench.agent()?.metrics()?), 0.0);
    assert_denial_is_known(&bench)?;

    // While an agent runs, nobody takes its programs away.
    let refused = bench.detach()?;
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another agent uses the pins"),
        "{refused:?}"
    );
    bench.stop(Signal::Terminate)?;
    assert!(bench.bpffs.pinned()?.len() > 10);
    let detached = bench.detach()?;
    ensure!(detached.status.success(), "{detached:?}");
    assert_eq!(bench.bpffs.pinned()?, Vec::<String>::new());
    let flow = bench.steady()?;
    wait_until("packets after `detach`", || Ok(flow.arrived() > 2_000))?;
    assert_nothing_lost(&flow.finish()?);
    let prefix = bench.lab.prefix().to_owned();
    drop(bench);
    residue::wait_for_none(&prefix, &before, PATIENCE)
}

/// A denial of an agent before, with its reason; and it can be taken back.
fn assert_denial_is_known(bench: &Bench) -> Result<()> {
    let agent = bench.agent()?;
    let denials: serde_json::Value = serde_json::from_slice(&agent.get("/v1/denials")?.body)?;
    assert_eq!(denials[0]["prefix"], "192.0.2.9/32", "{denials}");
    assert_eq!(denials[0]["reason"], "ticket 4711", "{denials}");
    assert_eq!(denials[0]["kind"], "denied-by-operator", "{denials}");
    let allow = agent.command(&["allow", "192.0.2.9", "--runtime-dir", "run"])?;
    ensure!(allow.status.success(), "{allow:?}");
    assert_eq!(agent.get("/v1/denials")?.body, "[]");
    Ok(())
}

#[test]
fn another_layout_begins_anew_without_losing_a_packet_and_says_so() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut bench = Bench::start("sketchMemory: 64KiB")?;
    let steady = bench.steady()?;

    bench.stop(Signal::Terminate)?;
    bench.configure("sketchMemory: 128KiB")?;
    bench.run_agent()?;
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "fresh");
    let why = status["stateWhy"].as_str().unwrap_or_default().to_owned();
    assert!(
        why.contains("SKETCH") && why.contains("1024 entries") && why.contains("2048 entries"),
        "{why}"
    );
    let text = bench.agent()?.command(&["status"])?;
    assert!(
        String::from_utf8_lossy(&text.stdout).contains("state begun fresh (map SKETCH"),
        "{text:?}"
    );

    // As if the agent before had another version of the layout.
    bench.stop(Signal::Terminate)?;
    let version = only_folder(&bench.bpffs.pins())?;
    std::fs::rename(&version, bench.bpffs.pins().join("v0"))?;
    bench.run_agent()?;
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "fresh");
    assert!(
        status["stateWhy"]
            .as_str()
            .is_some_and(|why| why.contains("another version is pinned")),
        "{status}"
    );
    assert_eq!(only_folder(&bench.bpffs.pins())?, version);

    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;
    let outcome = steady.finish()?;
    println!("steady {outcome:?}");
    assert_nothing_lost(&outcome);
    Ok(())
}

#[test]
fn limits_lapse_when_the_agent_is_gone_and_return_with_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut bench = Bench::start("sketchMemory: 1MiB, deadMan: 2s")?;
    let eager = bench.eager()?;
    let denied = bench.flow(Neighbour::UpstreamA, STEADY_PORT, 100)?;
    bench
        .agent()?
        .wait_for("packets over the limit", |metrics| over_limit(metrics) > 500.0)?;
    assert_eq!(gone(&bench.agent()?.metrics()?), 0.0);

    let killed = Instant::now();
    bench.stop(Signal::Kill)?;
    let arrived = eager.arrived();
    // More than the limit would let through in all the time that this waits.
    wait_until("limits lapse", || Ok(eager.arrived() > arrived + EAGER_BURST))?;
    assert!(
        killed.elapsed() > Duration::from_millis(1_500),
        "not before the configured time: {:?}",
        killed.elapsed()
    );

    bench.run_agent()?;
    let back = bench.agent()?.metrics()?;
    assert!(gone(&back) > 0.0);
    let limited = bench.agent()?.wait_for("limits return", |metrics| {
        over_limit(metrics) > over_limit(&back) + 1_000.0
    })?;
    // All that is limited now was counted as lapsed before, and no more than a start takes came to it.
    let later = bench.agent()?.wait_for("limits stay", |metrics| {
        over_limit(metrics) > over_limit(&limited)
    })?;
    assert_eq!(gone(&later), gone(&limited));
    println!("agent-gone {}, over limit {}", gone(&later), over_limit(&later));

    // A policy's deny list holds throughout.
    assert_eq!(denied.finish()?.arrived, 0);
    eager.finish()?;
    Ok(())
}

#[test]
fn a_stop_that_is_to_detach_leaves_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let before = residue::find("enf-")?;
    let mut bench = Bench::start("sketchMemory: 64KiB, onStop: detach")?;
    assert!(bench.bpffs.pinned()?.len() > 10);
    bench.stop(Signal::Terminate)?;
    assert_eq!(bench.bpffs.pinned()?, Vec::<String>::new());
    let prefix = bench.lab.prefix().to_owned();
    drop(bench);
    residue::wait_for_none(&prefix, &before, PATIENCE)
}

/// What a kill between the two system calls that let go of an interface leaves, when another had come within a switch: a seat
/// in the slot that is not in force, and no entry behind it.
#[test]
fn faults_8_a_seat_in_the_other_slot_without_an_entry_does_not_hinder_the_next_start() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut bench = Bench::start("sketchMemory: 1MiB")?;
    bench.stop(Signal::Kill)?;
    let folder = only_folder(&bench.bpffs.pins())?;
    let pinned = |name: &str| MapData::from_pin(folder.join(name));
    let mut interfaces: HashMap<_, u32, Interface> = Map::HashMap(pinned("INTERFACES")?).try_into()?;
    let mut seats: Array<_, Seat> = Map::Array(pinned("SEATS")?).try_into()?;
    let mut indices = interfaces.keys().collect::<Result<Vec<u32>, _>>()?;
    ensure!(indices.len() == 3, "{indices:?}");
    let index = indices.remove(1);
    let place = index & (SEATS - 1);
    let mut seat = seats.get(&place, 0)?;
    ensure!(seat.index == index, "{seat:?}");
    let bank = &mut seat.banks[usize::from(seat.select & 1 == 1)];
    bank.slot = 1 - bank.slot;
    seats.set(place, seat, 0)?;
    interfaces.remove(&index)?;

    bench.run_agent()?;
    assert_kept(&bench)?;
    bench.agent()?.wait_for("all interfaces", |metrics| {
        metrics.sum("enforcer_interface_attached", &[]) == 3.0
    })?;
    let entries = interfaces.keys().collect::<Result<Vec<u32>, _>>()?;
    ensure!(entries.len() == 3, "{entries:?}");
    Ok(())
}
