//! Sources that were verified recently keep a share for new connections when the limits are used up.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use enforcer_common::{layout::MAX_RECENT, verdict::Reason};

use crate::{
    packets::{ACK, FAMILIES, SYN, ip, tcp_from, udp_from},
    rig::{Case, Rig, SECOND, START, document},
};

/// Two packets a day for all, and three at once for each source that was verified in the last ten minutes.
const POLICY: &str = "  limits: [{per: service, rate: 1/d, burst: 2}]
  verified: {rate: 10/s, burst: 3, recent: {rate: 10/s, burst: 3, for: 10m}}";

const STRANGER: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];

fn row(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

/// A rig under attack: the limit is used up.
fn attacked(mode: &str, policy: &str, stranger: IpAddr) -> Option<Rig> {
    let mut rig = Rig::new(&document("p", mode, policy))?;
    let case = |reason| {
        let case = row("the attack", tcp_from(stranger, 443, SYN), reason);
        if mode == "shadow" { case.in_shadow() } else { case }
    };
    let attack = [Reason::WithinLimits, Reason::WithinLimits, Reason::Limit0];
    rig.check(&attack.map(case));
    Some(rig)
}

#[test]
fn a_source_that_was_verified_connects_while_others_use_the_limit_up() {
    for mode in ["enforce", "shadow"] {
        for ((client, _), stranger) in FAMILIES.into_iter().zip(STRANGER) {
            let stranger = ip(stranger);
            let Some(mut rig) = attacked(mode, POLICY, stranger) else {
                return;
            };
            let case = |description, frame, reason| {
                let case = row(description, frame, reason);
                if mode == "shadow" { case.in_shadow() } else { case }
            };
            let syn = || tcp_from(client, 443, SYN);
            rig.check(&[case("nobody knows it yet", syn(), Reason::Limit0)]);
            rig.saw(client, START);
            rig.check(&[
                case("its SYN", syn(), Reason::RecentlyVerified),
                case(
                    "and what follows",
                    tcp_from(client, 443, ACK),
                    Reason::RecentlyVerified,
                ),
                case(
                    "UDP has no verified connections",
                    udp_from(client, 443),
                    Reason::Limit0,
                ),
                case(
                    "its third packet",
                    tcp_from(client, 443, ACK),
                    Reason::RecentlyVerified,
                ),
                case("the share is used up", syn(), Reason::Limit0),
                case(
                    "a stranger has none",
                    tcp_from(stranger, 443, SYN),
                    Reason::Limit0,
                ),
            ]);
            rig.at(START + SECOND / 10);
            rig.check(&[
                case("the share refills", syn(), Reason::RecentlyVerified),
                case("at its rate", syn(), Reason::Limit0),
            ]);
            // As long as the policy says, and no longer.
            rig.at(START + 600 * SECOND);
            rig.check(&[case("ten minutes", syn(), Reason::RecentlyVerified)]);
            rig.at(START + 600 * SECOND + 1);
            rig.check(&[case("and no more", syn(), Reason::Limit0)]);
            rig.saw(client, START + 600 * SECOND);
            rig.check(&[case("verified again", syn(), Reason::RecentlyVerified)]);
        }
    }
}

#[test]
fn what_the_limits_admit_spends_nothing_of_the_share() {
    for (client, _) in FAMILIES {
        let Some(mut rig) = Rig::new(&document("p", "enforce", POLICY)) else {
            return;
        };
        rig.saw(client, START);
        let expected = [
            Reason::WithinLimits,
            Reason::WithinLimits,
            Reason::RecentlyVerified,
            Reason::RecentlyVerified,
            Reason::RecentlyVerified,
            Reason::Limit0,
        ];
        rig.check(&expected.map(|reason| row("in this order", tcp_from(client, 443, ACK), reason)));
    }
}

#[test]
fn a_source_is_an_ipv4_address_or_a_64() {
    let Some(mut rig) = attacked("enforce", POLICY, ip("198.51.100.7")) else {
        return;
    };
    let from = |source: &str| tcp_from(ip(source), 443, SYN);
    rig.saw(ip("192.0.2.1"), START);
    rig.saw(ip("2001:db8:1:1::1"), START);
    rig.check(&[
        row("the address", from("192.0.2.1"), Reason::RecentlyVerified),
        row("its neighbour", from("192.0.2.2"), Reason::Limit0),
        row("the address", from("2001:db8:1:1::1"), Reason::RecentlyVerified),
        row(
            "of the same /64",
            from("2001:db8:1:1:ffff::9"),
            Reason::RecentlyVerified,
        ),
        row(
            "one share for all of it",
            from("2001:db8:1:1::2"),
            Reason::RecentlyVerified,
        ),
        row("which is used up", from("2001:db8:1:1::1"), Reason::Limit0),
        row("of another /64", from("2001:db8:1:2::1"), Reason::Limit0),
        row("IPv4's is not", from("192.0.2.1"), Reason::RecentlyVerified),
    ]);
}

#[test]
fn each_source_has_its_own() {
    let Some(mut rig) = attacked("enforce", POLICY, ip("198.51.100.7")) else {
        return;
    };
    let sources: Vec<IpAddr> = (0..100)
        .map(|number| IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
        .collect();
    for source in &sources {
        rig.saw(*source, START);
    }
    for source in sources {
        assert_eq!(rig.passing(9, &tcp_from(source, 443, SYN)), 3, "{source}");
    }
}

#[test]
fn every_limit_is_overruled_and_no_list() {
    let policy = "  deny: [192.0.2.9/32]
  limits: [{rate: 1/d, burst: 1}, {per: interface, rate: 1/d, burst: 9}]
  verified: {rate: 10/s, recent: {rate: 1/s, burst: 2}}";
    let Some(mut rig) = Rig::new(&document("p", "enforce", policy)) else {
        return;
    };
    let from = |source: &str| tcp_from(ip(source), 443, SYN);
    rig.saw(ip("192.0.2.1"), START);
    rig.saw(ip("192.0.2.9"), START);
    rig.check(&[
        row("within", from("192.0.2.1"), Reason::WithinLimits),
        row("over its own limit", from("192.0.2.1"), Reason::RecentlyVerified),
        row("twice", from("192.0.2.1"), Reason::RecentlyVerified),
        row("and no more", from("192.0.2.1"), Reason::Limit0),
        row("who is denied stays so", from("192.0.2.9"), Reason::Denied),
    ]);
}

#[test]
fn off_is_off() {
    for policy in [
        "  limits: [{per: service, rate: 1/d, burst: 2}]",
        "  limits: [{per: service, rate: 1/d, burst: 2}]\n  verified: {rate: 10/s, recent: off}",
    ] {
        let Some(mut rig) = attacked("enforce", policy, ip("198.51.100.7")) else {
            return;
        };
        rig.saw(ip("192.0.2.1"), START);
        rig.check(&[row(
            "no share",
            tcp_from(ip("192.0.2.1"), 443, SYN),
            Reason::Limit0,
        )]);
    }
}

#[test]
fn the_source_unseen_for_longest_makes_room_and_all_end() {
    let Some(mut rig) = attacked("enforce", POLICY, ip("198.51.100.7")) else {
        return;
    };
    let source = |number: u32| IpAddr::from((0x0a00_0000 | number).to_be_bytes());
    for number in 0..=MAX_RECENT {
        rig.saw(source(number), START + u64::from(number));
    }
    assert_eq!(rig.offline.recents.count(), MAX_RECENT as usize);
    let syn = |number| tcp_from(source(number), 443, SYN);
    rig.at(START + u64::from(MAX_RECENT));
    rig.check(&[
        row("the first is forgotten", syn(0), Reason::Limit0),
        row("the second is not", syn(1), Reason::RecentlyVerified),
        row("nor is the last", syn(MAX_RECENT), Reason::RecentlyVerified),
    ]);
    // A connection that lasts keeps its source; the others end.
    let later = START + 700 * SECOND;
    let lasting = enforcer_model::address::client_prefix(source(5));
    rig.offline
        .recents
        .sweep(later, Duration::from_secs(600), || vec![lasting])
        .unwrap();
    assert_eq!(rig.offline.recents.count(), 1);
    rig.at(later);
    rig.check(&[
        row("it ended", syn(MAX_RECENT), Reason::Limit0),
        row("it lasts", syn(5), Reason::RecentlyVerified),
    ]);
}
