//! Packet policies.

use std::{collections::HashMap, num::NonZeroU64, sync::Arc, time::Duration};

use enforcer_common::layout::{LEVELS_PER_POLICY, LIMITS_PER_POLICY};
use ipnet::IpNet;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Head, Located, distinct, distinct_of, egress,
    levels::{kinds, levels},
    limit::{Draft, Measure},
    mode, values,
    verified::{default_recent, verified},
};
use crate::{
    raw,
    yaml::{
        place::{Place, Unique, parsed},
        tree::Value,
    },
};
use enforcer_model::{
    Action, Adaptive, Count, DenyEntry, Mode, Opaque, PacketKey, PacketLimit, PacketPolicy, Port, SynDefence,
    Transport,
    leaf::{InterfacePattern, Name, Rate, cidr},
};

/// The smallest default burst of a limit on bytes: one packet as large as segmentation offload makes
/// them, which would else never be admitted.
const LEAST_BURST_BYTES: u64 = 65_536;

/// The longest reason of a deny entry, in bytes.
const LONGEST_REASON: usize = 256;

/// Which policy has which ports of which interface. One in shadow may stand beside one that enforces, to be compared.
pub(super) type Claims = Unique<(String, Option<Port>, bool)>;

pub(super) fn build(
    head: Option<Head>,
    raw: raw::PacketPolicy,
    at: &Place<'_>,
    claims: &mut Claims,
) -> Option<PacketPolicy> {
    let interfaces = at.required("interfaces", raw.interfaces, |list, _| {
        Some(values(distinct(at, "interfaces", list.0, str::parse)))
    });
    let ports = distinct_of(at, "ports", raw.ports.map(|list| list.0), parse_port);
    claim(
        (head.as_ref(), mode(raw.mode)),
        interfaces.as_deref().unwrap_or_default(),
        &ports,
        at,
        claims,
    );
    let allow = distinct_of(at, "allow", raw.allow, cidr::parse);
    let action = action(raw.action).unwrap_or_default();
    let (deny, meant) = deny_entries(at, raw.deny.unwrap_or_default(), action);
    contradictions(&allow, &deny);
    let denied: Vec<_> = deny.iter().map(|(entry, place)| (entry.cidr, place)).collect();
    let allowed: Vec<IpNet> = allow.iter().map(|(net, _)| *net).collect();
    whole_families(
        &denied,
        &allowed,
        &meant,
        "all traffic is dropped but what is allowed",
    );
    everybody(&allow);
    let limits = limits(raw.limits.unwrap_or_default(), &ports, action, at);
    let speaks_of_verified = limits.iter().any(|limit| limit.per == PacketKey::Identity);
    let written = raw.verified.is_some();
    let (verified, recent) = at
        .optional("verified", raw.verified, verified)
        .unwrap_or_default();
    let recent = if written || !speaks_of_verified {
        recent
    } else {
        default_recent()
    };
    let egress = at.optional("egress", raw.egress, |raw, at| {
        Some(egress::build(raw, &limits, at))
    });
    let syn = at
        .optional("syn", raw.syn, |raw, at| syn(raw, &ports, at))
        .unwrap_or_default();
    let head = head?;
    Some(PacketPolicy {
        name: head.name,
        origin: head.origin,
        mode: mode(raw.mode),
        action,
        interfaces: interfaces?,
        ports: values(ports),
        allow: values(allow),
        deny: values(deny),
        limits,
        verified,
        recent,
        egress: egress.unwrap_or_default(),
        syn,
        opaque: raw.opaque.map_or(Opaque::Pass, |opaque| match opaque {
            raw::Opaque::Pass => Opaque::Pass,
            raw::Opaque::Drop => Opaque::Drop,
        }),
    })
}

