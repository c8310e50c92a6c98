//! Revoked connections.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use enforcer_common::{
    layout::MAX_REVOKED,
    verdict::{Direction, Reason, Verdict},
};
use enforcer_model::flow::Flow;
use enforcer_sys::clock::monotonic_ns;
use lab::frame::layers::{carried, packet, udp};

use crate::{
    packets::{ACK, CLIENT_V4, FAMILIES, NODE_V4, SYN, TCP, UDP},
    resets::answers::{RST, segment},
    rig::{Rig, SECOND, document},
};

/// Whatever the policy says: it is an operator's word.
#[test]
fn revoked_connections_are_dropped_until_that_ends() {
    for mode in ["enforce", "shadow"] {
        let policy = "  ports: [tcp/443]\n  allow: [0.0.0.0/0, \"::/0\"]";
        let Some(mut rig) = Rig::new(&document("p", mode, policy)) else {
            return;
        };
        rig.keep_to_itself();
        let now_ns = monotonic_ns();
        rig.at(now_ns);
        for (client, node) in FAMILIES {
            let frame = |port, protocol, segment: Vec<u8>| {
                let mut segment = segment;
                segment[..2].copy_from_slice(&u16::to_be_bytes(port));
                carried(&packet(client, node, protocol, &segment))
            };
            let data = frame(40_000, TCP, segment(ACK, 5, 3));
            let decide = |rig: &mut Rig, frame: &[u8]| {
                let decision = rig.offline.decide(Direction::Ingress, frame).unwrap();
                (decision.verdict, decision.reason)
            };
            assert_eq!(decide(&mut rig, &data), (Verdict::Pass, Reason::Allowed));
            let flow = Flow {
                peer: SocketAddr::new(client, 40_000),
                local: SocketAddr::new(node, 443),
            };
            assert!(rig.offline.revoked.revoke(flow, Duration::from_secs(60)).unwrap());
            let rows = [
                ("data", data.clone(), Verdict::Reset, Reason::Revoked),
                (
                    "a SYN of the same",
                    frame(40_000, TCP, segment(SYN, 5, 0)),
                    Verdict::Reset,
                    Reason::Revoked,
                ),
                (
                    "a reset is not answered",
                    frame(40_000, TCP, segment(RST, 5, 0)),
                    Verdict::Drop,
                    Reason::Revoked,
                ),
                (
                    "a datagram between the same",
                    frame(40_000, UDP, udp(40_000, 443, 8, 0)),
                    Verdict::Reset,
                    Reason::Revoked,
                ),
                (
                    "another connection",
                    frame(40_001, TCP, segment(ACK, 5, 3)),
                    Verdict::Pass,
                    Reason::Allowed,
                ),
            ];
            for (what, frame, verdict, reason) in rows {
                rig.later(Duration::from_millis(2));
                assert_eq!(
                    decide(&mut rig, &frame),
                    (verdict, reason),
                    "{mode}, {client}: {what}"
                );
            }
            let [(found, left)] = rig.offline.revoked.at(client)[..] else {
                panic!("{:?}", rig.offline.revoked.at(client));
            };
            assert_eq!(found, flow);
            assert!(left <= Duration::from_secs(60));
            // Without the agent it holds, like denials, and like them it ends by itself.
            rig.offline.set_alive_until(now_ns - 1, true).unwrap();
            assert_eq!(decide(&mut rig, &data).1, Reason::Revoked);
            rig.offline.set_alive_until(now_ns - 1, false).unwrap();
            assert_eq!(decide(&mut rig, &data).1, Reason::Allowed);
            rig.offline.set_alive_until(u64::MAX, true).unwrap();
            rig.at(now_ns + 120 * SECOND);
            assert_eq!(decide(&mut rig, &data), (Verdict::Pass, Reason::Allowed));
            rig.at(now_ns + SECOND);
        }
    }
}

#[test]
fn revocations_are_bounded() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", "  ports: [tcp/443]")) else {
        return;
    };
    rig.keep_to_itself();
    let flow = |port| Flow {
        peer: SocketAddr::new(IpAddr::V4(CLIENT_V4), port),
        local: SocketAddr::new(IpAddr::V4(NODE_V4), 443),
    };
    rig.at(monotonic_ns());
    let revoke = |rig: &Rig, port, lasts| rig.offline.revoked.revoke(flow(port), lasts).unwrap();
    let most = u16::try_from(MAX_REVOKED).unwrap();
    for port in 1..=most {
        assert!(revoke(&rig, port, Duration::from_secs(3_600)));
    }
    assert!(!revoke(&rig, most + 1, Duration::from_secs(3_600)), "one more");
    assert!(revoke(&rig, 7, Duration::from_nanos(1)), "one of them anew");
    std::thread::sleep(Duration::from_millis(1));
    assert!(
        revoke(&rig, most + 1, Duration::from_secs(1)),
        "in the place of one that has ended"
    );
    assert_eq!(rig.offline.revoked.count(), MAX_REVOKED as usize);
}
