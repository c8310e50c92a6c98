use std::collections::BTreeSet;

use enforcer_common::layout::{IPV4_LIST, table_parts};
use time::OffsetDateTime;

use super::*;
use crate::address::prefix;
use enforcer_model::PolicySet;

const GROUP: u32 = 3;

fn set(specs: &[(&str, &str)]) -> PolicySet {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policies.yaml");
    let documents = specs.iter().enumerate().map(|(number, (mode, egress))| {
        format!(
            "---\napiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: p{number}}}\nspec:\n  mode: {mode}\n  \
             interfaces: [eth0]\n  ports: [tcp/{}]\n  egress: {egress}\n",
            number + 1
        )
    });
    std::fs::write(&file, documents.collect::<String>()).unwrap();
    enforcer_policy::load(&[file])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .set
}

fn compiled(specs: &[(&str, &str)]) -> (EgressTables, u32) {
    let set = set(specs);
    let about: Vec<(u32, &PacketPolicy)> = (0..)
        .zip(set.packet_policies.iter().map(|policy| &**policy))
        .collect();
    let now = Moment {
        wall: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
        monotonic_ns: 1_000,
    };
    let mut tables = EgressTables::default();
    let place = Place {
        group: GROUP,
        slot: 1,
        now,
    };
    let flags = tables.add(&about, place).unwrap();
    (tables, flags)
}

/// The rule that a packet finds for what its longest prefix names.
fn found(tables: &EgressTables, net: &str, protocol: u8, port: u16) -> EgressRule {
    let net: IpNet = net.parse().unwrap();
    let entry = tables.access.iter().find(|(key, _)| prefix(key) == Some(net));
    let number = entry.unwrap().1.rules & egress_set::NUMBER;
    let rule = |protocol, port: u16| {
        tables.rules.get(&EgressKey {
            set: number,
            port: port.to_be(),
            protocol,
            slot: 1,
        })
    };
    *rule(protocol, port)
        .or_else(|| rule(protocol, 0))
        .or_else(|| rule(0, 0))
        .unwrap()
}

#[test]
fn a_prefix_has_the_rules_of_all_that_contain_it() {
    let (tables, _) = compiled(&[(
        "enforce",
        "{default: deny, allow: [{cidr: 10.0.0.0/8, ports: tcp/443}, {cidr: 10.1.0.0/16, ports: tcp/80}, \
         {cidr: 10.2.0.0/16, ports: udp}], deny: [{cidr: 10.1.2.0/24, ports: tcp}]}",
    )]);
    let default = EgressRule {
        default_by: 0,
        ..EgressRule::PASS
    };
    assert_eq!(found(&tables, "10.0.0.0/8", 6, 443), EgressRule::PASS);
    assert_eq!(found(&tables, "10.0.0.0/8", 6, 80), default);
    assert_eq!(found(&tables, "10.1.0.0/16", 6, 443), EgressRule::PASS);
    assert_eq!(found(&tables, "10.1.0.0/16", 6, 80), EgressRule::PASS);
    assert_eq!(found(&tables, "10.2.0.0/16", 17, 9), EgressRule::PASS);
    assert_eq!(found(&tables, "10.2.0.0/16", 6, 80), default);
    let denied = |default_by| EgressRule {
        denied_until_ns: u64::MAX,
        denied_by: 0,
        default_by,
        ..EgressRule::PASS
    };
    assert_eq!(found(&tables, "10.1.2.0/24", 6, 443), denied(NO_POLICY));
    assert_eq!(found(&tables, "10.1.2.0/24", 6, 25), denied(0));
    assert_eq!(found(&tables, "10.1.2.0/24", 17, 25), default);
}

#[test]
fn all_addresses_and_the_default_are_not_in_the_trie() {
    let (tables, flags) = compiled(&[(
        "enforce",
        "{default: deny, allow: [{cidr: 0.0.0.0/0, ports: udp/53}]}",
    )]);
    assert!(tables.access.is_empty());
    assert_eq!(
        flags,
        interface_flag::EGRESS | interface_flag::EGRESS_ROOT | interface_flag::EGRESS_MEMORY
    );
    let sets: BTreeSet<u32> = tables.rules.keys().map(|key| key.set).collect();
    let [v4, v6] = [true, false].map(|ipv4| egress_root(egress_side::NODE, GROUP, ipv4));
    assert_eq!(sets, [v4, v6, egress_nameless(egress_side::NODE, GROUP)].into());
}

