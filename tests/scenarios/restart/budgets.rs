//! Budgets of verified identities, which outlive an agent too.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use enforcer_dataplane::{Config, Kernel, Staying, XdpChoice};
use enforcer_model::flow::{Flow, Identity};
use lab::{bpffs::Bpffs, privilege::root_or_skip, topology::Neighbour};

use crate::bench::{ONE_AT_A_TIME, only_folder};

/// Nobody gets a full budget by outliving an agent, and nobody gets another's.
#[test]
fn a_verified_identity_finds_its_budget_as_spent_as_it_was() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    const SPENT: u64 = 4_711;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let bpffs = Bpffs::mount()?;
    let (web, shop) = (
        Identity::Certificate("web".into()),
        Identity::Certificate("shop".into()),
    );
    let flow = |port| Flow {
        peer: SocketAddr::new(Neighbour::Client.ipv4(), port),
        local: SocketAddr::new(Neighbour::Client.node_ipv4(), 443),
    };
    let kernel = load(&bpffs)?;
    kernel.flows.enter(flow(1), &web)?;
    let index = (0..)
        .zip(pinned_words(&bpffs, "HOLDERS")?.iter())
        .find_map(|(index, holder)| holder.is_ok_and(|holder| holder != 0).then_some(index))
        .context("nobody holds a budget")?;
    pinned_words(&bpffs, "BUDGETS")?.set(index, SPENT, 0)?;
    drop(kernel);

    let kernel = load(&bpffs)?;
    assert_eq!(kernel.standing.fresh, None);
    assert_eq!(kernel.flows.count(), (0, 0), "its connections are closed");
    kernel.flows.enter(flow(2), &shop)?;
    kernel.flows.enter(flow(3), &web)?;
    assert_eq!(pinned_words(&bpffs, "BUDGETS")?.get(&index, 0)?, SPENT);
    let holders = pinned_words(&bpffs, "HOLDERS")?;
    let held = holders
        .iter()
        .filter(|holder| holder.as_ref().is_ok_and(|holder| *holder != 0));
    assert_eq!(held.count(), 2);
    Ok(())
}

/// Sources that were verified recently are remembered over a restart, with shares as spent as they were.
#[test]
fn a_source_that_was_verified_keeps_its_share() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    const SPENT: u64 = 4_712;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let bpffs = Bpffs::mount()?;
    let sources = [Neighbour::Client.ipv4(), Neighbour::Client.ipv6()];
    let kernel = load(&bpffs)?;
    for (source, seen_ns) in sources.into_iter().zip([1_000_000_000, 2_000_000_000]) {
        kernel.recents.saw(source, seen_ns)?;
    }
    // Places are given in order.
    pinned_words(&bpffs, "RESERVES")?.set(0, SPENT, 0)?;
    drop(kernel);

    let kernel = load(&bpffs)?;
    assert_eq!(kernel.standing.fresh, None);
    assert_eq!(kernel.recents.count(), 2);
    let seen = sources.map(|source| kernel.recents.seen_ns(source));
    assert_eq!(seen, [Some(1_000_000_000), Some(2_000_000_000)]);
    kernel.recents.saw(sources[0], 9_000_000_000)?;
    kernel.recents.saw(Neighbour::Attacker.ipv4(), 9_000_000_000)?;
    let reserves = pinned_words(&bpffs, "RESERVES")?;
    assert_eq!((reserves.get(&0, 0)?, reserves.get(&2, 0)?), (SPENT, 0));
    Ok(())
}

fn load(bpffs: &Bpffs) -> Result<Kernel> {
    let config = Config {
        xdp: XdpChoice::Auto,
        management: Vec::new(),
        sketch_bytes: 1 << 16,
        max_flows: 16,
    };
    let staying = Staying {
        pins: Some(bpffs.pins()),
        dead_man: None,
        keeps_denials: true,
        keeps_cookies: false,
    };
    let mut kernel = Kernel::load(&config, &staying)?;
    kernel.generations.apply(&Arc::default(), &kernel.counters)?;
    Ok(kernel)
}

fn pinned_words(bpffs: &Bpffs, map: &str) -> Result<Array<MapData, u64>> {
    let path = only_folder(&bpffs.pins())?.join(map);
    Ok(Array::try_from(Map::Array(MapData::from_pin(path)?))?)
}
