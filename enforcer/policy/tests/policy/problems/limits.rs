//! What limits are about: prefixes, traffic, verified identities.

use crate::problems::table::{each_has_one, limit, packet};

#[test]
fn of_prefixes() {
    each_has_one(&[
        (
            limit("{rate: 5/s, prefix: ▶[]}"),
            "spec.limits[0].prefix",
            "the list is empty",
        ),
        (
            limit("{rate: 5/s, prefix: ▶24}"),
            "spec.limits[0].prefix",
            "expected {ipv4, ipv6, times}, or a list of them",
        ),
        (
            limit("{rate: 5/s, prefix: [{ipv4: 32}, ▶{times: 8}]}"),
            "spec.limits[0].prefix[1]",
            "is about nobody",
        ),
        (
            limit("{rate: 5/s, prefix: [{ipv4: 32}, {ipv4: ▶0}]}"),
            "spec.limits[0].prefix[1].ipv4",
            "0 is no prefix length from 1 to 32",
        ),
        (
            limit("{rate: 5/s, prefix: [{}, {ipv6: ▶64, times: 8}]}"),
            "spec.limits[0].prefix[1].ipv6",
            "IPv6 has a /64 at",
        ),
        (
            limit("{rate: 5/s, prefix: [{ipv4: 32}, {ipv4: 24, times: ▶0}]}"),
            "spec.limits[0].prefix[1].times",
            "zero times the rate admits nobody",
        ),
        (
            limit("{rate: 5/s, prefix: [{ipv4: 32}, {ipv4: 24, times: ▶1.5}]}"),
            "spec.limits[0].prefix[1].times",
            "expected a whole number",
        ),
        (
            limit("{rate: 1G/s, algorithm: sliding-window, prefix: [{ipv4: 32}, {ipv4: 24, times: ▶100}]}"),
            "spec.limits[0].prefix[1].times",
            "is more than a limiter counts",
        ),
        (
            limit("{rate: 5/s, prefix: [{ipv4: 32}, {ipv4: 24, ▶time: 8}]}"),
            "spec.limits[0].prefix[1].time",
            "did you mean `times`?",
        ),
        (
            packet(
                "limits: ▶[{rate: 1/s, prefix: [{}, {ipv4: 24}, {ipv4: 16}, {ipv4: 8}]}, {rate: 1/s, prefix: [{}, {ipv4: 24}, {ipv4: 16}, {ipv4: 8}]}, {per: service, rate: 1/s}]",
            ),
            "spec.limits",
            "these are 9 levels",
        ),
    ]);
}

#[test]
fn of_traffic() {
    each_has_one(&[
        (
            limit("{rate: 5/s, traffic: ▶[]}"),
            "spec.limits[0].traffic",
            "the list is empty",
        ),
        (
            limit("{rate: 5/s, traffic: ▶syn}"),
            "spec.limits[0].traffic",
            "`syn` is not known here",
        ),
        (
            limit("{rate: 5/s, traffic: ▶[tcp, tcp-syn]}"),
            "spec.limits[0].traffic",
            "named twice",
        ),
        (
            limit("{rate: 5/s, count: connections, traffic: ▶icmp}"),
            "spec.limits[0].traffic",
            "only TCP and UDP have connections",
        ),
        (
            packet("ports: [tcp/443]\nlimits: [{rate: 5/s, traffic: ▶[udp, icmp]}]"),
            "spec.limits[0].traffic",
            "nothing of that comes to the policy's ports",
        ),
    ]);
}

#[test]
fn of_verified_identities() {
    each_has_one(&[
        (
            limit("{rate: 5/s, per: identity, count: ▶connections}"),
            "spec.limits[0].count",
            "known only once it stands",
        ),
        (
            limit("{rate: 5/s, per: identity, traffic: ▶tcp-syn}"),
            "spec.limits[0].traffic",
            "sends no SYN",
        ),
        (
            limit("{rate: 5/s, per: identity, prefix: ▶{ipv4: 24}}"),
            "spec.limits[0].prefix",
            "only a limit per source has a prefix",
        ),
        (
            packet("ports: [udp/53]\nlimits: [{rate: 5/s, per: ▶identity}]"),
            "spec.limits[0].per",
            "verified connections are TCP's",
        ),
        (
            packet("verified: {rate: 5/s, recent: ▶on}"),
            "spec.verified.recent",
            "expected `off`, or {rate, burst, for}",
        ),
        (
            packet("verified: {rate: 5/s, recent: ▶{burst: 5}}"),
            "spec.verified.recent.rate",
            "`rate` is missing",
        ),
        (
            packet("verified: {rate: 5/s, recent: {rate: 5/s, for: ▶1s}}"),
            "spec.verified.recent.for",
            "`1s` is out of range: write 1m to 1d",
        ),
        (
            packet("verified: {rate: 5/s, recent: {rate: ▶5MB/s}}"),
            "spec.verified.recent.rate",
            "packets are counted",
        ),
        (
            packet("verified: ▶{burst: 5, recent: off}"),
            "spec.verified.rate",
            "`rate` is missing",
        ),
    ]);
}
