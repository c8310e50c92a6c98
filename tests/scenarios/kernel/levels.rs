//! Limits with several prefixes: neither who changes addresses within one nor who has all of a wider one gets
//! more than its share.

use enforcer_common::{limiter::Params, verdict::Reason};

use crate::{
    packets::{ip, udp_from},
    rig::{Case, Rig, check_both, document},
};

/// A /32, /24; and a /64, /56, /48 for IPv6.
const LEVELS: &str = "prefix: [{ipv4: 32, ipv6: 64}, {ipv4: 24, ipv6: 56, times: 2}, {ipv6: 48, times: 3}]";

fn row(description: &'static str, source: &str, reason: Reason) -> Case {
    Case::arrives(description, udp_from(ip(source), 53), reason, "p")
}

/// What two packets for a /32 or /64 come to, when a limit has all the levels.
fn rows(over: Reason) -> Vec<Case> {
    const WITHIN: Reason = Reason::WithinLimits;
    vec![
        row("the first of an address", "192.0.2.1", WITHIN),
        row("the second", "192.0.2.1", WITHIN),
        row("the third is over the /32", "192.0.2.1", over),
        row("a neighbour's first", "192.0.2.2", WITHIN),
        row("its second", "192.0.2.2", WITHIN),
        row("its third", "192.0.2.2", over),
        row("the /24 is used up", "192.0.2.3", over),
        row("by all of it", "192.0.2.255", over),
        row("another /24 is not", "192.0.3.1", WITHIN),
        row("nor has IPv4 a wider level", "192.0.4.1", WITHIN),
        row("the first of a /64", "2001:db8:1:1::1", WITHIN),
        row("another of its addresses", "2001:db8:1:1:ffff::9", WITHIN),
        row("a third is over the /64", "2001:db8:1:1::7", over),
        row("the next /64", "2001:db8:1:2::1", WITHIN),
        row("its second", "2001:db8:1:2::1", WITHIN),
        row("its third", "2001:db8:1:2::1", over),
        row("the /56 is used up", "2001:db8:1:3::1", over),
        row("the next /56", "2001:db8:1:100::1", WITHIN),
        row("its second", "2001:db8:1:101::1", WITHIN),
        row("the /48 is used up", "2001:db8:1:200::1", over),
        row("by all of it", "2001:db8:1:ff00::1", over),
        row("another /48 is not", "2001:db8:2:200::1", WITHIN),
    ]
}

#[test]
fn each_prefix_holds() {
    for limit in [
        "rate: 1/d, burst: 2",
        "rate: 2/d, algorithm: fixed-window",
        "rate: 2/d, algorithm: sliding-window",
    ] {
        check_both("p", &format!("  limits: [{{{limit}, {LEVELS}}}]"), || {
            rows(Reason::Limit0)
        });
    }
}

#[test]
fn a_level_is_counted_by_its_limits_name() {
    let limits = format!(
        "  limits: [{{per: service, rate: 1000/s, burst: 1000}}, {{rate: 1/d, burst: 2, {LEVELS}}}, {{rate: 1/d, burst: 9}}]"
    );
    check_both("p", &limits, || rows(Reason::Limit1));
}

#[test]
fn levels_count_bytes() {
    // A datagram's frame is 42 bytes long, or 62.
    let limit = format!("  limits: [{{count: bytes, rate: 1B/s, burst: 84, {LEVELS}}}]");
    check_both("p", &limit, || {
        vec![
            row("84 of 84 bytes", "192.0.2.1", Reason::WithinLimits),
            row("of an address", "192.0.2.1", Reason::WithinLimits),
            row("the third", "192.0.2.1", Reason::Limit0),
            row("168 of 168 bytes", "192.0.2.2", Reason::WithinLimits),
            row("of the /24", "192.0.2.3", Reason::WithinLimits),
            row("the fifth", "192.0.2.4", Reason::Limit0),
            row("62 of 84 bytes", "2001:db8:1:1::1", Reason::WithinLimits),
            row("of a /64", "2001:db8:1:1::2", Reason::Limit0),
            row(
                "124 of 168 bytes of a /56",
                "2001:db8:1:2::1",
                Reason::WithinLimits,
            ),
            row("the third", "2001:db8:1:3::1", Reason::Limit0),
            row(
                "248 of 252 bytes of a /48",
                "2001:db8:1:100::1",
                Reason::WithinLimits,
            ),
            row("the last", "2001:db8:1:200::1", Reason::WithinLimits),
            row("no more", "2001:db8:1:300::1", Reason::Limit0),
        ]
    });
}

#[test]
fn eight_levels_are_asked() {
    let wide = "prefix: [{ipv4: 32}, {ipv4: 24}, {ipv4: 16}, {ipv4: 8}]";
    let limits = format!(
        "  limits: [{{rate: 1/d, burst: 9, {wide}}}, {{rate: 1/d, burst: 8, prefix: [{{ipv4: 30}}, {{ipv4: 28}}, {{ipv4: 12}}, {{ipv4: 4}}]}}]"
    );
    let Some(mut rig) = Rig::new(&document("p", "enforce", &limits)) else {
        return;
    };
    // No two of them in one prefix but the last, a /4.
    for number in 0..8 {
        rig.check(&[row(
            "one of eight",
            &format!("{}.0.0.1", 16 + number),
            Reason::WithinLimits,
        )]);
    }
    rig.check(&[
        row("the /4 is used up", "30.0.0.1", Reason::Limit1),
        row("another is not", "32.0.0.1", Reason::WithinLimits),
    ]);
}

#[test]
fn the_controller_moves_all_levels_alike() {
    let limit = "  limits: [{name: x, rate: 4/d, algorithm: fixed-window, prefix: [{ipv4: 32}, {ipv4: 24, times: 2}]}]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", limit)) else {
        return;
    };
    let halved = |level: &enforcer_model::Level| {
        let params: Params = level.params;
        Ok(params
            .at_rate(2 * u64::from(level.times.get()), 86_400_000_000_000)
            .unwrap())
    };
    let (policy, limit) = ("p".parse().unwrap(), "x".parse().unwrap());
    rig.offline.store.adapt(&policy, &limit, halved).unwrap();
    let rows =
        |source: &'static str, reasons: [Reason; 3]| reasons.map(|reason| row("half of it", source, reason));
    const WITHIN: Reason = Reason::WithinLimits;
    rig.check(&rows("192.0.2.1", [WITHIN, WITHIN, Reason::Limit0]));
    rig.check(&rows("192.0.2.2", [WITHIN, WITHIN, Reason::Limit0]));
    rig.check(&rows("192.0.2.3", [Reason::Limit0; 3]));
    // The same policy again: the change stays.
    rig.apply(&document("p", "enforce", "  limits: [{name: x, rate: 4/d, algorithm: fixed-window, prefix: [{ipv4: 32}, {ipv4: 24, times: 2}]}]"), crate::rig::START);
    rig.check(&rows("192.0.3.1", [WITHIN, WITHIN, Reason::Limit0]));
}
