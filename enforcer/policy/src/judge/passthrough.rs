//! Routes whose TLS the services end.
//!
//! They are routes, with hosts and one rule, and not a kind of their own: whom a rule admits, its limits, where it leads
//! and what is counted for it mean the same where nothing but the name in the `ClientHello` can be read. What a rule
//! says about HTTP, or about proofs that only the service gets to see, is a mistake.

use std::collections::HashMap;

use super::{Known, Located};
use crate::{
    load::Document,
    raw::{self, Kind},
    yaml::{
        place::Place,
        tree::{Node, Value},
    },
};
use enforcer_model::{Counted, HostPattern, Name, Passthrough, RequestKey, Rule};

/// Hosts in lower case, with the routes that pass TLS for them through, and the listeners of these.
pub(super) type Passed = HashMap<String, Vec<(String, Vec<String>)>>;

/// Fields of a rule that are about what the gateway does not see.
const UNSEEN: [&str; 11] = [
    "match",
    "forward",
    "redirect",
    "rewrite",
    "mirror",
    "requestHeaders",
    "responseHeaders",
    "timeout",
    "maxBody",
    "upgrade",
    "priority",
];

/// Fields of `require` that are.
const UNSEEN_PROOFS: [&str; 4] = ["mtls", "token", "apiKey", "when"];

/// Judges what the route at `at` says beside `rules`.
pub(super) fn passthrough(
    raw: raw::Passthrough,
    hosts: &[Located<'_, HostPattern>],
    at: &Place<'_>,
) -> Passthrough {
    for (host, place) in hosts {
        let is_address = matches!(host, HostPattern::Exact(name) if name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok());
        if is_address {
            place.error("clients do not ask for addresses in TLS (RFC 6066, section 3): write names");
        } else if *host == HostPattern::Any {
            place.error_with(
                "this would pass through whatever no other route has the name of",
                "name the hosts, like db.example.com or *.db.example.com",
            );
        }
    }
    let rules = at.field("rules").items();
    if let Some(second) = rules.get(1) {
        second.error("nothing but the name can be read, so a route that passes TLS through has one rule");
    }
    for rule in &rules {
        for key in UNSEEN {
            if rule.mentions(key) {
                rule.field(key).error_with(
                    "the route passes TLS through, and what is in it is not read",
                    format!("leave `{key}` out, or `passthrough`"),
                );
            }
        }
        let require = rule.field("require");
        for key in UNSEEN_PROOFS {
            if require.mentions(key) {
                require.field(key).error_with(
                    "the route passes TLS through, so only the service sees proofs",
                    "write `require: {anonymous: true}`, with `from` for some sources only",
                );
            }
        }
    }
    Passthrough {
        proxy_protocol: matches!(raw.proxy_protocol, Some(raw::ProxyVersion::V2)),
    }
}

/// Judges the rules of such a route as they were built.
pub(super) fn rules(rules: &[Located<'_, Rule>]) {
    for (rule, at) in rules {
        let unseen = |key: &RequestKey| matches!(key, RequestKey::Header(_) | RequestKey::Tier);
        let is_wrong = |counted: Counted, per: &[RequestKey]| {
            counted == Counted::ResponseBytes || per.iter().any(unseen)
        };
        if rule
            .limits
            .iter()
            .any(|limit| is_wrong(limit.counted, &limit.per))
        {
            at.field("limits").error_with(
                "the route passes TLS through, and connections can be counted by source, rule, route and service",
                "leave out keys by `header` and `tier`, and `count`",
            );
        }
    }
}

/// Reports hosts of a route that ends TLS at `listeners`, and that another passes through there.
pub(super) fn unreachable(hosts: &[Located<'_, HostPattern>], listeners: &[Name], known: &Known) {
    for (host, place) in hosts {
        let passed = known.passed.get(&host.to_string()).into_iter().flatten();
        let is_same = |(_, at): &&(String, Vec<String>)| {
            let is_there = |listener: &Name| at.iter().any(|name| name == listener.as_str());
            at.is_empty() || listeners.iter().any(is_there)
        };
        if let Some((route, _)) = passed.into_iter().find(is_same) {
            place.error_with(
                format!("the route `{route}` passes TLS for `{host}` through, so this one is never asked"),
                "give the two different hosts",
            );
        }
    }
}

/// The hosts that are passed through, right or wrong in themselves, with the routes that do and their listeners.
pub(super) fn hosts(documents: &[Document<'_>]) -> Passed {
    let mut hosts = Passed::new();
    for document in documents.iter().filter(|document| document.kind == Kind::Route) {
        let (Some(spec), Some(name)) = (document.top.node().entry("spec"), &document.name) else {
            continue;
        };
        let (Some(_), Some(list)) = (spec.node.entry("passthrough"), spec.node.entry("hosts")) else {
            continue;
        };
        let listeners = spec.node.entry("listeners");
        let listeners: Vec<_> = listeners.map_or_else(Vec::new, |entry| texts(&entry.node));
        for host in texts(&list.node) {
            let routes = hosts.entry(host.to_ascii_lowercase()).or_default();
            routes.push((name.clone(), listeners.clone()));
        }
    }
    hosts
}

/// The elements of a list that are texts, or one that stands alone.
fn texts(node: &Node) -> Vec<String> {
    let nodes = match &node.value {
        Value::List(nodes) => nodes.iter().collect(),
        _ => vec![node],
    };
    let text = |node: &Node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    nodes.into_iter().filter_map(text).collect()
}
