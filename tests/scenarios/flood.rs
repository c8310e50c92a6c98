//! The flood generator sends what it says, with correct checksums, from as many sources as it says.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use anyhow::Result;
use lab::{
    flood::{Flood, Sent},
    frame::{ETHERNET, IPV4, IPV6, Payload, checksum, pseudo_sum, sum},
    interface::{self, Received},
    kernel::Program,
    privilege::root_or_skip,
    topology::{Lab, NEIGHBOUR_INTERFACE, Neighbour},
};

const PACKETS: u64 = 4_200_000;
const FOUR_MILLION: NonZeroU32 = NonZeroU32::MIN.saturating_add(3_999_999);

fn flood(sources: NonZeroU32, packets: u64, payload: Payload) -> Flood {
    Flood {
        interface: NEIGHBOUR_INTERFACE.to_owned(),
        link: Neighbour::Attacker.link(),
        first_source: IpAddr::from([100, 64, 0, 0]),
        sources,
        source_ports: (1024, NonZeroU16::MIN.saturating_add(999)),
        target: SocketAddr::new(Neighbour::Attacker.node_ipv4(), 9),
        payload,
        packets,
        duration: Duration::from_secs(10),
        rate: None,
        first: false,
        processor: None,
    }
}

struct Outcome {
    sent: Sent,
    /// By the node's interface.
    received: Received,
    /// By the sink.
    counted: u64,
    counted_ipv4: u64,
    sources: u64,
}

fn send_into_sink(flood: Flood) -> Result<Outcome> {
    let lab = Lab::create()?;
    let interface = Neighbour::Attacker.node_interface();
    // A neighbour may announce itself meanwhile: the interface counts from before the sink does, and longer.
    let before = interface::received(lab.node(), interface)?;
    let sink = Program::Sink.attach(lab.node(), interface)?;
    let sent = flood.start(lab.neighbour(Neighbour::Attacker))?.wait()?;
    let (counted, counted_ipv4, sources) = (sink.packets()?, sink.ipv4_packets()?, sink.sources()?);
    let received = interface::received(lab.node(), interface)?.since(before);
    Ok(Outcome {
        sent,
        received,
        counted,
        counted_ipv4,
        sources,
    })
}

impl Outcome {
    /// Only the flood is IPv4; IPv6 neighbours also announce themselves.
    fn assert_complete(&self) {
        assert_eq!(self.sent.packets, PACKETS);
        assert_eq!(self.sent.packets, self.counted_ipv4 + self.received.lost);
        assert!(
            self.counted <= self.received.packets,
            "{} of {:?}",
            self.counted,
            self.received
        );
    }
}

#[test]
fn every_packet_from_one_source_is_accounted_for() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let outcome = send_into_sink(flood(NonZeroU32::MIN, PACKETS, Payload::Udp { bytes: 18 }))?;
    outcome.assert_complete();
    assert_eq!(outcome.sources, 1);
    Ok(())
}

#[test]
fn every_packet_from_four_million_sources_is_accounted_for() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let outcome = send_into_sink(flood(FOUR_MILLION, PACKETS, Payload::TcpSyn))?;
    outcome.assert_complete();
    // A source all of whose packets were lost was not seen.
    let sources = outcome.sources;
    assert!(
        sources <= 4_000_000 && sources + outcome.received.lost >= 4_000_000,
        "{sources} sources"
    );
    Ok(())
}

#[test]
fn an_ipv6_flood_arrives() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let flood = Flood {
        first_source: "fd00:dead::1".parse()?,
        target: SocketAddr::new(Neighbour::Attacker.node_ipv6(), 9),
        ..flood(FOUR_MILLION, 10_000, Payload::TcpSyn)
    };
    let outcome = send_into_sink(flood)?;
    let counted = outcome.counted + outcome.received.lost;
    assert_eq!(outcome.counted_ipv4, 0);
    // The rest is what neighbours say by themselves when a link comes up.
    assert!((10_000..10_100).contains(&counted), "{counted}");
    Ok(())
}

