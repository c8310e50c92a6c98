//! Limits: exactly the burst, whose packets share it, what is counted, and several at once.

use std::net::IpAddr;

use enforcer_common::verdict::Reason;

use crate::{
    packets::{ACK, FAMILIES, SYN, ip, tcp_from, udp_from, udp_of},
    rig::{Case, Rig, SECOND, START, check_both, document},
};

const LIMITS: [Reason; 4] = [Reason::Limit0, Reason::Limit1, Reason::Limit2, Reason::Limit3];

fn limited(limits: &str) -> Option<Rig> {
    Rig::new(&document("p", "enforce", &format!("  limits: [{limits}]")))
}

/// A client of each family, a neighbour that shares its /24 or /64, and one that does not.
const NEIGHBOURS: [[&str; 3]; 2] = [
    ["192.0.2.1", "192.0.2.200", "192.0.3.1"],
    ["2001:db8:1:1::1", "2001:db8:1:1:ffff::9", "2001:db8:1:2::1"],
];

#[test]
fn exactly_the_burst_passes_at_one_instant() {
    for limit in [
        "{per: source, rate: 10/s, burst: 5}",
        "{per: source, rate: 10/s, burst: 5, algorithm: leaky-bucket}",
        "{per: source, rate: 5/s, algorithm: fixed-window}",
        "{per: source, rate: 5/s, algorithm: sliding-window}",
        "{per: service, rate: 10/s, burst: 5}",
        "{per: interface, rate: 5/s, algorithm: fixed-window}",
    ] {
        for mode in ["enforce", "shadow"] {
            for (client, _) in FAMILIES {
                let policy = document("p", mode, &format!("  limits: [{limit}]"));
                let Some(mut rig) = Rig::new(&policy) else { return };
                let row = |reason| {
                    let case = Case::arrives("burst", udp_from(client, 53), reason, "p");
                    if mode == "shadow" { case.in_shadow() } else { case }
                };
                rig.check(&std::array::from_fn::<_, 5, _>(|_| row(Reason::WithinLimits)));
                rig.check(&std::array::from_fn::<_, 3, _>(|_| row(Reason::Limit0)));
            }
        }
    }
}

#[test]
fn time_refills() {
    for (client, _) in FAMILIES {
        let frame = udp_from(client, 53);
        let Some(mut rig) = limited("{per: source, rate: 10/s, burst: 5}") else {
            return;
        };
        assert_eq!(rig.passing(9, &frame), 5);
        for (at_ms, passing) in [(99, 0), (100, 1), (199, 0), (450, 3), (849, 4), (100_000, 5)] {
            rig.at(START + at_ms * 1_000_000);
            assert_eq!(rig.passing(9, &frame), passing, "{client} after {at_ms} ms");
        }
        let Some(mut rig) = limited("{per: source, rate: 5/s, algorithm: fixed-window}") else {
            return;
        };
        for (at_ms, passing) in [(0, 5), (999, 0), (1_000, 5), (1_999, 0), (60_000, 5)] {
            rig.at(START + at_ms * 1_000_000);
            assert_eq!(
                rig.passing(9, &frame),
                passing,
                "{client} after {at_ms} ms, by windows"
            );
        }
    }
}

#[test]
fn a_clock_that_steps_back_refills_nothing() {
    for algorithm in ["token-bucket", "fixed-window"] {
        let Some(mut rig) = limited(&format!("{{per: source, rate: 5/s, algorithm: {algorithm}}}")) else {
            return;
        };
        assert_eq!(rig.passing(9, &udp_from(FAMILIES[0].0, 53)), 5);
        rig.at(START - SECOND / 2);
        assert_eq!(rig.passing(9, &udp_from(FAMILIES[0].0, 53)), 0, "{algorithm}");
    }
}

