//! Recordings of known frames at known times, replayed: what is reported is what the exact algorithm
//! says.
#![expect(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use enforcer::{
    config::SketchMemory,
    replay::{Options, ReplayError, Report, replay},
};
use lab::{
    frame::{Link, Payload, build},
    privilege::root_or_skip,
};

const SECOND: u64 = 1_000_000_000;
/// The first packet's time, in nanoseconds since 1970.
const FIRST: u64 = 1_700_000_000 * SECOND + 123_456_789;
const RATE: u64 = 10;
const BURST: u64 = 5;
const POLICY: &str = "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: edge}
spec:
  interfaces: ['veth*']
  deny: [{cidr: 198.51.100.0/24}, {cidr: 203.0.113.0/24, until: '2023-11-14T22:13:25Z'}]
  limits: [{name: each, per: source, count: packets, algorithm: token-bucket, rate: 10/s, burst: 5}]
";

/// A frame with its time.
#[derive(Clone)]
struct Sent {
    time_ns: u64,
    source: IpAddr,
    frame: Vec<u8>,
}

fn sent(after_ns: u64, source: &str, payload: Payload) -> Sent {
    let source: IpAddr = source.parse().unwrap();
    let to = if source.is_ipv4() {
        "192.0.2.1:443"
    } else {
        "[2001:db8::1]:443"
    };
    let link = Link {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
    };
    let from = SocketAddr::new(source, 4_000);
    let frame = build(link, from, to.parse().unwrap(), payload).unwrap();
    Sent {
        time_ns: FIRST + after_ns,
        source,
        frame,
    }
}

/// Three sources of both families at different rates, for twenty seconds, in order of time.
fn traffic() -> Vec<Sent> {
    let mut all = Vec::new();
    for (source, spacing, payload) in [
        ("192.0.2.7", 7_000_001, Payload::Udp { bytes: 20 }),
        ("192.0.2.8", 249_999_999, Payload::TcpAck),
        ("2001:db8::7", 33_333_337, Payload::TcpSyn),
    ] {
        all.extend((0..20 * SECOND / spacing).map(|number| sent(number * spacing, source, payload)));
    }
    all.sort_by_key(|sent| sent.time_ns);
    all
}

/// How many of a source's packets a token bucket admits, in exact arithmetic: units of tokens by
/// nanoseconds.
fn admitted(traffic: &[Sent], source: IpAddr) -> u64 {
    let token = u128::from(SECOND);
    let (mut level, mut last, mut admitted) = (u128::from(BURST) * token, 0, 0);
    for packet in traffic.iter().filter(|packet| packet.source == source) {
        let gained = u128::from(packet.time_ns - last) * u128::from(RATE);
        level = (level + gained).min(u128::from(BURST) * token);
        last = packet.time_ns;
        if level >= token {
            level -= token;
            admitted += 1;
        }
    }
    admitted
}

/// pcap, with microseconds or nanoseconds, in either byte order; `snap` bytes of each packet are kept.
fn pcap(traffic: &[Sent], nanoseconds: bool, big_endian: bool, snap: usize, link: u32) -> Vec<u8> {
    let word = |word: u32| {
        if big_endian {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        }
    };
    let half = |half: u16| {
        if big_endian {
            half.to_be_bytes()
        } else {
            half.to_le_bytes()
        }
    };
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file = word(magic).to_vec();
    file.extend([half(2), half(4)].concat());
    file.extend([word(0), word(0), word(snap as u32), word(link)].concat());
    for Sent { time_ns, frame, .. } in traffic {
        let part = time_ns % SECOND / if nanoseconds { 1 } else { 1_000 };
        let kept = &frame[..frame.len().min(snap)];
        file.extend([word((time_ns / SECOND) as u32), word(part as u32)].concat());
        file.extend([word(kept.len() as u32), word(frame.len() as u32)].concat());
        file.extend(kept);
    }
    file
}

