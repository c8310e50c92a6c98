//! Answers on the bench: SYNs are handed to the program, beside a real listener in a namespace.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::Result;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_dataplane::{Config, Need, Offline, XdpChoice};
use lab::{
    privilege::root_or_skip,
    topology::{Lab, Neighbour},
};
use time::OffsetDateTime;

use crate::segments::{ACK, Answer, SEQUENCE, SYN, Segment};

pub const NOW: u64 = 1_000_000_000_000_000;
const STAMP: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// As Linux sends them: MSS 1460, SACK, timestamps, window scale 9.
pub fn linux() -> Vec<u8> {
    let mut options = vec![2, 4, 0x05, 0xb4, 4, 2, 8, 10];
    options.extend(STAMP);
    options.extend([0, 0, 0, 0, 1, 3, 3, 9]);
    options
}

/// As Windows does: no timestamps.
fn windows() -> Vec<u8> {
    vec![2, 4, 0x05, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2]
}

pub struct Bench {
    pub offline: Offline,
    pub port: u16,
    _listener: TcpListener,
}

impl Bench {
    /// In the namespace of the calling thread.
    pub fn new(mode: &str, rest: &str) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        let port = listener.local_addr()?.port();
        let mut offline = Offline::load(&Config {
            xdp: XdpChoice::Auto,
            management: Vec::new(),
            sketch_bytes: 1 << 20,
            max_flows: 64,
        })?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("syn.yaml");
        std::fs::write(
            &file,
            format!(
                "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: p}}\nspec:\n  mode: {mode}\n  interfaces: [bench0]\n  syn: {{cookies: always}}\n{rest}\n"
            ),
        )?;
        let loaded = enforcer_policy::load(&[file])?;
        let wall = OffsetDateTime::from_unix_timestamp(1_800_000_000)?;
        offline.apply(&Arc::new(loaded.set), "bench0", wall, NOW)?;
        offline.set_time(NOW)?;
        let lacking = offline.syn.prepare(Need {
            ready: true,
            answering: true,
        })?;
        assert_eq!(lacking, []);
        Ok(Self {
            offline,
            port,
            _listener: listener,
        })
    }

    pub fn segment(&self, node: IpAddr, flags: u8, options: Vec<u8>) -> Segment {
        let client = if node.is_ipv4() {
            "192.0.2.7"
        } else {
            "2001:db8::7"
        };
        Segment {
            client: client.parse().unwrap(),
            node,
            port: self.port,
            flags,
            sequence: SEQUENCE,
            acknowledged: 0,
            options,
            payload: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// Hands a segment over: what became of it, why, and the frame.
    pub fn arrive(&mut self, segment: &Segment) -> (Verdict, Reason, Vec<u8>) {
        let before = self.counts();
        let (verdict, frame) = self.offline.arrive(&segment.frame()).unwrap();
        let after = self.counts();
        let moved: Vec<_> = after
            .iter()
            .zip(&before)
            .filter(|(now, then)| now.1 != then.1)
            .collect();
        assert_eq!(moved.len(), 1, "{moved:?}");
        (verdict, moved[0].0.0, frame)
    }

    pub fn answer(&mut self, syn: &Segment) -> Answer {
        let (verdict, reason, frame) = self.arrive(syn);
        assert_eq!(
            (verdict, reason),
            (Verdict::Answer, Reason::SynCookieSent),
            "{syn:?}"
        );
        Answer::read(syn, &frame)
    }

    fn counts(&self) -> Vec<(Reason, u64)> {
        let counts = self.offline.counts(Some("p")).unwrap();
        counts
            .iter()
            .map(|count| (count.reason, count.total.packets))
            .collect()
    }
}

/// Runs in the namespace of a node of the lab, with its addresses.
pub fn on_a_node(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    Lab::create()?.node().run(work)
}

pub fn addresses() -> [IpAddr; 2] {
    [Neighbour::Client.node_ipv4(), Neighbour::Client.node_ipv6()]
}

/// What the window scale of the stack's own connections is.
fn own_scale() -> u8 {
    let sysctl = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default();
        text.split_whitespace()
            .last()
            .and_then(|last| last.parse::<u64>().ok())
    };
    let largest = sysctl("ipv4/tcp_rmem")
        .unwrap()
        .max(sysctl("core/rmem_max").unwrap_or(0));
    largest.ilog2().saturating_sub(15).min(14) as u8
}