#[test]
fn sources_share_a_limiter_by_their_prefix() {
    let prefixes = ["prefix: {ipv4: 24, ipv6: 64}", "prefix: {ipv4: 32, ipv6: 128}"];
    for (prefix, neighbours_pass) in prefixes.into_iter().zip([0, 3]) {
        for sources in NEIGHBOURS {
            let Some(mut rig) = limited(&format!("{{per: source, {prefix}, rate: 1/d, burst: 3}}")) else {
                return;
            };
            let [client, neighbour, stranger] = sources.map(|source| udp_from(ip(source), 53));
            assert_eq!(rig.passing(5, &client), 3);
            assert_eq!(
                rig.passing(5, &neighbour),
                neighbours_pass,
                "{prefix} {sources:?}"
            );
            assert_eq!(rig.passing(5, &stranger), 3, "{prefix} {sources:?}");
        }
    }
}

#[test]
fn a_client_is_an_ipv4_address_or_a_64() {
    let expected = [[3, 3, 3], [3, 0, 3]];
    for (sources, expected) in NEIGHBOURS.into_iter().zip(expected) {
        let Some(mut rig) = limited("{per: source, rate: 1/d, burst: 3}") else {
            return;
        };
        assert_eq!(
            sources.map(|source| rig.passing(5, &udp_from(ip(source), 53))),
            expected
        );
    }
}

#[test]
fn a_service_or_an_interface_has_one_limiter_for_all() {
    for per in ["service", "interface"] {
        let limit = format!("  limits: [{{per: {per}, rate: 1/d, burst: 4}}]");
        let documents = [
            document("web", "enforce", &format!("  ports: [tcp/443, tcp/80]\n{limit}")),
            document("rest", "enforce", &limit),
        ];
        let Some(mut rig) = Rig::new(&documents.concat()) else {
            return;
        };
        let sources: Vec<IpAddr> = NEIGHBOURS.iter().flatten().map(|source| ip(source)).collect();
        let web: u32 = sources
            .iter()
            .map(|source| rig.passing(2, &tcp_from(*source, 443, ACK)))
            .sum();
        assert_eq!(web, 4, "{per}");
        assert_eq!(
            rig.passing(2, &tcp_from(sources[0], 80, ACK)),
            0,
            "{per}: another port of the same"
        );
        let rest: u32 = sources
            .iter()
            .map(|source| rig.passing(2, &udp_from(*source, 53)))
            .sum();
        assert_eq!(rest, 4, "{per}: another policy has its own");
    }
}

#[test]
fn bytes_are_those_of_the_frame() {
    for per in ["source", "service", "interface"] {
        for (client, _) in FAMILIES {
            let Some(mut rig) = limited(&format!(
                "{{per: {per}, count: bytes, rate: 1000B/s, burst: 1000}}"
            )) else {
                return;
            };
            assert_eq!(
                rig.passing(3, &udp_of(client, 53, 1_001)),
                0,
                "more than a burst never passes"
            );
            assert_eq!(rig.passing(20, &udp_of(client, 53, 110)), 9);
            assert_eq!(rig.passing(3, &udp_of(client, 53, 62)), 0, "10 bytes are left");
            rig.at(START + SECOND / 10);
            assert_eq!(rig.passing(3, &udp_of(client, 53, 110)), 1);
        }
    }
}

