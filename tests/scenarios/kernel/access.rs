//! A policy's allow and deny lists.

use enforcer_common::verdict::Reason;
use time::{Duration, format_description::well_known::Rfc3339};

use crate::{
    packets::{SYN, ip, tcp_from, udp_from},
    rig::{Case, Rig, SECOND, START, check_both, document, wall},
};

#[test]
fn the_longest_prefix_decides() {
    const LISTS: &str =
        "  allow: [198.51.100.0/28, 198.51.100.77/32, \"2001:db8:a:1::/64\", \"2001:db8:a:2::7/128\"]
  deny: [198.51.100.0/24, 198.51.100.3/32, \"2001:db8:a::/48\", \"2001:db8:a:1::3/128\"]";
    let rows = [
        ("a denied network", "198.51.100.16", Reason::Denied),
        ("its last address", "198.51.100.255", Reason::Denied),
        ("an allowed part of it", "198.51.100.2", Reason::Allowed),
        ("an allowed address of it", "198.51.100.77", Reason::Allowed),
        (
            "a denied address of the allowed part",
            "198.51.100.3",
            Reason::Denied,
        ),
        ("beside the denied network", "198.51.101.1", Reason::WithinLimits),
        ("before the denied network", "198.51.99.255", Reason::WithinLimits),
        ("a denied IPv6 network", "2001:db8:a:ffff::1", Reason::Denied),
        ("an allowed part of it", "2001:db8:a:1::4", Reason::Allowed),
        ("an allowed address of it", "2001:db8:a:2::7", Reason::Allowed),
        ("beside that", "2001:db8:a:2::8", Reason::Denied),
        (
            "a denied address of the allowed part",
            "2001:db8:a:1::3",
            Reason::Denied,
        ),
        ("beside the denied network", "2001:db8:b::1", Reason::WithinLimits),
    ];
    check_both("p", LISTS, || {
        let case = |(description, source, reason)| {
            [udp_from(ip(source), 53), tcp_from(ip(source), 443, SYN)]
                .map(|frame| Case::arrives(description, frame, reason, "p"))
        };
        rows.into_iter().flat_map(case).collect()
    });
}

#[test]
fn all_of_one_family_is_none_of_the_other() {
    check_both("p", "  deny: [0.0.0.0/0]", || {
        vec![
            Case::arrives("IPv4", udp_from(ip("198.51.100.1"), 53), Reason::Denied, "p"),
            Case::arrives("IPv6", udp_from(ip("2001:db8::1"), 53), Reason::WithinLimits, "p"),
        ]
    });
    check_both("p", "  deny: [\"::/1\", \"8000::/1\"]", || {
        vec![
            Case::arrives("IPv6", udp_from(ip("2001:db8::1"), 53), Reason::Denied, "p"),
            Case::arrives(
                "IPv4",
                udp_from(ip("198.51.100.1"), 53),
                Reason::WithinLimits,
                "p",
            ),
        ]
    });
}

/// The moment `seconds` from when policies come into force here, as policies write it.
fn at(seconds: i64) -> String {
    (wall() + Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

#[test]
fn entries_end() {
    let lists = format!(
        "  allow: [198.51.100.0/25]
  deny:
    - {{cidr: 192.0.2.0/24, until: \"{past}\"}}
    - {{cidr: 192.0.2.7/32, until: \"{soon}\"}}
    - {{cidr: 203.0.113.0/24, until: \"{late}\"}}
    - {{cidr: 203.0.113.7/32, until: \"{soon}\"}}
    - {{cidr: 203.0.113.8/32, until: \"{past}\"}}
    - {{cidr: 198.51.100.7/32, until: \"{soon}\"}}
    - {{cidr: \"2001:db8:a::/48\", until: \"{late}\"}}
    - {{cidr: \"2001:db8:a:1::/64\", until: \"{soon}\"}}
    - {{cidr: \"2001:db8:a:1::7/128\", until: \"{past}\"}}",
        past = at(-1),
        soon = at(10),
        late = at(100),
    );
    let rows = [
        ("ended before", "192.0.2.1", [Reason::WithinLimits; 3]),
        (
            "ends within one that has ended",
            "192.0.2.7",
            [Reason::Denied, Reason::WithinLimits, Reason::WithinLimits],
        ),
        (
            "ends late",
            "203.0.113.1",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
        (
            "ends within one that goes on",
            "203.0.113.7",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
        (
            "ended within one that goes on",
            "203.0.113.8",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
        (
            "ends within an allowed network",
            "198.51.100.7",
            [Reason::Denied, Reason::Allowed, Reason::Allowed],
        ),
        (
            "an IPv6 network that ends late",
            "2001:db8:a:2::",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
        (
            "in one that ends soon",
            "2001:db8:a:1::1",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
        (
            "three, one in another",
            "2001:db8:a:1::7",
            [Reason::Denied, Reason::Denied, Reason::WithinLimits],
        ),
    ];
    let Some(mut rig) = Rig::new(&document("p", "enforce", &lists)) else {
        return;
    };
    for (index, now_ns) in [START, START + 10 * SECOND, START + 100 * SECOND]
        .into_iter()
        .enumerate()
    {
        rig.at(now_ns);
        let case = |(description, source, reasons): (_, _, [Reason; 3])| {
            Case::arrives(description, udp_from(ip(source), 53), reasons[index], "p")
        };
        rig.check(&rows.map(case));
    }
    rig.at(START + 10 * SECOND - 1);
    rig.check(&[Case::arrives(
        "the last nanosecond",
        udp_from(ip("203.0.113.7"), 53),
        Reason::Denied,
        "p",
    )]);
}
