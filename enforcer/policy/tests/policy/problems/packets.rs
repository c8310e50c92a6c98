//! Packet policies and their limits.

use crate::problems::table::{document, each_has_one, limit, packet};

#[test]
fn of_packet_policies() {
    each_has_one(&[
        (
            document("PacketPolicy", "▶mode: shadow"),
            "spec.interfaces",
            "`interfaces` is missing",
        ),
        (
            document("PacketPolicy", "interfaces: ▶[]"),
            "spec.interfaces",
            "the list is empty",
        ),
        (
            document("PacketPolicy", "interfaces: [eth0, ▶interface-name-too-long]"),
            "spec.interfaces[1]",
            "is no interface name",
        ),
        (packet("▶limit: []"), "spec.limit", "did you mean `limits`?"),
        (
            packet("▶colour: red"),
            "spec.colour",
            "the fields here are mode, action, interfaces,",
        ),
        (packet("mode: ▶enforced"), "spec.mode", "did you mean `enforce`?"),
        (
            packet("ports: [tcp/443, ▶443]"),
            "spec.ports[1]",
            "expected a port like tcp/443, found the number `443`",
        ),
        (packet("ports: [▶'443']"), "spec.ports[0]", "has no protocol"),
        (
            packet("ports: [▶tcp/70000]"),
            "spec.ports[0]",
            "`70000` is no port from 1 to 65535",
        ),
        (
            packet("ports: [▶icmp/1]"),
            "spec.ports[0]",
            "`icmp` is no protocol with ports",
        ),
        (
            packet("ports: [tcp/443, ▶tcp/443]"),
            "spec.ports[1]",
            "says the same as `tcp/443` above",
        ),
        (
            packet("allow: [10.0.0.0/8, ▶10.0.0.300/8]"),
            "spec.allow[1]",
            "10.0.0.300/8: octet 300 is above 255",
        ),
        (
            packet("allow: [▶10.1.2.3/8]"),
            "spec.allow[0]",
            "write 10.0.0.0/8 for the network",
        ),
        (
            packet("deny: [▶10.0.0.0/40]"),
            "spec.deny[0]",
            "is not a number from 0 to 32",
        ),
        (
            packet("deny:\n- {cidr: ▶bogus}"),
            "spec.deny[0].cidr",
            "`bogus` is no address",
        ),
        (
            packet("deny:\n- ▶{reason: because}"),
            "spec.deny[0].cidr",
            "`cidr` is missing",
        ),
        (
            packet("deny:\n- {cidr: 192.0.2.0/24, ▶reson: x}"),
            "spec.deny[0].reson",
            "did you mean `reason`?",
        ),
        (
            packet("deny:\n- {cidr: 192.0.2.0/24, until: ▶tomorrow}"),
            "spec.deny[0].until",
            "RFC 3339",
        ),
        (
            packet("allow: [192.0.2.0/24]\ndeny: [▶192.0.2.0/24]"),
            "spec.deny[0]",
            "is denied here and allowed at",
        ),
        (
            packet("deny: [192.0.2.0/24, ▶192.0.2.0/24]"),
            "spec.deny[1]",
            "already: write it once",
        ),
        (
            packet("egress: {deny: [▶300.0.0.0/8]}"),
            "spec.egress.deny[0]",
            "octet 300 is above 255",
        ),
        (
            packet("egress: {▶off: pod}"),
            "spec.egress.off",
            "did you mean `of`?",
        ),
        (
            packet("egress: {default: ▶drop}"),
            "spec.egress.default",
            "write allow or deny",
        ),
        (
            packet("egress: {allow: [{cidr: 192.0.2.0/24, ports: ▶sctp}]}"),
            "spec.egress.allow[0].ports",
            "write tcp/443, udp/53, tcp, udp or icmp",
        ),
        (
            packet("egress: {allow: [{cidr: 192.0.2.0/24, ports: [tcp/1, ▶icmp/8]}]}"),
            "spec.egress.allow[0].ports[1]",
            "is no protocol with ports",
        ),
        (
            packet("egress: {allow: [{cidr: 192.0.2.0/24, ports: ▶[tcp, tcp/443]}]}"),
            "spec.egress.allow[0].ports",
            "`tcp/443` is part of `tcp`",
        ),
        (
            packet("egress: {allow: [192.0.2.0/24, ▶192.0.2.0/24]}"),
            "spec.egress.allow[1]",
            "write it once, with all its ports",
        ),
        (
            packet("egress: {allow: [{cidr: 192.0.2.0/24, ▶until: x}]}"),
            "spec.egress.allow[0].until",
            "until",
        ),
        (
            packet("egress:\n  limits:\n  - {rate: ▶100/s}"),
            "spec.egress.limits[0].rate",
            "write a rate like 100Mbit/s",
        ),
        (
            packet("egress:\n  limits:\n  - {rate: 1MB/s}\n  - {rate: 1MB/s}\n  - ▶{rate: 1MB/s}"),
            "spec.egress.limits[2]",
            "at most 2 limits on what leaves",
        ),
        (
            packet("egress:\n  limits:\n  - {per: interface, rate: 1MB/s, prefix: ▶{ipv4: 24}}"),
            "spec.egress.limits[0].prefix",
            "only a limit per destination has a prefix",
        ),
        (
            packet("limits: [{name: x, rate: 1/s}]\negress: {limits: [{name: ▶x, rate: 1MB/s}]}"),
            "spec.egress.limits[0].name",
            "give one of them another name",
        ),
        (
            packet("egress: {deny: [{cidr: 192.0.2.0/24, ▶action: reset}]}"),
            "spec.egress.deny[0].action",
            "action",
        ),
        (packet("action: ▶reject"), "spec.action", "one of drop or reset"),
        (
            packet("deny: [{cidr: 192.0.2.0/24, action: ▶rst}]"),
            "spec.deny[0].action",
            "`rst` is not known here",
        ),
        (
            packet("limits: [{rate: 1/s, action: ▶shadow}]"),
            "spec.limits[0].action",
            "`shadow` is not known here",
        ),
        (
            packet("syn: {cookies: always, above: ▶5/s}"),
            "spec.syn.above",
            "only `cookies: auto` waits",
        ),
        (
            packet("syn: {cookies: auto, above: ▶1MB/s}"),
            "spec.syn.above",
            "write a rate like 20000/s",
        ),
        (
            packet("syn: ▶{above: 5/s}"),
            "spec.syn.cookies",
            "`cookies` is missing",
        ),
        (
            packet("ports: [udp/53]\nsyn: {cookies: ▶always}"),
            "spec.syn.cookies",
            "SYNs are TCP's",
        ),
        (
            packet("verified: ▶{burst: 5}"),
            "spec.verified.rate",
            "`rate` is missing",
        ),
        (
            packet("▶allow: "),
            "spec.allow",
            "write a value, or leave the field out",
        ),
    ]);
}

