//! What is dropped is told: with what the packet was, bounded in rate, through the agent to people.
#![expect(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use enforcer::agent::{events::EventLine, explain::Explanation};
use enforcer_common::{
    layout::EVENT_BURST_NS,
    verdict::{Direction, Reason, Verdict},
};
use enforcer_dataplane::{Config, EventRate, Offline, XdpChoice};
use lab::{
    agent::{Agent, binary},
    flood::Flood,
    frame::{Link, Payload, build},
    privilege::root_or_skip,
    topology::{Lab, NEIGHBOUR_INTERFACE, Neighbour},
    workspace::Workspace,
};
use time::OffsetDateTime;

const SECOND: u64 = 1_000_000_000;
const CONFIG: &str =
    "admin: {address: 127.0.0.1:9600}\nruntimeDir: run\npolicies: [policies]\nkernel: {pins: off}\n";

fn document(interface: &str, mode: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: edge}}
spec:
  mode: {mode}
  interfaces: [{interface}]
  deny: [{{cidr: 198.51.100.0/24}}]
  egress: {{deny: [{{cidr: 203.0.113.0/24}}]}}
  limits: [{{name: each, per: source, count: packets, algorithm: token-bucket, rate: 1/h, burst: 1}}]
"
    )
}

fn bench(rate: EventRate, mode: &str) -> Result<Offline> {
    let config = Config {
        xdp: XdpChoice::Auto,
        management: Vec::new(),
        sketch_bytes: 1 << 16,
        max_flows: 1,
    };
    let mut offline = Offline::with_events(&config, rate)?;
    let workspace = Workspace::create()?;
    workspace.write_policy("edge.yaml", &document("eth0", mode))?;
    let set = Arc::new(enforcer_policy::load(&[workspace.path().join("policies")])?.set);
    offline.apply(&set, "eth0", OffsetDateTime::UNIX_EPOCH, SECOND)?;
    offline.set_time(SECOND)?;
    Ok(offline)
}

fn frame(from: &str, to: &str) -> Vec<u8> {
    let link = Link {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
    };
    build(link, from.parse().unwrap(), to.parse().unwrap(), Payload::TcpSyn).unwrap()
}

#[test]
fn events_say_what_the_packet_was() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for (mode, verdict) in [("enforce", Verdict::Drop), ("shadow", Verdict::Shadow)] {
        let mut offline = bench(EventRate::All, mode)?;
        let (v4, v6) = (
            ["192.0.2.7:4000", "192.0.2.1:443"],
            ["[2001:db8::7]:4000", "[2001:db8::1]:443"],
        );
        for [from, to] in [v4, v6] {
            let frame = frame(from, to);
            offline.decide(Direction::Ingress, &frame)?;
            assert_eq!(offline.events.next_event(), None, "it was within its limit");
            offline.decide(Direction::Ingress, &frame)?;
            let event = offline.events.next_event().unwrap();
            assert_eq!(
                (event.time_ns, event.reason, event.verdict, event.direction),
                (SECOND, Reason::Limit0, verdict, Direction::Ingress)
            );
            assert_eq!(
                (event.bytes as usize, event.skipped, event.interface),
                (frame.len(), 0, 1)
            );
            let seen = event.packet.unwrap();
            assert_eq!(SocketAddr::new(seen.source, seen.source_port), from.parse()?);
            assert_eq!(
                SocketAddr::new(seen.destination, seen.destination_port),
                to.parse()?
            );
            assert_eq!((seen.protocol, seen.detail, seen.fragment), (6, 2, false));
        }
        offline.decide(Direction::Ingress, &frame(v4[0], v4[1])[..30])?;
        let event = offline.events.next_event().unwrap();
        assert_eq!((event.reason, event.packet), (Reason::Truncated, None));

        offline.decide(Direction::Egress, &frame("192.0.2.1:443", "203.0.113.9:5000"))?;
        let event = offline.events.next_event().unwrap();
        assert_eq!(
            (event.reason, event.direction, event.verdict),
            (Reason::EgressDenied, Direction::Egress, verdict)
        );
        assert_eq!(
            event.packet.unwrap().destination,
            "203.0.113.9".parse::<IpAddr>()?
        );
        assert_eq!(offline.events.next_event(), None);
    }
    Ok(())
}

