//! After a lab with programs, a flood and services, nothing is left. A target of its own, so that no other
//! lab of this process is under way.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use anyhow::Result;
use lab::{
    flood::Flood,
    frame::Payload,
    kernel::Program,
    netns::PREFIX,
    privilege::root_or_skip,
    resident::Resident,
    residue::{self, Leftover},
    topology::{Lab, NEIGHBOUR_INTERFACE, Neighbour},
    upstream::Upstream,
};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn nothing_is_left() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let before = residue::find(PREFIX)?;
    let lab = Lab::create()?;
    let prefix = lab.prefix().to_owned();
    let upstream = Upstream::start(
        Resident::start(lab.neighbour(Neighbour::UpstreamA), "upstream")?,
        SocketAddr::new(Neighbour::UpstreamA.ipv4(), 8080),
        "a",
    )?;
    let counted = Program::Count.attach(lab.node(), Neighbour::Attacker.node_interface())?;
    let flood = Flood {
        interface: NEIGHBOUR_INTERFACE.to_owned(),
        link: Neighbour::Attacker.link(),
        first_source: IpAddr::from([100, 64, 0, 0]),
        sources: NonZeroU32::MIN.saturating_add(999),
        source_ports: (1024, NonZeroU16::MIN),
        target: SocketAddr::new(Neighbour::Attacker.node_ipv4(), 9),
        payload: Payload::Udp { bytes: 18 },
        packets: 10_000,
        duration: PATIENCE,
        rate: None,
        first: false,
        processor: None,
    };
    flood.start(lab.neighbour(Neighbour::Attacker))?.wait()?;

    // What the check must not overlook.
    let during = residue::find(&prefix)?;
    let namespaces = during
        .iter()
        .filter(|left| matches!(left, Leftover::Namespace(_)))
        .count();
    assert_eq!(namespaces, 5, "{during:?}");
    let program = |left: &Leftover| matches!(left, Leftover::Program { name, .. } if name == "lab_count");
    assert!(during.iter().any(program), "{during:?}");

    drop((upstream, counted, lab));
    residue::wait_for_none(&prefix, &before, PATIENCE)
}