#[test]
fn a_syn_is_answered_with_all_that_both_sides_have() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        let tags: [&[u16]; 3] = [&[], &[0x8100], &[0x88a8, 0x8100]];
        for (node, tags) in addresses()
            .into_iter()
            .flat_map(|node| tags.map(|tags| (node, tags)))
        {
            let syn = Segment {
                tags: tags.to_vec(),
                ..bench.segment(node, SYN, linux())
            };
            let answer = bench.answer(&syn);
            assert_eq!(answer.acknowledged, SEQUENCE + 1);
            // Loopback, from which test packets seem to come, has an MTU of 65536.
            assert_eq!(answer.mss, Some(65_475));
            assert_eq!((answer.scale, answer.sack), (Some(own_scale()), true));
            let (stamp, echo) = answer.timestamps.unwrap();
            assert_eq!(echo, u32::from_be_bytes(STAMP));
            // Window scale 9 and SACK, as the stack will read them back.
            assert_eq!(stamp & 0x3f, 9 | 1 << 4);
            let now = (NOW / 1_000_000) as u32;
            assert!(now.wrapping_sub(stamp) < 64, "{now} {stamp}");
        }
        Ok(())
    })
}

#[test]
fn without_timestamps_nothing_is_promised_that_the_stack_would_forget() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        for node in addresses() {
            for options in [windows(), Vec::new(), vec![1, 1, 1, 0]] {
                let syn = bench.segment(node, SYN, options);
                let answer = bench.answer(&syn);
                assert_eq!(answer.acknowledged, SEQUENCE + 1);
                assert_eq!(
                    (answer.scale, answer.sack, answer.timestamps),
                    (None, false, None)
                );
                assert_eq!(answer.mss, Some(65_475));
            }
        }
        Ok(())
    })
}

#[test]
fn options_are_read_however_they_are_put() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        let node = Neighbour::Client.node_ipv4();
        let mut stamps = vec![8, 10];
        stamps.extend(STAMP);
        stamps.extend([0; 4]);
        let with = |before: &[u8], after: &[u8]| {
            let mut options = [before, &stamps, after].concat();
            options.resize(options.len().next_multiple_of(4), 0);
            options
        };
        // What the timestamp's low bits must say.
        let cases = [
            (
                "as macOS",
                with(&[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1], &[4, 2, 0, 0]),
                6 | 1 << 4,
            ),
            ("no scale", with(&[4, 2], &[]), 0x0f | 1 << 4),
            ("no SACK", with(&[1, 3, 3, 0], &[]), 0),
            ("a scale beyond the largest", with(&[1, 3, 3, 200], &[]), 14),
            (
                "an unknown option between",
                with(&[254, 6, 1, 2, 3, 4], &[3, 3, 5]),
                5,
            ),
            ("options after the end", with(&[1, 1], &[0, 3, 3, 5]), 0x0f),
            ("a length that lies", with(&[3, 3, 4], &[99, 80, 4, 2]), 4),
            ("a length of zero", with(&[3, 3, 4], &[99, 0, 4, 2]), 4),
        ];
        for (name, options, low_bits) in cases {
            let answer = bench.answer(&bench.segment(node, SYN, options));
            let (stamp, _) = answer.timestamps.unwrap();
            assert_eq!(stamp & 0x3f, low_bits, "{name}");
            assert_eq!(answer.sack, low_bits & 1 << 4 != 0, "{name}");
            assert_eq!(answer.scale.is_some(), low_bits & 0x0f != 0x0f, "{name}");
        }
        Ok(())
    })
}

#[test]
fn an_ack_must_bring_the_cookie_back() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        for node in addresses() {
            bench.offline.set_time(NOW)?;
            let answer = bench.answer(&bench.segment(node, SYN, linux()));
            let proof = Segment {
                sequence: SEQUENCE + 1,
                acknowledged: answer.cookie.wrapping_add(1),
                ..bench.segment(node, ACK, Vec::new())
            };
            let with_data = Segment {
                payload: b"GET".to_vec(),
                ..proof.clone()
            };
            for good in [&proof, &with_data] {
                let (verdict, reason, frame) = bench.arrive(good);
                assert_eq!((verdict, reason), (Verdict::Pass, Reason::SynCookieValid));
                assert_eq!(frame, good.frame());
            }
            let close_behind = Segment {
                sequence: SEQUENCE + 100_000,
                ..with_data.clone()
            };
            assert_eq!(
                bench.arrive(&close_behind).1,
                Reason::WithinLimits,
                "the stack may be slower"
            );
            bench.offline.set_time(NOW + 1_000_000_000)?;
            assert_eq!(
                bench.arrive(&close_behind).1,
                Reason::SynCookieInvalid,
                "by now it is not"
            );
            let forged = [
                Segment {
                    acknowledged: answer.cookie ^ 0x0055_0000,
                    ..proof.clone()
                },
                Segment {
                    sequence: SEQUENCE + 1000,
                    ..proof.clone()
                },
                Segment {
                    flags: ACK | 1,
                    acknowledged: 7,
                    ..proof.clone()
                },
            ];
            for bad in &forged {
                let (verdict, reason, _) = bench.arrive(bad);
                assert_eq!(
                    (verdict, reason),
                    (Verdict::Drop, Reason::SynCookieInvalid),
                    "{bad:?}"
                );
            }
        }
        Ok(())
    })
}
