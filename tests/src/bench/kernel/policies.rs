//! What ours is configured with, as an operator would write it.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::Result;
use enforcer_model::DenyEntry;
use ipnet::Ipv4Net;

use super::{link::INTERFACE, traffic::PORT};

/// The policy of the service under attack, with everything on.
pub(super) const ATTACKED: &str = "bench";
/// Prefixes on the access list with everything on.
pub(super) const PREFIXES: u32 = 100_000;
/// Services with everything on, each with a policy of its own.
pub(super) const SERVICES: u16 = 100;

/// Nobody conforms: an hour until the second packet.
const LIMIT: &str = "count: packets, algorithm: token-bucket, rate: 1/h, burst: 1}";

/// One limit per source on everything.
pub(super) fn one_limit() -> String {
    let mut text = head("bench", "");
    let _ = writeln!(
        text,
        "  limits:\n    - {{name: per-source, per: source, prefix: {{ipv4: 32, ipv6: 64}}, {LIMIT}"
    );
    text
}

/// A policy for each of the services; the one under attack has two limits, and gets [`long_list`] as
/// well, which is longer than a file may be.
pub(super) fn everything() -> String {
    let mut text = head(ATTACKED, &format!("  ports: [udp/{PORT}, tcp/{PORT}]\n"));
    text.push_str("  allow: [198.51.100.0/24]\n");
    text.push_str("  egress: {deny: [{cidr: 203.0.113.0/24}]}\n");
    let _ = writeln!(
        text,
        "  limits:\n    - {{name: per-source, per: source, prefix: {{ipv4: 32, ipv6: 64}}, {LIMIT}\n    \
         - {{name: per-network, per: source, prefix: {{ipv4: 24, ipv6: 48}}, {LIMIT}"
    );
    for service in 1..SERVICES {
        text.push_str("---\n");
        text.push_str(&head(
            &format!("service-{service}"),
            &format!("  ports: [tcp/{}]\n", 10_000 + service),
        ));
        let _ = writeln!(text, "  limits:\n    - {{name: per-source, per: source, {LIMIT}");
    }
    text
}

/// The deny list: /24s spread over all of IPv4. Six in a thousand of the floods' sources are on it, and
/// their neighbours are all around.
pub(super) fn long_list() -> Result<Vec<DenyEntry>> {
    (0..PREFIXES)
        .map(|number| {
            // Times an odd number: a permutation of the 24-bit numbers.
            let spread = number.wrapping_mul(0x0037_79b1) << 8;
            Ok(DenyEntry {
                cidr: Ipv4Net::new(Ipv4Addr::from_bits(spread), 24)?.into(),
                reason: None,
                until: None,
                action: enforcer_model::Action::Drop,
                line: 1,
            })
        })
        .collect()
}

fn head(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         interfaces: [{INTERFACE}]\n{ports}"
    )
}
