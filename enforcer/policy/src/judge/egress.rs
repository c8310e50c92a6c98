//! What packet policies say of what leaves.

use enforcer_common::layout::EGRESS_LIMITS_PER_POLICY;

use super::{
    distinct_of,
    levels::prefix,
    limit::{Draft, Measure},
    packet::{default_burst, deny_entry, parse_port, whole_families},
    values,
};
use crate::{
    raw,
    yaml::{
        place::{Place, Unique, parsed},
        tree::Value,
    },
};
use enforcer_model::{
    Action, Egress, EgressAllow, EgressDefault, EgressDeny, EgressKey, EgressLimit, EgressOf, PacketLimit,
    Traffic, Transport,
    leaf::{Name, cidr},
};

/// `limits`: the policy's other limits, whose names are taken.
pub(super) fn build(raw: raw::Egress, limits: &[PacketLimit], at: &Place<'_>) -> Egress {
    let of = match raw.of {
        Some(raw::EgressOf::Pod) => EgressOf::Pod,
        Some(raw::EgressOf::Node) | None => EgressOf::Node,
    };
    let default = match raw.default {
        Some(raw::EgressDefault::Deny) => EgressDefault::Deny,
        Some(raw::EgressDefault::Allow) | None => EgressDefault::Allow,
    };
    let allow = allow(raw.allow.unwrap_or_default(), default, at);
    Egress {
        of,
        default,
        deny: deny(raw.deny.unwrap_or_default(), of, at),
        allow,
        limits: egress_limits(raw.limits.unwrap_or_default(), limits, at),
    }
}

fn allow(raw: Vec<raw::EgressAllow>, default: EgressDefault, at: &Place<'_>) -> Vec<EgressAllow> {
    let mut seen = Unique::default();
    at.each("allow", raw, |(entry, at)| {
        // An entry that is a plain prefix has no field of its own to point at.
        let net = match (&at.node().value, entry.cidr) {
            (Value::Text(_), Some(text)) => parsed(cidr::parse)(text, &at),
            (_, text) => at.required("cidr", text, parsed(cidr::parse)),
        };
        let traffic = traffic(entry.ports, &at);
        let cidr = net?;
        if cidr.prefix_len() == 0 && traffic.is_empty() && default == EgressDefault::Deny {
            at.warning(
                format!("{cidr} is everything: nothing of its family is denied by default"),
                "name the networks or the ports that you mean",
            );
        }
        seen.claim(cidr, &at, |first| {
            format!("{cidr} is allowed at {first} already: write it once, with all its ports")
        });
        Some(EgressAllow { cidr, traffic })
    })
}

fn deny(raw: Vec<raw::EgressDeny>, of: EgressOf, at: &Place<'_>) -> Vec<EgressDeny> {
    let mut seen = Unique::default();
    let (mut places, mut meant) = (Vec::new(), Vec::new());
    let denied = at.each("deny", raw, |(entry, at)| {
        let raw::EgressDeny {
            cidr,
            ports,
            reason,
            until,
            everything,
        } = entry;
        let traffic = traffic(ports, &at);
        // Who is told of a drop is somewhere else, so there is no action.
        let entry = raw::DenyEntry {
            cidr,
            reason,
            until,
            action: None,
            everything: None,
        };
        let entry = deny_entry(entry, Action::Drop, &at)?;
        let cidr = entry.cidr;
        seen.claim(cidr, &at, |first| {
            format!("{cidr} is denied at {first} already: write it once")
        });
        if traffic.is_empty() {
            if everything == Some(true) {
                meant.push(cidr);
            }
            places.push((cidr, at));
        }
        Some(EgressDeny { entry, traffic })
    });
    let all: Vec<_> = places.iter().map(|(cidr, place)| (*cidr, place)).collect();
    // A denied destination stays denied where it is allowed too, so that no entry of `allow` makes this less.
    let left = match of {
        EgressOf::Node => "nothing is sent but to `kernel.management`",
        EgressOf::Pod => "nothing is sent",
    };
    whole_families(&all, &[], &meant, left);
    denied
}

