//! What a packet limit is about: the prefixes of a limit per source, and kinds of traffic.

use std::num::NonZeroU32;

use enforcer_common::{
    layout::traffic,
    limiter::{Algorithm, Params},
};

use crate::{
    judge::Located,
    raw,
    yaml::place::{Place, Unique},
};
use enforcer_model::{Budget, Count, Level, PacketKey, Port, Transport};

/// The prefix of a limit that names none.
const DEFAULT: (u8, u8) = (32, 64);

/// The one prefix of a limit that has no levels.
pub(super) fn prefix(raw: &raw::Prefix, at: &Place<'_>) -> Option<(u8, u8)> {
    if raw.times.is_some() {
        at.field("times").error_with(
            "only a limit per source has several prefixes",
            "leave `times` out",
        );
    }
    let ipv4 = at.optional("ipv4", raw.ipv4, within(32));
    let ipv6 = at.optional("ipv6", raw.ipv6, within(128));
    Some((ipv4.unwrap_or(DEFAULT.0), ipv6.unwrap_or(DEFAULT.1)))
}

/// The levels of a limit. The first has both families, others those that they name.
pub(super) fn levels(
    raw: Option<raw::Prefixes>,
    (budget, params): (Budget, Params),
    at: &Place<'_>,
) -> Vec<Level> {
    let Some(raw::Prefixes(raw)) = raw else {
        return vec![Level {
            ipv4: Some(DEFAULT.0),
            ipv6: Some(DEFAULT.1),
            times: NonZeroU32::MIN,
            params,
        }];
    };
    if raw.is_empty() {
        at.field("prefix")
            .error_with("the list is empty", "leave `prefix` out for a /32 and a /64");
    }
    let mut seen = Unique::default();
    let mut first = true;
    at.each("prefix", raw, |(raw, at)| {
        let ipv4 = at.optional("ipv4", raw.ipv4, within(32));
        let ipv6 = at.optional("ipv6", raw.ipv6, within(128));
        let default = std::mem::take(&mut first).then_some(DEFAULT);
        let ipv4 = ipv4.or(default.map(|(ipv4, _)| ipv4));
        let ipv6 = ipv6.or(default.map(|(_, ipv6)| ipv6));
        if !at.mentions("ipv4") && !at.mentions("ipv6") && default.is_none() {
            at.error_with(
                "a level that names no prefix length is about nobody",
                "write `ipv4`, `ipv6` or both",
            );
        }
        let named = [("IPv4", "ipv4", ipv4), ("IPv6", "ipv6", ipv6)];
        for (family, key, bits) in named {
            let Some(bits) = bits else { continue };
            seen.claim((family, bits), &at.field(key), |first| {
                format!("{family} has a /{bits} at {first} already: write it once, with the smaller `times`")
            });
        }
        let times = at.optional("times", raw.times, times).unwrap_or(NonZeroU32::MIN);
        Some(Level {
            ipv4,
            ipv6,
            times,
            params: multiplied(params, budget, times, &at)?,
        })
    })
}

/// A prefix length from 1 to `most`.
fn within(most: u8) -> impl Fn(u32, &Place<'_>) -> Option<u8> {
    move |bits, at| match u8::try_from(bits) {
        Ok(bits) if (1..=most).contains(&bits) => Some(bits),
        _ => {
            at.error(format!("{bits} is no prefix length from 1 to {most}"));
            None
        }
    }
}

fn times(times: u32, at: &Place<'_>) -> Option<NonZeroU32> {
    let times = NonZeroU32::new(times);
    if times.is_none() {
        at.error_with(
            "zero times the rate admits nobody",
            "write at least 1, or leave it out for 1",
        );
    }
    times
}

/// The limiter of a level.
fn multiplied(params: Params, budget: Budget, times: NonZeroU32, at: &Place<'_>) -> Option<Params> {
    if times == NonZeroU32::MIN {
        return Some(params);
    }
    let times = u64::from(times.get());
    let amount = budget.rate.amount().get().checked_mul(times);
    let burst = budget.burst.get().checked_mul(times);
    let period = u64::try_from(budget.rate.period().as_nanos()).unwrap_or(u64::MAX);
    let algorithm = params.algorithm().unwrap_or(Algorithm::TokenBucket);
    let level = amount
        .zip(burst)
        .and_then(|(amount, burst)| Params::new(algorithm, amount, period, burst).ok());
    if level.is_none() {
        at.field("times").error_with(
            format!("{times} times {} is more than a limiter counts", budget.rate),
            "write a smaller number, or give this prefix a limit of its own",
        );
    }
    level
}

/// The kinds of traffic that a limit is about, all of them unless it says.
pub(super) fn kinds(
    raw: Option<raw::OneOrMany<raw::Traffic>>,
    (per, count): (PacketKey, Count),
    ports: &[Located<'_, Port>],
    at: &Place<'_>,
) -> u8 {
    let Some(raw::OneOrMany(raw)) = raw else {
        return traffic::ALL;
    };
    let at = at.field("traffic");
    if raw.is_empty() {
        at.error_with("the list is empty", "leave `traffic` out for all of it");
    }
    let mut kinds = 0;
    for kind in raw {
        let kind = bits(kind);
        if kinds & kind != 0 {
            at.error_with(
                "the same traffic is named twice: `tcp` is all of TCP, `tcp-syn` a part of it",
                "write each once",
            );
        }
        kinds |= kind;
    }
    let complain = |what: &str, right: &str| at.error_with(what, right);
    if count == Count::Connections && kinds & (traffic::TCP_SYN | traffic::UDP) == 0 {
        complain(
            "only TCP and UDP have connections: this limit counts nothing",
            "name `tcp` or `udp`, or count packets",
        );
    } else if per == PacketKey::Identity && kinds & traffic::TCP_OTHER == 0 {
        complain(
            "a verified connection is TCP's, and sends no SYN: this limit counts nothing",
            "name `tcp`, or leave `traffic` out",
        );
    } else if !ports.is_empty() && kinds & of_ports(ports) == 0 {
        complain(
            "nothing of that comes to the policy's ports: this limit counts nothing",
            "name what the ports are for, or write a policy without ports",
        );
    }
    kinds
}

fn bits(kind: raw::Traffic) -> u8 {
    match kind {
        raw::Traffic::Tcp => traffic::TCP_SYN | traffic::TCP_OTHER,
        raw::Traffic::TcpSyn => traffic::TCP_SYN,
        raw::Traffic::Udp => traffic::UDP,
        raw::Traffic::Icmp => traffic::ICMP,
        raw::Traffic::Other => traffic::OTHER,
    }
}

/// The kinds of traffic that ports have.
fn of_ports(ports: &[Located<'_, Port>]) -> u8 {
    ports.iter().fold(0, |kinds, (port, _)| {
        kinds
            | match port.protocol {
                Transport::Tcp => traffic::TCP_SYN | traffic::TCP_OTHER,
                Transport::Udp => traffic::UDP,
            }
    })
}