/// `tcp/443`.
pub(super) fn parse_port(text: &str) -> Result<Port, String> {
    let example = "write it like tcp/443 or udp/53";
    let (protocol, number) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` has no protocol: {example}"))?;
    let protocol = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        other => return Err(format!("`{other}` is no protocol with ports: {example}")),
    };
    match number.parse::<u16>() {
        Ok(number) if number > 0 => Ok(Port { protocol, number }),
        _ => Err(format!("`{number}` is no port from 1 to 65535: {example}")),
    }
}

/// A port of an interface belongs to one policy of each mode, else which of two limits holds would be chance.
fn claim(
    (head, mode): (Option<&Head>, Mode),
    interfaces: &[InterfacePattern],
    ports: &[Located<'_, Port>],
    at: &Place<'_>,
    claims: &mut Claims,
) {
    let name = head.map_or_else(String::new, |head| head.name.to_string());
    let is_shadow = mode == Mode::Shadow;
    for interface in interfaces.iter().filter_map(InterfacePattern::exact) {
        if ports.is_empty() {
            claims.claim((interface.to_owned(), None, is_shadow), &at.field("interfaces"), |first| {
                format!("`{name}` is about all traffic of {interface}, as is the policy at {first}: join the two, or give one of them ports")
            });
        }
        for (port, place) in ports {
            claims.claim((interface.to_owned(), Some(*port), is_shadow), place, |first| {
                format!("this port of {interface} belongs to the policy at {first} already: join the two, or take it out of one")
            });
        }
    }
}

/// The entries, and those of them that say `everything`. `inherited`: what becomes of packets unless an entry says.
fn deny_entries<'a>(
    at: &Place<'a>,
    raw: Vec<raw::DenyEntry>,
    inherited: Action,
) -> (Vec<Located<'a, DenyEntry>>, Vec<IpNet>) {
    let mut seen = Unique::default();
    let mut meant = Vec::new();
    let entries = at.each("deny", raw, |(entry, at)| {
        let everything = entry.everything.unwrap_or_default();
        let entry = deny_entry(entry, inherited, &at)?;
        let cidr = entry.cidr;
        if everything {
            meant.push(cidr);
        }
        seen.claim(cidr, &at, |first| {
            format!("{cidr} is denied at {first} already: write it once")
        });
        Some((entry, at))
    });
    (entries, meant)
}

pub(super) fn deny_entry(entry: raw::DenyEntry, inherited: Action, at: &Place<'_>) -> Option<DenyEntry> {
    // An entry that is a plain prefix has no field of its own to point at.
    let cidr = match (&at.node().value, entry.cidr) {
        (Value::Text(_), Some(text)) => parsed(cidr::parse)(text, at),
        (_, cidr) => at.required("cidr", cidr, parsed(cidr::parse)),
    };
    let reason = at.optional("reason", entry.reason, reason);
    let until = at.optional("until", entry.until, |text, at| until(&text, at));
    Some(DenyEntry {
        cidr: cidr?,
        reason,
        until,
        action: action(entry.action).unwrap_or(inherited),
        line: u32::try_from(at.position().line).unwrap_or_default(),
    })
}

fn action(raw: Option<raw::Action>) -> Option<Action> {
    raw.map(|action| match action {
        raw::Action::Drop => Action::Drop,
        raw::Action::Reset => Action::Reset,
    })
}

/// One line that says why.
pub(super) fn reason(text: String, at: &Place<'_>) -> Option<Arc<str>> {
    if text.len() > LONGEST_REASON || text.chars().any(char::is_control) {
        at.error(format!("a reason is one line of at most {LONGEST_REASON} bytes"));
        return None;
    }
    Some(text.into())
}

/// A time of the calendar.
pub(super) fn until(text: &str, at: &Place<'_>) -> Option<OffsetDateTime> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => Some(time),
        Err(_) => {
            at.error(format!(
                "`{text}` is no time: write it like \"2027-01-01T00:00:00Z\" (RFC 3339)"
            ));
            None
        }
    }
}

/// The same prefix cannot be both allowed and denied. (One inside the other can: the longer decides.)
fn contradictions(allow: &[Located<'_, IpNet>], deny: &[Located<'_, DenyEntry>]) {
    let allowed: HashMap<IpNet, &Place<'_>> = allow.iter().map(|(net, place)| (*net, place)).collect();
    for (entry, place) in deny {
        if let Some(first) = allowed.get(&entry.cidr) {
            place.error_with(
                format!(
                    "{} is denied here and allowed at {}",
                    entry.cidr,
                    first.reference()
                ),
                "take it out of one of the two lists",
            );
        }
    }
}

/// A list that covers a family wholly cuts everybody off, and is more often a slip than meant: a feed gone wrong, or
/// two halves. Beside allowed networks of the family it may be meant, and `everything: true` says that it is.
pub(super) fn whole_families(
    denied: &[(IpNet, &Place<'_>)],
    allowed: &[IpNet],
    meant: &[IpNet],
    comes_of_it: &str,
) {
    for v4 in [true, false] {
        let of_family = |net: &IpNet| matches!(net, IpNet::V4(_)) == v4;
        let entries: Vec<_> = denied.iter().filter(|(net, _)| of_family(net)).collect();
        let nets: Vec<IpNet> = entries.iter().map(|(net, _)| *net).collect();
        let whole = IpNet::aggregate(&nets)
            .into_iter()
            .find(|net| net.prefix_len() == 0);
        let widest = entries.iter().min_by_key(|(net, _)| net.prefix_len());
        let (Some(whole), Some((net, place))) = (whole, widest) else {
            continue;
        };
        let is_meant = meant.iter().any(of_family);
        let message = match *net == whole {
            true => format!("{whole} is everything: {comes_of_it}"),
            false => {
                format!("the entries of this list are {whole} together, which is everything: {comes_of_it}")
            }
        };
        if allowed.iter().any(of_family) {
            if !is_meant {
                place.warning(message, "name the networks that you mean");
            }
        } else if !is_meant {
            place.outdated(
                message,
                format!("name the networks that you mean, or write {{cidr: {net}, everything: true}} if you mean all"),
            );
        }
    }
}

/// Warns of an exception for everybody, which is hardly meant.
fn everybody(allow: &[Located<'_, IpNet>]) {
    for (net, place) in allow.iter().filter(|(net, _)| net.prefix_len() == 0) {
        place.warning(
            format!("{net} is every source: this policy limits nothing"),
            "name the networks that you mean",
        );
    }
}

fn limits(
    raw: Vec<raw::PacketLimit>,
    ports: &[Located<'_, Port>],
    inherited: Action,
    at: &Place<'_>,
) -> Vec<PacketLimit> {
    let mut names = Unique::default();
    let mut position = 0;
    if let Some(surplus) = at.field("limits").items().get(LIMITS_PER_POLICY)
        && raw.len() > LIMITS_PER_POLICY
    {
        surplus.error_with(
            format!("a policy has at most {LIMITS_PER_POLICY} limits"),
            "leave one out, or write another policy for other ports",
        );
    }
    let limits = at.each("limits", raw, |(raw, at)| {
        position += 1;
        let built = limit(raw, position, ports, inherited, &at)?;
        names.claim(built.name.clone(), &at, |first| {
            format!(
                "the limit at {first} is named `{}` too: give one of them another name",
                built.name
            )
        });
        Some(built)
    });
    let levels: usize = limits.iter().map(|limit| limit.levels.len()).sum();
    if levels > LEVELS_PER_POLICY {
        at.field("limits").error_with(
            format!(
                "these are {levels} levels, and the limits of a policy have at most {LEVELS_PER_POLICY} together: each prefix of a limit counts, and each limit without one"
            ),
            "leave a prefix out, or write another policy for other ports",
        );
    }
    limits
}

fn limit(
    raw: raw::PacketLimit,
    position: usize,
    ports: &[Located<'_, Port>],
    inherited: Action,
    at: &Place<'_>,
) -> Option<PacketLimit> {
    let name = match raw.name {
        Some(text) => parsed(str::parse::<Name>)(text, &at.field("name")),
        None => format!("limit-{position}").parse().ok(),
    };
    let (count, measure) = match raw.count {
        None | Some(raw::Count::Packets) => (Count::Packets, Measure::Events),
        Some(raw::Count::Connections) => (Count::Connections, Measure::Events),
        Some(raw::Count::Bytes) => (Count::Bytes, Measure::Bytes),
    };
    let per = match raw.per {
        None | Some(raw::PacketKey::Source) => PacketKey::Source,
        Some(raw::PacketKey::Service) => PacketKey::Service,
        Some(raw::PacketKey::Interface) => PacketKey::Interface,
        Some(raw::PacketKey::Identity) => PacketKey::Identity,
    };
    if per != PacketKey::Source && raw.prefix.is_some() {
        at.field("prefix")
            .error_with("only a limit per source has a prefix", "leave `prefix` out");
    }
    if per == PacketKey::Identity {
        identity(count, ports, at);
    }
    let traffic = kinds(raw.traffic, (per, count), ports, at);
    let rate = at.required("rate", raw.rate, |text, at| measure.rate(text.as_ref(), at));
    let adaptive = at.optional("adaptive", raw.adaptive, |adaptive, at| {
        let floor = at.required("floor", adaptive.floor, |text, at| {
            measure.rate(text.as_ref(), at)
        })?;
        if let Some(rate) = rate
            && floor.exceeds(rate)
        {
            at.field("floor").error(format!(
                "the floor {floor} is above the limit's rate {rate}: the controller only lowers"
            ));
        }
        Some(Adaptive { floor })
    });
    let burst = at.optional("burst", raw.burst, |burst, at| measure.burst(burst, at));
    let draft = Draft {
        algorithm: raw.algorithm,
        rate,
        burst,
        default_burst: default_burst(measure),
    };
    let (budget, params) = draft.build(at)?;
    Some(PacketLimit {
        name: name?,
        per,
        levels: levels(raw.prefix, (budget, params), at),
        traffic,
        count,
        budget,
        params,
        adaptive,
        action: action(raw.action).unwrap_or(inherited),
    })
}

/// Without a burst, what comes in one second may come at once; of bytes at least one large packet.
pub(super) fn default_burst(measure: Measure) -> fn(Rate) -> NonZeroU64 {
    match measure {
        Measure::Bytes | Measure::OnlyBytes => |rate| {
            let least = NonZeroU64::new(LEAST_BURST_BYTES).unwrap_or(NonZeroU64::MIN);
            rate.in_one_second().max(least)
        },
        Measure::Events | Measure::Packets | Measure::Requests => Rate::in_one_second,
    }
}

/// What a limit per identity cannot be about.
fn identity(count: Count, ports: &[Located<'_, Port>], at: &Place<'_>) {
    if count == Count::Connections {
        at.field("count").error_with(
            "who is behind a connection is known only once it stands and the gateway has verified it",
            "count packets or bytes, limit new connections `per: source`, or requests by a Route's limit `per: certificate`",
        );
    }
    if !ports.is_empty() && ports.iter().all(|(port, _)| port.protocol == Transport::Udp) {
        at.field("per").error_with(
            "this policy is about UDP ports alone, and verified connections are TCP's",
            "leave the limit out, or add the service's port, like tcp/443",
        );
    }
}

/// SYNs per second from which on they are answered with cookies, unless the policy says.
const SYNS_PER_SECOND: NonZeroU64 = NonZeroU64::MIN.saturating_add(999);

fn syn(raw: raw::Syn, ports: &[Located<'_, Port>], at: &Place<'_>) -> Option<SynDefence> {
    let cookies = at.required("cookies", raw.cookies, |cookies, _| Some(cookies))?;
    let written = raw.above.is_some();
    let above = at.optional("above", raw.above, |text, at| {
        Measure::Packets.rate(text.as_ref(), at)
    });
    if written && cookies != raw::Cookies::Auto {
        at.field("above").error_with(
            "only `cookies: auto` waits for a rate of SYNs",
            "leave `above` out, or write `cookies: auto`",
        );
    }
    let udp_alone = !ports.is_empty() && ports.iter().all(|(port, _)| port.protocol == Transport::Udp);
    if udp_alone && cookies != raw::Cookies::Off {
        at.field("cookies").error_with(
            "this policy is about UDP ports alone, and SYNs are TCP's",
            "leave `syn` out, or add the service's port, like tcp/443",
        );
    }
    Some(match cookies {
        raw::Cookies::Off => SynDefence::Off,
        raw::Cookies::Always => SynDefence::Always,
        raw::Cookies::Auto => SynDefence::Auto {
            above: match above {
                Some(above) => above,
                None => Rate::new(SYNS_PER_SECOND, Duration::from_secs(1))?,
            },
        },
    })
}