#[test]
fn without_a_default_nothing_is_remembered() {
    let (tables, flags) = compiled(&[("enforce", "{deny: [10.0.0.0/8]}")]);
    assert_eq!(flags, interface_flag::EGRESS);
    // One for the list, and one for what names no destination.
    assert_eq!((tables.access.len(), tables.rules.len()), (1, 2));
}

#[test]
fn h1_what_names_no_destination_is_denied_where_anything_is() {
    let nameless = |egress: &str, mode: &str| {
        let (tables, _) = compiled(&[(mode, egress)]);
        tables
            .rules
            .iter()
            .find(|(key, _)| key.set == egress_nameless(egress_side::NODE, GROUP))
            .map(|(_, rule)| *rule)
    };
    for egress in [
        "{deny: [10.0.0.0/8]}",
        "{default: deny, allow: [0.0.0.0/0]}",
        "{limits: [{per: interface, rate: 8Mbit/s}]}",
    ] {
        let enforced = nameless(egress, "enforce").unwrap();
        assert_eq!(
            (enforced.denied_by, enforced.denied_until_ns),
            (0, u64::MAX),
            "{egress}"
        );
        let tried = nameless(egress, "shadow").unwrap();
        assert_eq!((tried.denied_by, tried.tried_by), (NO_POLICY, 0), "{egress}");
    }
    assert_eq!(nameless("{allow: [10.0.0.0/8]}", "enforce"), None);
}

/// A list about one port is about what may have that port.
#[test]
fn h2c_what_cannot_be_parsed_has_the_rule_of_the_strictest() {
    let (tables, _) = compiled(&[(
        "enforce",
        "{default: deny, allow: [10.0.0.0/8, {cidr: 192.0.2.0/24, ports: tcp}], deny: [{cidr: 10.1.0.0/16, ports: tcp/25}]}",
    )]);
    let unparsed = |net| found(&tables, net, UNPARSED, 0);
    assert_eq!(unparsed("10.0.0.0/8"), EgressRule::PASS);
    assert_eq!(
        (
            unparsed("10.1.0.0/16").denied_by,
            unparsed("10.1.0.0/16").default_by
        ),
        (0, NO_POLICY)
    );
    assert_eq!(unparsed("192.0.2.0/24").default_by, 0);
}

#[test]
fn the_sides_have_lists_of_their_own() {
    let (tables, flags) = compiled(&[
        ("enforce", "{deny: [10.0.0.0/8]}"),
        ("enforce", "{of: pod, deny: [10.0.0.0/8]}"),
    ]);
    assert_eq!(flags, interface_flag::EGRESS | interface_flag::POD);
    let kinds: BTreeSet<u32> = tables
        .access
        .iter()
        .map(|(key, _)| table_parts(key.data().table & !IPV4_LIST).0)
        .collect();
    assert_eq!(kinds, [table_kind::EGRESS, table_kind::POD].into());
}

#[test]
fn sets_that_are_the_same_are_one() {
    let nets: Vec<String> = (0..200).map(|third| format!("198.51.{third}.0/24")).collect();
    let (tables, _) = compiled(&[("enforce", &format!("{{deny: [{}]}}", nets.join(", ")))]);
    assert_eq!((tables.access.len(), tables.rules.len()), (200, 2));
}

#[test]
fn a_policy_in_shadow_neither_opens_nor_closes() {
    let (tables, _) = compiled(&[
        (
            "enforce",
            "{default: deny, allow: [{cidr: 10.0.0.0/8, ports: tcp/443}]}",
        ),
        (
            "shadow",
            "{default: deny, allow: [{cidr: 10.0.0.0/8, ports: tcp/80}], deny: [10.0.0.0/8]}",
        ),
    ]);
    let tried = EgressRule {
        tried_until_ns: u64::MAX,
        tried_by: 1,
        ..EgressRule::PASS
    };
    assert_eq!(found(&tables, "10.0.0.0/8", 6, 443), tried);
    let closed = EgressRule {
        default_by: 0,
        ..tried
    };
    assert_eq!(found(&tables, "10.0.0.0/8", 6, 80), closed);
    let closed = EgressRule {
        default_tried_by: 1,
        ..closed
    };
    assert_eq!(found(&tables, "10.0.0.0/8", 6, 81), closed);
}