fn traffic(raw: Option<raw::OneOrMany<raw::EgressPort>>, at: &Place<'_>) -> Vec<Traffic> {
    let traffic = values(distinct_of(at, "ports", raw.map(|list| list.0), parse_traffic));
    for all in [Traffic::Tcp(None), Traffic::Udp(None)] {
        let one = traffic
            .iter()
            .find(|one| **one != all && is_same_protocol(**one, all));
        if let Some(one) = one.filter(|_| traffic.contains(&all)) {
            let (one, all) = (written(*one), written(all));
            at.field("ports").error_with(
                format!("`{one}` is part of `{all}`, which is here too"),
                format!("leave out one of the two: `{all}` is every port of it"),
            );
        }
    }
    traffic
}

fn is_same_protocol(one: Traffic, other: Traffic) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

fn written(traffic: Traffic) -> String {
    match traffic {
        Traffic::Tcp(None) => "tcp".to_owned(),
        Traffic::Tcp(Some(port)) => format!("tcp/{port}"),
        Traffic::Udp(None) => "udp".to_owned(),
        Traffic::Udp(Some(port)) => format!("udp/{port}"),
        Traffic::Icmp => "icmp".to_owned(),
    }
}

/// `tcp/443`, `udp`, `icmp`.
fn parse_traffic(text: &str) -> Result<Traffic, String> {
    match text {
        "tcp" => return Ok(Traffic::Tcp(None)),
        "udp" => return Ok(Traffic::Udp(None)),
        "icmp" => return Ok(Traffic::Icmp),
        _ => {}
    }
    if !text.contains('/') {
        return Err(format!(
            "`{text}` is no protocol that is known here: write tcp/443, udp/53, tcp, udp or icmp"
        ));
    }
    let port = parse_port(text)?;
    let number = std::num::NonZeroU16::new(port.number);
    Ok(match port.protocol {
        Transport::Tcp => Traffic::Tcp(number),
        Transport::Udp => Traffic::Udp(number),
    })
}

fn egress_limits(raw: Vec<raw::EgressLimit>, others: &[PacketLimit], at: &Place<'_>) -> Vec<EgressLimit> {
    let mut names = Unique::default();
    let mut position = 0;
    if let Some(surplus) = at.field("limits").items().get(EGRESS_LIMITS_PER_POLICY)
        && raw.len() > EGRESS_LIMITS_PER_POLICY
    {
        surplus.error_with(
            format!("a policy has at most {EGRESS_LIMITS_PER_POLICY} limits on what leaves"),
            "leave one out, or write another policy for other ports",
        );
    }
    at.each("limits", raw, |(raw, at)| {
        position += 1;
        let built = egress_limit(raw, position, &at)?;
        if others.iter().any(|other| other.name == built.name) {
            at.field("name").error(format!(
                "one of the policy's `limits` is named `{}` too: give one of them another name",
                built.name
            ));
        }
        names.claim(built.name.clone(), &at, |first| {
            format!(
                "the limit at {first} is named `{}` too: give one of them another name",
                built.name
            )
        });
        Some(built)
    })
}

fn egress_limit(raw: raw::EgressLimit, position: usize, at: &Place<'_>) -> Option<EgressLimit> {
    let name = match raw.name {
        Some(text) => parsed(str::parse::<Name>)(text, &at.field("name")),
        None => format!("egress-{position}").parse().ok(),
    };
    let per = match raw.per {
        None | Some(raw::EgressKey::Destination) => EgressKey::Destination,
        Some(raw::EgressKey::Interface) => EgressKey::Interface,
    };
    if per != EgressKey::Destination && raw.prefix.is_some() {
        at.field("prefix")
            .error_with("only a limit per destination has a prefix", "leave `prefix` out");
    }
    let (prefix_v4, prefix_v6) = at
        .optional("prefix", raw.prefix.as_ref(), prefix)
        .unwrap_or((32, 64));
    let rate = at.required("rate", raw.rate, |text, at| {
        Measure::OnlyBytes.rate(text.as_ref(), at)
    });
    let burst = at.optional("burst", raw.burst, |burst, at| {
        Measure::OnlyBytes.burst(burst, at)
    });
    let draft = Draft {
        algorithm: raw.algorithm,
        rate,
        burst,
        default_burst: default_burst(Measure::OnlyBytes),
    };
    let (budget, params) = draft.build(at)?;
    Some(EgressLimit {
        name: name?,
        per,
        prefix_v4,
        prefix_v6,
        budget,
        params,
    })
}
