//! Verified connections and their identities' own budgets.

use std::net::{IpAddr, SocketAddr};

use enforcer_common::verdict::Reason;
use enforcer_model::flow::Flow;
use lab::frame::layers::{carried, packet, tcp};

use crate::{
    packets::{ACK, FAMILIES, SYN, TCP, udp_from},
    rig::{Case, Rig, SECOND, START, document},
};

/// One packet a day for strangers; three at once, and ten a second, for each verified identity.
const BUDGETS: &str = "  limits: [{per: source, rate: 1/d, burst: 1}]\n  verified: {rate: 10/s, burst: 3}";

fn segment(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Vec<u8> {
    carried(&packet(from.0, to.0, TCP, &tcp(from.1, to.1, 5, flags)))
}

fn row(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

#[test]
fn a_verified_connection_has_its_own_budget() {
    for (mode, (client, node)) in ["enforce", "shadow"]
        .into_iter()
        .flat_map(|mode| FAMILIES.map(|f| (mode, f)))
    {
        let Some(mut rig) = Rig::new(&document("p", mode, BUDGETS)) else {
            return;
        };
        let case = |description, frame, reason| {
            let case = row(description, frame, reason);
            if mode == "shadow" { case.in_shadow() } else { case }
        };
        let flow = Flow {
            peer: SocketAddr::new(client, 5_000),
            local: SocketAddr::new(node, 443),
        };
        let data = || segment((client, 5_000), (node, 443), ACK);
        rig.check(&[
            case("a stranger's first", data(), Reason::WithinLimits),
            case("a stranger's second", data(), Reason::Limit0),
        ]);
        rig.enter(flow, "a");
        rig.check(&[
            case("verified", data(), Reason::Verified),
            case("verified", data(), Reason::Verified),
            case(
                "a SYN spends no budget",
                segment((client, 5_000), (node, 443), SYN),
                Reason::Limit0,
            ),
            case(
                "nor a SYN with ACK",
                segment((client, 5_000), (node, 443), SYN | ACK),
                Reason::Limit0,
            ),
            case(
                "nor another source port",
                segment((client, 5_001), (node, 443), ACK),
                Reason::Limit0,
            ),
            case(
                "nor another destination port",
                segment((client, 5_000), (node, 444), ACK),
                Reason::Limit0,
            ),
            case(
                "nor the way back",
                segment((node, 443), (client, 5_000), ACK),
                Reason::WithinLimits,
            ),
            case("nor UDP", udp_from(client, 443), Reason::Limit0),
            case("the third that is verified", data(), Reason::Verified),
            case("the fourth", data(), Reason::OverBudget),
        ]);
        rig.at(START + SECOND / 10);
        rig.check(&[
            case("one more after a tenth of a second", data(), Reason::Verified),
            case("and no second", data(), Reason::OverBudget),
        ]);
        rig.offline.flows.leave(&flow).unwrap();
        rig.check(&[case("a stranger again", data(), Reason::Limit0)]);
    }
}

#[test]
fn connections_of_one_identity_share_a_budget_and_others_do_not() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", BUDGETS)) else {
        return;
    };
    let (client, node) = FAMILIES[0];
    let enter = |rig: &mut Rig, port, name| {
        let flow = Flow {
            peer: SocketAddr::new(client, port),
            local: SocketAddr::new(node, 443),
        };
        rig.enter(flow, name);
        flow
    };
    let data = |port| segment((client, port), (node, 443), ACK);
    let first = enter(&mut rig, 1, "a");
    enter(&mut rig, 2, "a");
    enter(&mut rig, 3, "b");
    assert_eq!(rig.passing(2, &data(1)), 2);
    assert_eq!(rig.passing(5, &data(2)), 1);
    assert_eq!(rig.passing(5, &data(3)), 3);
    // Reconnecting refills nothing.
    rig.offline.flows.leave(&first).unwrap();
    enter(&mut rig, 4, "a");
    rig.check(&[row("reconnected", data(4), Reason::OverBudget)]);
}

#[test]
fn without_a_budget_of_its_own_it_is_as_the_first_limit_by_source() {
    let limits = "  limits: [{per: service, rate: 1/d, burst: 1}, {per: source, rate: 1/d, burst: 4}]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", limits)) else {
        return;
    };
    let (client, node) = FAMILIES[1];
    let flow = Flow {
        peer: SocketAddr::new(client, 1),
        local: SocketAddr::new(node, 443),
    };
    rig.enter(flow, "a");
    assert_eq!(rig.passing(9, &segment((client, 1), (node, 443), ACK)), 4);
    assert_eq!(rig.passing(9, &segment((client, 2), (node, 443), ACK)), 1);
}

#[test]
fn a_deny_list_comes_before_verification() {
    let policy = document("p", "enforce", &format!("  deny: [192.0.2.0/24]\n{BUDGETS}"));
    let Some(mut rig) = Rig::new(&policy) else { return };
    let (client, node) = FAMILIES[0];
    let flow = Flow {
        peer: SocketAddr::new(client, 1),
        local: SocketAddr::new(node, 443),
    };
    rig.enter(flow, "a");
    rig.check(&[row(
        "denied",
        segment((client, 1), (node, 443), ACK),
        Reason::Denied,
    )]);
}