#[test]
fn of_packet_limits() {
    each_has_one(&[
        (
            limit("{rate: ▶0/s}"),
            "spec.limits[0].rate",
            "zero is never unlimited: leave the limit out",
        ),
        (
            limit("{rate: ▶100}"),
            "spec.limits[0].rate",
            "expected a rate like 100/s, found the number `100`",
        ),
        (
            limit("{rate: ▶fast}"),
            "spec.limits[0].rate",
            "write an amount and a period",
        ),
        (
            limit("{rate: ▶10/fortnight}"),
            "spec.limits[0].rate",
            "`fortnight` is no period",
        ),
        (limit("{rate: ▶2G/s}"), "spec.limits[0].rate", "at most 1G/s"),
        (limit("{rate: ▶1/2d}"), "spec.limits[0].rate", "too slow"),
        (
            limit("{rate: ▶10Mbit/s}"),
            "spec.limits[0].rate",
            "write `count: bytes`",
        ),
        (
            limit("{count: bytes, rate: ▶200Gbit/s}"),
            "spec.limits[0].rate",
            "at most 100Gbit/s",
        ),
        (limit("▶{burst: 5}"), "spec.limits[0].rate", "`rate` is missing"),
        (limit("{▶rat: 5/s}"), "spec.limits[0].rat", "did you mean `rate`?"),
        (
            limit("{rate: 5/s, burst: ▶0}"),
            "spec.limits[0].burst",
            "a burst of zero admits nothing",
        ),
        (
            limit("{rate: 5/s, burst: ▶-5}"),
            "spec.limits[0].burst",
            "negative",
        ),
        (
            limit("{rate: 5/s, burst: ▶1.5}"),
            "spec.limits[0].burst",
            "a whole number",
        ),
        (
            limit("{rate: 5/s, burst: ▶5MiB}"),
            "spec.limits[0].burst",
            "unknown unit `MiB`",
        ),
        (
            limit("{rate: 5/s, per: ▶sorce}"),
            "spec.limits[0].per",
            "did you mean `source`?",
        ),
        (
            limit("{rate: 5/s, count: ▶requests}"),
            "spec.limits[0].count",
            "write packets, bytes or connections",
        ),
        (
            limit("{rate: 5/s, algorithm: ▶token_bucket}"),
            "spec.limits[0].algorithm",
            "did you mean `token-bucket`?",
        ),
        (
            limit("{rate: 5/s, algorithm: fixed-window, burst: ▶9}"),
            "spec.limits[0].burst",
            "a window has no burst",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv4: ▶33}}"),
            "spec.limits[0].prefix.ipv4",
            "33 is no prefix length from 1 to 32",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv6: ▶0}}"),
            "spec.limits[0].prefix.ipv6",
            "0 is no prefix length from 1 to 128",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv6: ▶-1}}"),
            "spec.limits[0].prefix.ipv6",
            "expected a whole number",
        ),
        (
            limit("{rate: 5/s, per: interface, prefix: ▶{ipv4: 24}}"),
            "spec.limits[0].prefix",
            "only a limit per source has a prefix",
        ),
        (
            limit("{rate: 5/s, adaptive: {floor: ▶6/s}}"),
            "spec.limits[0].adaptive.floor",
            "above the limit's rate",
        ),
        (
            limit("{name: a, rate: 5/s}\n- ▶{name: a, rate: 6/s}"),
            "spec.limits[1]",
            "is named `a` too",
        ),
        (
            packet("limits: [{rate: 1/s}, {rate: 1/s}, {rate: 1/s}, {rate: 1/s}, ▶{rate: 1/s}]"),
            "spec.limits[4]",
            "a policy has at most 4 limits",
        ),
    ]);
}