#[test]
fn a_throttled_flood_keeps_its_rate_and_stops_at_its_time() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let flood = Flood {
        rate: NonZeroU32::new(50_000),
        duration: Duration::from_millis(500),
        ..flood(FOUR_MILLION, u64::MAX, Payload::Udp { bytes: 18 })
    };
    let sent = send_into_sink(flood)?.sent;
    // The last tick is sent whole; a busy machine may make the flood late, never early.
    assert!(sent.packets > 0 && sent.packets <= 26_000, "{sent:?}");
    assert!(sent.elapsed >= Duration::from_millis(500), "{sent:?}");
    Ok(())
}

#[test]
fn a_flood_can_be_stopped() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let lab = Lab::create()?;
    let _sink = Program::Sink.attach(lab.node(), Neighbour::Attacker.node_interface())?;
    let flood = Flood {
        rate: NonZeroU32::new(1000),
        ..flood(NonZeroU32::MIN, u64::MAX, Payload::TcpAck)
    };
    let sent = flood.start(lab.neighbour(Neighbour::Attacker))?.stop()?;
    assert!(sent.elapsed < Duration::from_secs(5), "{sent:?}");
    Ok(())
}

/// What the program writes is a correct packet, from the next source and port each time.
#[test]
fn every_written_frame_has_correct_checksums() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let payloads = [
        Payload::Udp { bytes: 18 },
        Payload::TcpSyn,
        Payload::TcpAck,
        Payload::Icmp { bytes: 40 },
    ];
    // The sources cross a carry, and there are fewer of them than packets.
    let ends: [(IpAddr, SocketAddr); 2] = [
        ("100.64.255.254".parse()?, "10.203.2.1:8443".parse()?),
        ("fd00:dead:ffff:fffe::1".parse()?, "[fd00:203:2::1]:8443".parse()?),
    ];
    for (payload, (first_source, target)) in payloads.into_iter().flat_map(|p| ends.map(|e| (p, e))) {
        let flood = Flood {
            first_source,
            target,
            source_ports: (65_000, NonZeroU16::MIN.saturating_add(1)),
            ..flood(NonZeroU32::MIN.saturating_add(2), 4, payload)
        };
        let frames = flood.preview(4)?;
        let sources: Vec<IpAddr> = frames.iter().map(|frame| check(frame, payload)).collect();
        let what = format!("{payload:?} to {target}");
        assert_eq!(sources[0], first_source, "{what}");
        assert_eq!(sources[3], first_source, "{what}");
        assert!(
            sources[0] != sources[1] && sources[1] != sources[2],
            "{what}: {sources:?}"
        );
        if !matches!(payload, Payload::Icmp { .. }) {
            let at = ETHERNET + if target.is_ipv4() { IPV4 } else { IPV6 };
            let ports = frames
                .iter()
                .map(|frame| u16::from_be_bytes([frame[at], frame[at + 1]]));
            assert_eq!(
                ports.collect::<Vec<_>>(),
                [65_000, 65_001, 65_000, 65_001],
                "{what}"
            );
        }
    }
    Ok(())
}

/// Checks the lengths and sums of a frame; gives its source.
fn check(frame: &[u8], payload: Payload) -> IpAddr {
    let packet = &frame[ETHERNET..];
    let ipv4 = packet[0] >> 4 == 4;
    let (source, target, segment) = if ipv4 {
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert_eq!(checksum(sum(&packet[..IPV4])), 0, "IPv4 header of {payload:?}");
        let address = |at: usize| IpAddr::from(packet[at..at + 4].first_chunk().copied().unwrap_or([0; 4]));
        (address(12), address(16), &packet[IPV4..length])
    } else {
        let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        let address = |at: usize| IpAddr::from(packet[at..at + 16].first_chunk().copied().unwrap_or([0; 16]));
        (address(8), address(24), &packet[IPV6..IPV6 + length])
    };
    let pseudo = match payload {
        Payload::Icmp { .. } if ipv4 => 0,
        _ => pseudo_sum(source, target, payload.protocol(ipv4), segment.len() as u16),
    };
    assert_eq!(checksum(sum(segment) + pseudo), 0, "{payload:?} from {source}");
    source
}