/// pcapng with nanoseconds; the second interface's clock counts in 2^-30 s, and has the odd packets.
fn pcapng(traffic: &[Sent]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len() + 12) as u32;
        [
            &kind.to_le_bytes()[..],
            &length.to_le_bytes(),
            body,
            &length.to_le_bytes(),
        ]
        .concat()
    };
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut file = block(0x0a0d_0d0a, &[&words(&[0x1a2b_3c4d, 1])[..], &[0xff; 8]].concat());
    for resolution in [9, 0x80 | 30] {
        let options = [9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0];
        file.extend(block(1, &[&words(&[1, 0])[..], &options].concat()));
    }
    for (number, Sent { time_ns, frame, .. }) in traffic.iter().enumerate() {
        let interface = number % 2;
        let ticks = match interface {
            0 => *time_ns,
            _ => (u128::from(*time_ns) << 30).div_ceil(u128::from(SECOND)) as u64,
        };
        let length = frame.len() as u32;
        let head = words(&[
            interface as u32,
            (ticks >> 32) as u32,
            ticks as u32,
            length,
            length,
        ]);
        let mut body = [&head[..], frame].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, &body));
    }
    file
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("policy.yaml", POLICY);
        folder
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn replay(&self, name: &str, content: &[u8]) -> Result<Report, ReplayError> {
        let loaded = enforcer_policy::load(&[self.0.path().join("policy.yaml")]).unwrap();
        let options = Options {
            file: self.write(name, content),
            interface: None,
            local: vec!["2001:db8:2::/48".parse().unwrap()],
            management: Vec::new(),
            sketch: SketchMemory::default(),
        };
        replay(&Arc::new(loaded.set), &options)
    }
}

/// Packets of a policy's reason.
fn count(report: &Report, reason: &str) -> u64 {
    let rows = report.verdicts.iter().filter(|row| row.reason == reason);
    rows.map(|row| row.packets).sum()
}

#[test]
fn both_formats_and_families_come_to_what_the_exact_algorithm_says() {
    if !root_or_skip() {
        return;
    }
    let traffic = traffic();
    let folder = Folder::new();
    let whole = 1 << 16;
    let expected: u64 = ["192.0.2.7", "192.0.2.8", "2001:db8::7"]
        .iter()
        .map(|source| admitted(&traffic, source.parse().unwrap()))
        .sum();
    for (name, content) in [
        ("micro.pcap", pcap(&traffic, false, false, whole, 1)),
        ("nano.pcap", pcap(&traffic, true, false, whole, 1)),
        ("big-endian.pcap", pcap(&traffic, true, true, whole, 1)),
        ("two.pcapng", pcapng(&traffic)),
    ] {
        let report = folder.replay(name, &content).unwrap();
        assert!(report.complete);
        assert_eq!(report.interface, "veth0");
        assert_eq!(report.packets, traffic.len() as u64, "{name}");
        assert_eq!(
            (count(&report, "within-limits"), report.passed),
            (expected, expected),
            "{name}"
        );
        assert_eq!(count(&report, "limit"), traffic.len() as u64 - expected, "{name}");
        let over = report.verdicts.iter().find(|row| row.reason == "limit").unwrap();
        assert_eq!(
            (over.policy.as_deref(), over.limit.as_deref()),
            (Some("edge"), Some("each"))
        );
        assert!(
            (19.9..20.0).contains(&report.recorded_seconds),
            "{name}: {report:?}"
        );
        let first = report.first.as_deref().unwrap();
        assert!(first.starts_with("2023-11-14T22:13:20.123456"), "{name}: {first}");
        let busiest = &report.top_sources[0];
        let packets = traffic
            .iter()
            .filter(|sent| sent.source == busiest.source)
            .count() as u64;
        assert_eq!(busiest.source.to_string(), "192.0.2.7");
        assert_eq!((busiest.packets, busiest.error), (packets, 0));
        assert_eq!(
            report.top_dropped.iter().map(|each| each.packets).sum::<u64>(),
            report.dropped
        );
        assert_eq!(report.skipped, Default::default(), "{name}");
    }
}