#[test]
fn nothing_that_is_denied_is_left_out_in_silence() {
    each_has_one(&[
        (packet("deny: [▶{}]"), "spec.deny[0].cidr", "`cidr` is missing"),
        (packet("▶deny: "), "spec.deny", "found nothing"),
        (packet("deny: [▶~]"), "spec.deny[0]", "found nothing"),
        (packet("deny: [▶'']"), "spec.deny[0]", "is no address"),
        (packet("deny: ▶192.0.2.0/24"), "spec.deny", "expected a list"),
        (
            packet("verified: {rate: ▶1MB/s}"),
            "spec.verified.rate",
            "packets are counted",
        ),
    ]);
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    each_has_one(&[
        (
            packet("allow: [192.0.2.1, ▶0.0.0.0/0]"),
            "spec.allow[1]",
            "warning: spec.allow[1]: 0.0.0.0/0 is every source",
        ),
        (
            packet("deny: [▶'::/0']"),
            "spec.deny[0]",
            "warning: spec.deny[0]: ::/0 is everything",
        ),
        (
            packet("egress: {deny: [▶0.0.0.0/0]}"),
            "spec.egress.deny[0]",
            "warning: spec.egress.deny[0]: 0.0.0.0/0 is everything: nothing is sent but to `kernel.management`",
        ),
        (
            packet("egress: {default: deny, allow: [▶'::/0']}"),
            "spec.egress.allow[0]",
            "warning: spec.egress.allow[0]: ::/0 is everything: nothing of its family is denied by default",
        ),
    ]);
}
