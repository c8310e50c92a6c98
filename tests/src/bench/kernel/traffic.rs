//! What is sent: frames of 64 bytes, with a UDP datagram of 60 with all headers, or a TCP segment.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use anyhow::{Result, bail};

use super::link::{INTERFACE, NODE, Pair};
use crate::{bench::median, flood::Flood, frame::Payload, interface};

/// The port of the service under attack.
pub(super) const PORT: u16 = 443;
/// Connections that the gateway has verified.
pub(super) const VERIFIED: u16 = 1_000;
/// The first of their peers; the others follow.
pub(super) const FIRST_VERIFIED: Ipv4Addr = Ipv4Addr::new(10, 203, 64, 0);
/// Their peers' port.
pub(super) const VERIFIED_PORT: u16 = 50_000;

/// The first spoofed source: 100.64.0.0/10 has room for all.
const FIRST_SPOOFED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SPOOFED_PORT: u16 = 40_000;
/// UDP bytes that make 60 of a frame.
const UDP_BYTES: usize = 60 - 14 - 20 - 8;
/// The processor that sends; a veth's receiver works on the same one.
const PROCESSOR: usize = 0;
/// Packets of one run: a few milliseconds, so that most runs are not interrupted.
const RUN: u32 = 65_536;
/// A veth loses packets only where its receiver is interrupted.
const LEAST_ARRIVED: f64 = 0.9;

/// Packets and processor time of each run.
type Runs = Vec<(u64, Duration)>;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// So many sources in turn, UDP.
    Sources(u32),
    /// In turn a TCP segment of a verified connection, and UDP of 100,000 spoofed sources.
    Mixed,
}

impl Column {
    pub(super) const ALL: [Self; 5] = [
        Self::Sources(1),
        Self::Sources(1_000),
        Self::Sources(100_000),
        Self::Sources(4_000_000),
        Self::Mixed,
    ];

    /// What tables and files call it.
    pub(super) fn title(self) -> String {
        match self {
            Self::Sources(sources) => sources.to_string(),
            Self::Mixed => "mixed".to_owned(),
        }
    }

    fn sources(self) -> u32 {
        match self {
            Self::Sources(sources) => sources,
            Self::Mixed => 100_000,
        }
    }
}

/// Sends each source's packet at least once.
pub(super) fn fill(pair: &Pair, column: Column) -> Result<()> {
    let packets = u64::from(column.sources()) * 2 + 1_000;
    send(pair, column, packets, Duration::from_secs(50))?;
    Ok(())
}

/// Sends for `each`; packets that the node's side has received and decided about, per second of processor
/// time, sending included.
pub(super) fn rate(pair: &Pair, column: Column, each: Duration) -> Result<f64> {
    let before = interface::received(&pair.node, INTERFACE)?;
    let runs = send(pair, column, u64::MAX, each)?;
    let received = interface::received(&pair.node, INTERFACE)?.since(before).packets;
    let sent: u64 = runs.iter().map(|(packets, _)| packets).sum();
    let arrived = received as f64 / sent as f64;
    if arrived < LEAST_ARRIVED {
        bail!("of {sent} packets sent only {received} arrived: the figures would be worthless");
    }
    let rates: Vec<f64> = runs
        .iter()
        .map(|(packets, time)| *packets as f64 / time.as_secs_f64())
        .collect();
    Ok(median(&rates) * arrived.min(1.0))
}

fn send(pair: &Pair, column: Column, packets: u64, duration: Duration) -> Result<Runs> {
    let spoofed = Flood {
        interface: INTERFACE.to_owned(),
        link: pair.link(),
        first_source: FIRST_SPOOFED.into(),
        sources: NonZeroU32::new(column.sources()).unwrap_or(NonZeroU32::MIN),
        source_ports: (SPOOFED_PORT, NonZeroU16::MIN),
        target: SocketAddr::from((NODE, PORT)),
        payload: Payload::Udp { bytes: UDP_BYTES },
        packets,
        duration,
        rate: None,
        first: false,
        processor: Some(PROCESSOR),
    };
    let verified = Flood {
        first_source: FIRST_VERIFIED.into(),
        sources: NonZeroU32::new(u32::from(VERIFIED)).unwrap_or(NonZeroU32::MIN),
        source_ports: (VERIFIED_PORT, NonZeroU16::MIN),
        payload: Payload::TcpAck,
        ..spoofed.clone()
    };
    let other = (column == Column::Mixed).then_some(&verified);
    spoofed.metered(other, &pair.sender, RUN)
}
