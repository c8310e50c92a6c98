//! Limits on requests.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use enforcer_common::limiter;
use http::HeaderName;

use super::{
    duration_within, levels,
    limit::{Draft, Measure},
    require::Proofs,
};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{Budget, Counted, Exceed, RequestKey, RequestLimit, Tier, leaf::Name};

/// The most tiers of one limit.
const MAX_TIERS: usize = 16;

/// The greatest cost of one request.
const MAX_COST: u64 = 1_000_000;

/// Where a limit stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// At the route: all its rules share it.
    Route,
    Rule,
}

pub(super) fn limit(
    raw: raw::RequestLimit,
    default_name: String,
    at: &Place<'_>,
    proofs: &Proofs,
    of: Of,
) -> Option<RequestLimit> {
    let name = match raw.name {
        Some(text) => parsed(str::parse::<Name>)(text, &at.field("name")).map(|name| name.shared()),
        None => Some(default_name.into()),
    };
    let per = at.required("per", raw.per, |list, place| {
        if place.is_empty_list() {
            place.error("the key is empty: write `per: source`, or `per: rule` for one limit that all share");
        }
        let mut seen = Unique::default();
        Some(at.each("per", list.0, |(raw, at)| {
            let key = key(raw, &at, of)?;
            seen.claim(format!("{key:?}"), &at, |_| {
                "this part of the key is named above already: write it once".to_owned()
            });
            check_key(&key, proofs, &at);
            Some(key)
        }))
    });
    let (counted, measure) = counted(raw.count, raw.cost, at);
    let quota = |rate: Option<raw::Rate>, burst: Option<raw::Quantity>, at: &Place<'_>| {
        let rate = at.required("rate", rate, |text, at| measure.rate(text.as_ref(), at));
        let burst = at.optional("burst", burst, |burst, at| measure.burst(burst, at));
        let draft = Draft {
            algorithm: raw.algorithm,
            rate,
            burst,
            // One period's amount: `100/m` lets 100 come at once.
            default_burst: |rate| -> NonZeroU64 { rate.amount() },
        };
        let (budget, params) = draft.build(at)?;
        affordable(counted, budget, at);
        Some((budget, params))
    };
    let tiers = raw.tiers.map(|raw| tiers(raw, at, quota)).unwrap_or_default();
    let quota = quota(raw.rate, raw.burst, at);
    let exceed = at.optional("exceed", raw.exceed, exceed);
    let (budget, params) = quota?;
    Some(RequestLimit {
        name: name?,
        per: per?,
        counted,
        budget,
        params,
        tiers,
        exceed: exceed.unwrap_or_default(),
    })
}

fn counted(count: Option<raw::Counted>, cost: Option<raw::Quantity>, at: &Place<'_>) -> (Counted, Measure) {
    let has_cost = cost.is_some();
    let cost = at.optional("cost", cost, |cost, at| {
        let cost = Measure::Requests.burst(cost, at)?;
        if cost.get() > MAX_COST {
            at.error(format!("a request costs at most {MAX_COST}"));
            return None;
        }
        Some(cost)
    });
    match count {
        Some(raw::Counted::ResponseBytes) => {
            if has_cost {
                at.field("cost").error_with(
                    "bytes of the response are counted, so that is what a request costs",
                    "leave `cost` out, or write `count: requests`",
                );
            }
            (Counted::ResponseBytes, Measure::OnlyBytes)
        }
        Some(raw::Counted::Requests) | None => (
            Counted::Requests(cost.unwrap_or(NonZeroU64::MIN)),
            Measure::Requests,
        ),
    }
}

/// A request that costs more than may come at once would never be admitted.
fn affordable(counted: Counted, budget: Budget, at: &Place<'_>) {
    let cost = counted.at_once();
    if cost > budget.burst.get() {
        at.error_with(
            format!(
                "a request costs {cost}, and at most {} may come at once: none is ever admitted",
                budget.burst
            ),
            "write a smaller `cost`, or a larger `burst`",
        );
    }
}

fn tiers(
    raw: BTreeMap<String, raw::Tier>,
    limit: &Place<'_>,
    quota: impl Fn(Option<raw::Rate>, Option<raw::Quantity>, &Place<'_>) -> Option<(Budget, limiter::Params)>,
) -> Vec<Tier> {
    let at = limit.field("tiers");
    if raw.len() > MAX_TIERS {
        at.error(format!("a limit has at most {MAX_TIERS} tiers"));
    }
    let build = |(name, raw::Tier { rate, burst }): (String, raw::Tier)| {
        let at = at.field(&name);
        let quota = quota(rate, burst, &at);
        let name = parsed(str::parse::<Name>)(name, &at)?;
        let (budget, params) = quota?;
        Some(Tier {
            name: name.shared(),
            budget,
            params,
        })
    };
    raw.into_iter().filter_map(build).collect()
}

fn key(raw: raw::RequestKey, at: &Place<'_>, of: Of) -> Option<RequestKey> {
    Some(match raw {
        raw::RequestKey::Source => RequestKey::SOURCE,
        raw::RequestKey::Prefix(prefix) => {
            let (ipv4, ipv6) = levels::prefix(&prefix, &at.field("prefix"))?;
            RequestKey::Source { ipv4, ipv6 }
        }
        raw::RequestKey::Certificate => RequestKey::Certificate,
        raw::RequestKey::TokenSubject => RequestKey::TokenSubject,
        raw::RequestKey::TokenClient => RequestKey::TokenClient,
        raw::RequestKey::ApiKey => RequestKey::ApiKey,
        raw::RequestKey::Header(text) => {
            let at = at.field("header");
            RequestKey::Header(parsed(header_name)(text, &at)?)
        }
        raw::RequestKey::Tier => RequestKey::Tier,
        raw::RequestKey::Rule if of == Of::Route => {
            at.error_with("all rules share a limit of the route", "write `per: route`");
            return None;
        }
        raw::RequestKey::Route if of == Of::Rule => {
            at.error_with(
                "a limit of a rule is that rule's",
                "write it in `limits` of the route, beside `rules`, or write `per: rule`",
            );
            return None;
        }
        raw::RequestKey::Rule | raw::RequestKey::Route => RequestKey::Rule,
        raw::RequestKey::Service => RequestKey::Service,
    })
}

/// The name of a header field (RFC 9110, section 5.1).
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes());
    name.map_err(|_| format!("`{text}` is no name of a header field: write it like x-user"))
}

/// A key that requests need not have would put all those without it into one limiter, or none.
fn check_key(key: &RequestKey, proofs: &Proofs, at: &Place<'_>) {
    match key {
        RequestKey::TokenSubject | RequestKey::TokenClient if !proofs.token => at.error_with(
            "the key is taken from a token, and the rule requires none",
            "write `require: {token: {issuer: …}}`, or another key",
        ),
        RequestKey::Certificate if !proofs.certificate => at.error_with(
            "the key is taken from a client certificate, and the rule requires none",
            "write `require: {mtls: {}}`, or another key",
        ),
        RequestKey::ApiKey if !proofs.api_key => at.error_with(
            "the key is taken from an API key, and the rule requires none",
            "write `require: {apiKey: {keys: …}}`, or another key",
        ),
        _ => {}
    }
}

fn exceed(raw: raw::Exceed, at: &Place<'_>) -> Option<Exceed> {
    match raw {
        raw::Exceed::Reject => Some(Exceed::Reject),
        raw::Exceed::Queue(text) => {
            let within = duration_within(Duration::from_millis(1), Duration::from_secs(5));
            within(text, &at.field("queue")).map(Exceed::Queue)
        }
    }
}