#[test]
fn a_flood_has_no_more_events_than_the_rate_allows_and_each_says_how_many_it_stands_for() -> Result<()> {
    const RATE: u32 = 1_000;
    const PACKETS: u64 = 20_000;
    if !root_or_skip() {
        return Ok(());
    }
    // The gate is of one CPU: so must this thread be.
    let Ok(mut offline) = bench(EventRate::PerSecond(RATE), "enforce") else {
        bail!("the programs do not load");
    };
    let denied = frame("198.51.100.7:1", "192.0.2.1:443");
    let (mut events, mut stands_for) = (0_u64, 0);
    for number in 0..PACKETS {
        // Two seconds in all.
        offline.set_time(SECOND + number * 100_000)?;
        offline.decide(Direction::Ingress, &denied)?;
        while let Some(event) = offline.events.next_event() {
            events += 1;
            stands_for += event.skipped + 1;
        }
    }
    let (skipped, lost) = offline.event_counts.skipped_and_lost()?;
    assert_eq!(events + skipped, PACKETS);
    assert_eq!(lost, 0);
    let burst = EVENT_BURST_NS * u64::from(RATE) / SECOND;
    // A scheduler may move this thread: each CPU has its own rate.
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let bound = 2 * u64::from(RATE) + burst + 2;
    assert!(
        (2 * u64::from(RATE)..=bound * cpus).contains(&events),
        "{events} events"
    );
    assert!(
        stands_for <= PACKETS && stands_for + cpus * 20 >= PACKETS,
        "{stands_for}"
    );
    Ok(())
}

#[test]
fn a_ring_that_nobody_reads_loses_and_counts() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut offline = bench(EventRate::All, "enforce")?;
    let denied = frame("198.51.100.7:1", "192.0.2.1:443");
    const PACKETS: u64 = 5_000;
    for _ in 0..PACKETS {
        assert_eq!(offline.run(Direction::Ingress, &denied)?, Verdict::Drop);
    }
    let read = std::iter::from_fn(|| offline.events.next_event()).count() as u64;
    let (_, lost) = offline.event_counts.skipped_and_lost()?;
    assert!(lost > 0 && read > 3_000, "{read} read, {lost} lost");
    assert_eq!(read + lost, PACKETS);
    Ok(())
}

#[test]
fn programs_stay_within_the_verifiers_budget() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for rate in [EventRate::None, EventRate::All, EventRate::PerSecond(1_000)] {
        for (program, instructions) in bench(rate, "enforce")?.verified_instructions()? {
            println!("{rate:?} {program}: {instructions} instructions");
            assert!(instructions < 900_000, "{program}: {instructions} of a million");
        }
    }
    Ok(())
}

#[test]
fn people_see_what_a_running_agent_drops() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let lab = Lab::create()?;
    let workspace = Workspace::create()?;
    workspace.write_config(CONFIG)?;
    let interface = Neighbour::Attacker.node_interface();
    workspace.write_policy("edge.yaml", &document(interface, "enforce"))?;
    let agent = Agent::start(lab.node(), &binary()?, &workspace)?;
    let source = "198.51.100.7";
    let flood = Flood {
        interface: NEIGHBOUR_INTERFACE.to_owned(),
        link: Neighbour::Attacker.link(),
        first_source: source.parse()?,
        sources: NonZeroU32::MIN,
        source_ports: (4_000, NonZeroU16::MIN),
        target: SocketAddr::new(Neighbour::Attacker.node_ipv4(), 443),
        payload: Payload::TcpSyn,
        packets: 20_000,
        duration: Duration::from_secs(5),
        rate: None,
        first: false,
        processor: None,
    };
    flood.start(lab.neighbour(Neighbour::Attacker))?.wait()?;
    let lines = wait_for_events(&agent, source)?;
    assert!(
        lines.iter().all(|line| matches!(line, EventLine::Event(event)
        if event.source == source.parse().ok()
            && event.source_port == Some(4_000)
            && event.destination_port == Some(443)
            && event.interface == interface
            && event.policy.as_deref() == Some("edge")
            && event.reason == "denied"
            && event.verdict == "drop")),
        "{lines:?}"
    );

    let metrics = agent.wait_for("events and what was skipped", |metrics| {
        metrics.sum("enforcer_events_total", &[]) >= lines.len() as f64
    })?;
    let counted = metrics.sum("enforcer_packets_total", &[("reason", "denied")]);
    let told = metrics.sum("enforcer_events_total", &[]) + metrics.sum("enforcer_events_skipped_total", &[]);
    assert!(told >= counted, "{told} told or skipped of {counted} denied");

    let text = String::from_utf8(agent.command(&["events", "--source", source])?.stdout)?;
    assert!(
        text.contains("drop") && text.contains("denied by policy edge"),
        "{text}"
    );
    let answer = agent.get(&format!("/v1/explain?address={source}"))?;
    let explanation: Explanation = serde_json::from_slice(&answer.body)?;
    let last = explanation.last_event.unwrap();
    assert_eq!((last.reason.as_str(), last.protocol), ("denied", Some(6)));
    Ok(())
}

/// Polls until the agent has taken some in: the ring is read a moment after the packets have come.
fn wait_for_events(agent: &Agent, source: &str) -> Result<Vec<EventLine>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = agent.get(&format!("/v1/events?source={source}"))?;
        let lines: Vec<EventLine> = answer
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()?;
        if lines.len() >= 10 {
            return Ok(lines);
        }
        if Instant::now() > deadline {
            bail!("only {} events\n{}", lines.len(), agent.log_tail());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
