//! Answers on the bench: SYNs are handed to the program, beside a real listener in a namespace.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::Result;
use enforcer::{
    kernel::{Config, Need, Offline, XdpChoice},
    policy,
};
use enforcer_common::verdict::{Reason, Verdict};
use lab::{
    privilege::root_or_skip,
    topology::{Lab, Neighbour},
};
use time::OffsetDateTime;

use crate::segments::{ACK, Answer, RST, SEQUENCE, SYN, Segment};

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
        let loaded = policy::load(&[file])?;
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

fn addresses() -> [IpAddr; 2] {
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

#[test]
fn what_is_not_this_nodes_to_answer_goes_on() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        let node = Neighbour::Client.node_ipv4();
        let elsewhere: IpAddr = "198.51.100.1".parse()?;
        let plain = bench.segment(node, SYN, linux());
        let cases = [
            (
                "a port that nobody listens on",
                Segment {
                    port: 1,
                    ..plain.clone()
                },
            ),
            // The listener takes all addresses, but this one is not the node's.
            (
                "another host's address",
                Segment {
                    node: elsewhere,
                    ..plain.clone()
                },
            ),
            (
                "an ACK to another host",
                Segment {
                    node: elsewhere,
                    flags: ACK,
                    ..plain.clone()
                },
            ),
            (
                "an ACK to a closed port",
                Segment {
                    port: 1,
                    flags: ACK,
                    ..plain.clone()
                },
            ),
            (
                "a SYN that also ends",
                Segment {
                    flags: SYN | 1,
                    ..plain.clone()
                },
            ),
            (
                "a reset",
                Segment {
                    flags: RST | ACK,
                    ..plain.clone()
                },
            ),
            (
                "a SYN-ACK",
                Segment {
                    flags: SYN | ACK,
                    ..plain.clone()
                },
            ),
        ];
        for (name, segment) in cases {
            let (verdict, reason, frame) = bench.arrive(&segment);
            assert_eq!((verdict, reason), (Verdict::Pass, Reason::WithinLimits), "{name}");
            assert_eq!(frame, segment.frame(), "{name}");
        }
        Ok(())
    })
}

#[test]
fn shadow_answers_nothing() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("shadow", "")?;
        for node in addresses() {
            for (flags, reason) in [(SYN, Reason::SynCookieSent), (ACK, Reason::SynCookieInvalid)] {
                let segment = bench.segment(node, flags, linux());
                let (verdict, found, frame) = bench.arrive(&segment);
                assert_eq!((verdict, found), (Verdict::Pass, reason));
                assert_eq!(frame, segment.frame());
            }
        }
        Ok(())
    })
}

#[test]
fn a_syn_spends_its_sources_budget_and_a_cookie_that_comes_back_the_services() -> Result<()> {
    on_a_node(|| {
        let node = Neighbour::Client.node_ipv4();
        let service = "  limits: [{per: service, count: connections, rate: 1/d, burst: 1}]";
        let mut bench = Bench::new("enforce", service)?;
        let syn = bench.segment(node, SYN, linux());
        let mut cookie = 0;
        for _ in 0..5 {
            cookie = bench.answer(&syn).cookie;
        }
        let proof = Segment {
            sequence: SEQUENCE + 1,
            acknowledged: cookie.wrapping_add(1),
            ..bench.segment(node, ACK, Vec::new())
        };
        assert_eq!(bench.arrive(&proof).1, Reason::SynCookieValid);
        assert_eq!(bench.arrive(&proof).1, Reason::Limit0);

        let source = "  limits: [{per: source, count: connections, rate: 1/d, burst: 2}]";
        let mut bench = Bench::new("enforce", source)?;
        let syn = Segment {
            port: bench.port,
            ..syn
        };
        for _ in 0..2 {
            cookie = bench.answer(&syn).cookie;
        }
        assert_eq!(
            bench.arrive(&syn).1,
            Reason::Limit0,
            "no more is sent to that address"
        );
        let proof = Segment {
            port: bench.port,
            acknowledged: cookie.wrapping_add(1),
            ..proof
        };
        assert_eq!(
            bench.arrive(&proof).1,
            Reason::SynCookieValid,
            "charged with its SYN"
        );
        Ok(())
    })
}

#[test]
fn without_the_sysctl_the_stack_answers_until_its_queue_is_full() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        let syn = bench.segment(Neighbour::Client.node_ipv4(), SYN, linux());
        let _ = bench.answer(&syn);
        let lacking = bench.offline.syn.prepare(Need {
            ready: true,
            answering: false,
        })?;
        assert_eq!(lacking, []);
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?.trim(),
            "1"
        );
        assert_eq!(bench.arrive(&syn).1, Reason::WithinLimits);
        bench.offline.syn.restore();
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps")?.trim(),
            "1"
        );
        Ok(())
    })
}

/// Where that is wanted, SYNs are answered and ACKs looked at though nothing is heard of the agent, and limits
/// bound neither.
#[test]
fn cookies_may_hold_on_without_the_agent() -> Result<()> {
    on_a_node(|| {
        let limits = "  limits: [{per: source, rate: 1/d, burst: 1}]";
        let mut bench = Bench::new("enforce", limits)?;
        let syn = bench.segment(Neighbour::Client.node_ipv4(), SYN, linux());
        let ack = |cookie: u32| Segment {
            flags: ACK,
            sequence: SEQUENCE + 1,
            acknowledged: cookie.wrapping_add(1),
            options: Vec::new(),
            ..syn.clone()
        };
        let forged = Segment {
            client: "192.0.2.8".parse()?,
            ..ack(0x1234_5678)
        };
        let _ = bench.answer(&syn);
        assert_eq!(bench.arrive(&syn).1, Reason::Limit0);
        bench.offline.set_alive_until(NOW - 1, true)?;
        assert_eq!(
            bench.arrive(&syn).1,
            Reason::AgentGone,
            "they lapse with the limits"
        );
        assert_eq!(bench.arrive(&forged).1, Reason::AgentGone);

        bench.offline.set_keeps_cookies(true)?;
        let _ = bench.answer(&syn);
        let cookie = bench.answer(&syn).cookie;
        assert_eq!(bench.arrive(&ack(cookie)).1, Reason::SynCookieValid);
        assert_eq!(bench.arrive(&forged).1, Reason::SynCookieInvalid);
        let closed = Segment {
            port: 1,
            ..syn.clone()
        };
        assert_eq!(bench.arrive(&closed).1, Reason::AgentGone);
        Ok(())
    })
}

#[test]
fn the_program_stays_within_the_verifiers_bound() -> Result<()> {
    on_a_node(|| {
        let mut bench = Bench::new("enforce", "")?;
        for (program, instructions) in bench.offline.verified_instructions()? {
            println!("{program}: {instructions} instructions verified");
            assert!(instructions < 800_000, "{program}: {instructions}");
        }
        for (name, flags) in [
            ("a SYN, not answered for the port is closed", SYN),
            ("an ACK to a closed port", ACK),
        ] {
            let segment = Segment {
                port: 1,
                ..bench.segment(Neighbour::Client.node_ipv4(), flags, linux())
            };
            let (_, each) = bench.offline.run_often(
                enforcer_common::verdict::Direction::Ingress,
                &segment.frame(),
                1_000_000,
            )?;
            println!("{name}: {} ns", each.as_nanos());
        }
        Ok(())
    })
}