#[test]
fn connections_are_counted_by_their_syn() {
    const LIMIT: &str = "  limits: [{per: source, count: connections, rate: 1/d, burst: 2}]";
    check_both("p", LIMIT, || {
        let cases = |(client, _)| {
            let row = |description, frame, reason| Case::arrives(description, frame, reason, "p");
            [
                row(
                    "data is no connection",
                    tcp_from(client, 443, ACK),
                    Reason::WithinLimits,
                ),
                row(
                    "a SYN with ACK is none",
                    tcp_from(client, 443, SYN | ACK),
                    Reason::WithinLimits,
                ),
                row("the first", tcp_from(client, 443, SYN), Reason::WithinLimits),
                row(
                    "the second, with ECN's flags",
                    tcp_from(client, 443, SYN | 0xc0),
                    Reason::WithinLimits,
                ),
                row("the third", tcp_from(client, 443, SYN), Reason::Limit0),
                row("with FIN", tcp_from(client, 443, SYN | 1), Reason::Limit0),
                row("a flow of UDP", udp_from(client, 443), Reason::Limit0),
                row(
                    "data still passes",
                    tcp_from(client, 443, ACK),
                    Reason::WithinLimits,
                ),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

#[test]
fn each_of_four_limits_refuses_by_its_own_reason() {
    for (tight, reason) in LIMITS.into_iter().enumerate() {
        let limits: Vec<String> = (0..4)
            .map(|at| {
                format!(
                    "{{per: source, rate: 1/d, burst: {}}}",
                    if at == tight { 1 } else { 9 }
                )
            })
            .collect();
        check_both("p", &format!("  limits: [{}]", limits.join(", ")), || {
            let cases = |(client, _)| {
                [Reason::WithinLimits, reason, reason]
                    .map(|reason| Case::arrives("tight", udp_from(client, 53), reason, "p"))
            };
            FAMILIES.into_iter().flat_map(cases).collect()
        });
    }
}

#[test]
fn the_tightest_decides_and_who_is_refused_charges_none() {
    let limits = "{per: source, rate: 1/d, burst: 3}, {per: service, rate: 1/s, burst: 5}";
    for [first, _, second] in NEIGHBOURS {
        let Some(mut rig) = limited(limits) else { return };
        let row = |source, reason| Case::arrives("two limits", udp_from(ip(source), 53), reason, "p");
        let times = |rig: &mut Rig, count: usize, source, reason| {
            rig.check(&(0..count).map(|_| row(source, reason)).collect::<Vec<_>>());
        };
        times(&mut rig, 3, first, Reason::WithinLimits);
        // Had these charged the service's limit, nothing of it would be left.
        times(&mut rig, 7, first, Reason::Limit0);
        times(&mut rig, 2, second, Reason::WithinLimits);
        // Had these charged the source's limit, which is asked first, nothing of that would be left.
        times(&mut rig, 7, second, Reason::Limit1);
        rig.at(START + 5 * SECOND);
        times(&mut rig, 1, second, Reason::WithinLimits);
        times(&mut rig, 2, second, Reason::Limit0);
    }
}

#[test]
fn an_allowed_source_charges_nothing() {
    let policy = document(
        "p",
        "enforce",
        "  allow: [192.0.2.1/32]\n  limits: [{per: service, rate: 1/d, burst: 2}]",
    );
    let Some(mut rig) = Rig::new(&policy) else { return };
    assert_eq!(rig.passing(50, &udp_from(ip("192.0.2.1"), 53)), 50);
    assert_eq!(rig.passing(50, &udp_from(ip("192.0.2.2"), 53)), 2);
}

#[test]
fn strangers_by_the_thousand_hurt_nobody_else() {
    let Some(mut rig) = limited("{per: source, rate: 1/d, burst: 2}") else {
        return;
    };
    let clients: Vec<Vec<u8>> = (0..50)
        .map(|number| udp_from(IpAddr::from([203, 0, 113, number]), 53))
        .collect();
    for client in &clients {
        assert_eq!(rig.passing(1, client), 1);
    }
    for number in 0..1_000_u32 {
        let stranger = IpAddr::from((0x0a00_0000 | number).to_be_bytes());
        rig.passing(4, &udp_from(stranger, 53));
    }
    // Nobody is refilled. Who shares all four cells with strangers, 0.13 % of all here, is exhausted.
    let left: Vec<u32> = clients.iter().map(|client| rig.passing(9, client)).collect();
    assert!(left.iter().all(|left| *left <= 1), "{left:?}");
    assert!(left.iter().sum::<u32>() >= 46, "{left:?}");
}