#[test]
fn what_is_not_as_it_was_on_the_wire_is_said() {
    if !root_or_skip() {
        return;
    }
    let folder = Folder::new();
    let udp = |after, source, bytes| sent(after, source, Payload::Udp { bytes });
    // Cut to its headers, and longer than a test run takes: neither is taken for malformed.
    let traffic = [
        udp(0, "192.0.2.7", 1_000),
        udp(SECOND, "192.0.2.7", 9_000),
        udp(2 * SECOND, "2001:db8::7", 9_000),
        udp(SECOND, "2001:db8::7", 10),
    ];
    let report = folder
        .replay("cut.pcap", &pcap(&traffic, true, false, 96, 1))
        .unwrap();
    assert_eq!(count(&report, "within-limits"), 4, "{report:?}");
    assert_eq!(report.skipped.cut_by_recorder, 3);
    assert_eq!(report.skipped.shortened, 2);
    assert_eq!(report.skipped.out_of_order, 1);
    assert_eq!(report.bytes, 1_042 + 2 * 3_500 + 72);

    let whole = pcap(&traffic, true, false, 1 << 16, 1);
    let report = folder.replay("ends.pcap", &whole[..whole.len() - 1]).unwrap();
    assert!(!report.complete);
    assert_eq!(report.packets, 3);

    let nothing = Sent {
        frame: vec![1; 14],
        ..traffic[0].clone()
    };
    let report = folder
        .replay("runt.pcap", &pcap(&[nothing], true, false, 96, 1))
        .unwrap();
    assert_eq!((report.packets, report.skipped.too_short), (0, 1));
}

#[test]
fn denials_end_at_their_time_in_the_recording_and_what_leaves_is_told_apart() {
    if !root_or_skip() {
        return;
    }
    let folder = Folder::new();
    // Raw IP: the Ethernet header is put in front.
    let traffic = [
        sent(0, "198.51.100.1", Payload::TcpSyn),
        sent(SECOND, "203.0.113.1", Payload::TcpSyn),
        sent(6 * SECOND, "203.0.113.1", Payload::TcpSyn),
        sent(7 * SECOND, "2001:db8:2::9", Payload::TcpSyn),
    ];
    let raw: Vec<Sent> = traffic
        .iter()
        .map(|each| Sent {
            frame: each.frame[14..].to_vec(),
            ..each.clone()
        })
        .collect();
    for (name, content) in [
        ("ethernet.pcap", pcap(&traffic, true, false, 1 << 16, 1)),
        ("raw.pcap", pcap(&raw, true, false, 1 << 16, 101)),
    ] {
        let report = folder.replay(name, &content).unwrap();
        assert_eq!(count(&report, "denied"), 2, "{name}: {report:?}");
        assert_eq!(count(&report, "within-limits"), 1, "{name}: {report:?}");
        assert_eq!(count(&report, "egress-allowed"), 1, "{name}: {report:?}");
    }
}

#[test]
fn what_is_no_recording_is_refused_with_what_would_be_right() {
    if !root_or_skip() {
        return;
    }
    let folder = Folder::new();
    let wifi = pcap(&traffic(), true, false, 1 << 16, 127);
    for (content, expected) in [
        (
            &b"hello, this is text, and no packets"[..],
            "neither pcap nor pcapng",
        ),
        (&[], "is empty"),
        (&wifi, "link type 127"),
    ] {
        let error = folder.replay("bad.pcap", content).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("bad.pcap"), "{error}");
    }
}

#[test]
fn the_command_prints_a_table_and_json() {
    let Some(agent) = std::env::var_os("ENFORCER_BIN").filter(|_| root_or_skip()) else {
        return;
    };
    let folder = Folder::new();
    let file = folder.write("all.pcap", pcap(&traffic(), true, false, 1 << 16, 1));
    let run = |output: &str| {
        let done = Command::new(&agent)
            .arg("replay")
            .arg(&file)
            .arg("--policy")
            .arg(folder.0.path().join("policy.yaml"))
            .args(["--output", output])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let report: Report = serde_json::from_str(&run("json")).unwrap();
    let text = run("text");
    assert!(
        text.contains("as if on veth0") && text.contains("within-limits"),
        "{text}"
    );
    assert!(text.contains(&report.dropped.to_string()), "{text}");
}
