//! What is answered at all, and within which budgets: SYNs and ACKs that are the stack's, shadow, limits, lapse.

use std::net::IpAddr;

use anyhow::Result;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_dataplane::Need;
use lab::topology::Neighbour;

use crate::{
    bench::{Bench, NOW, addresses, linux, on_a_node},
    segments::{ACK, RST, SEQUENCE, SYN, Segment},
};

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
