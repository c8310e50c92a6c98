//! How a service's endpoints are balanced, bounded, tried again and taken out.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::{duration_within, request::header_name};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{Balance, HashKey, Outliers, Retries, RetryOn, SuccessRate, UpstreamLimits};

/// The greatest of a service's limits.
const MAX_LIMIT: u32 = 1_000_000;

/// The most further tries of one request.
const MAX_ATTEMPTS: u32 = 10;

pub(super) fn balance(raw: raw::Balance, at: &Place<'_>) -> Option<Balance> {
    Some(match raw {
        raw::Balance::LeastRequest => Balance::LeastRequest,
        raw::Balance::RoundRobin => Balance::RoundRobin,
        raw::Balance::P2c => Balance::PowerOfTwo,
        raw::Balance::RingHash(key) => Balance::RingHash(hash_key(key, &at.field("ring-hash"))?),
        raw::Balance::Maglev(key) => Balance::Maglev(hash_key(key, &at.field("maglev"))?),
    })
}

fn hash_key(raw: raw::HashKey, at: &Place<'_>) -> Option<HashKey> {
    Some(match raw {
        raw::HashKey::Source => HashKey::Source,
        raw::HashKey::Path => HashKey::Path,
        raw::HashKey::TokenSubject => HashKey::TokenSubject,
        raw::HashKey::Header(text) => HashKey::Header(parsed(header_name)(text, &at.field("header"))?),
        raw::HashKey::Cookie(text) => HashKey::Cookie(parsed(parse_name)(text, &at.field("cookie"))?),
        raw::HashKey::Query(text) => HashKey::Query(parsed(parse_name)(text, &at.field("query"))?),
    })
}

/// What can be the name of a cookie (RFC 6265, section 4.1.1) and, unescaped, of a query parameter.
fn parse_name(text: &str) -> Result<Arc<str>, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "!#$'*+-.^_`|~".contains(c);
    if text.is_empty() || text.len() > 256 || !text.chars().all(valid) {
        return Err(format!(
            "`{text}` is no name: write letters, digits and some of -._"
        ));
    }
    Ok(text.into())
}

pub(super) fn limits(raw: raw::UpstreamLimits, at: &Place<'_>) -> Option<UpstreamLimits> {
    let default = UpstreamLimits::default();
    let connections = at.optional("connections", raw.connections, number(MAX_LIMIT));
    let pending = at.optional("pending", raw.pending, number_or_none(MAX_LIMIT));
    let requests = at.optional("requests", raw.requests, number(MAX_LIMIT));
    let retries = at.optional("retries", raw.retries, number_or_none(MAX_LIMIT));
    let most = requests.unwrap_or(default.requests).get();
    let adaptive_floor = at.optional("adaptive", raw.adaptive, |raw, at| {
        at.required("floor", raw.floor, number(most))
    });
    Some(UpstreamLimits {
        adaptive_floor,
        connections: connections.unwrap_or(default.connections),
        pending: pending.unwrap_or(default.pending),
        requests: requests.unwrap_or(default.requests),
        retries: retries.unwrap_or(default.retries),
    })
}

pub(super) fn retries(raw: raw::Retries, at: &Place<'_>) -> Option<Retries> {
    let default = Retries::default();
    let attempts = at.optional("attempts", raw.attempts, number_or_none(MAX_ATTEMPTS));
    let on = at.optional("on", raw.on, |list, _| retry_on(list.0, at));
    let within = || duration_within(Duration::from_millis(1), Duration::from_secs(3600));
    let per_try = at.optional("perTry", raw.per_try, within());
    let within = || duration_within(Duration::ZERO, Duration::from_secs(60));
    let backoff = at
        .optional("backoff", raw.backoff, within())
        .unwrap_or(default.backoff);
    let max_backoff = at.optional("maxBackoff", raw.max_backoff, within());
    let max_backoff = max_backoff.unwrap_or(backoff * 10);
    if max_backoff < backoff {
        at.field("maxBackoff")
            .error("`maxBackoff` is shorter than `backoff`: the first wait would be longer than the longest");
    }
    let budget = at.optional("budget", raw.budget, |budget, at| {
        let share = at.optional("percent", budget.percent, percent(0));
        let least = at.optional("perSecond", budget.per_second, number_or_none(MAX_LIMIT));
        Some((share, least))
    });
    let (share, least) = budget.unwrap_or_default();
    Some(Retries {
        attempts: attempts.unwrap_or(default.attempts),
        on: on.unwrap_or(default.on),
        per_try,
        backoff,
        max_backoff,
        budget_percent: share.unwrap_or(default.budget_percent),
        budget_per_second: least.unwrap_or(default.budget_per_second),
    })
}

fn retry_on(list: Vec<raw::Quantity>, at: &Place<'_>) -> Option<RetryOn> {
    let mut on = RetryOn {
        reset: false,
        bad_gateway: false,
        unavailable: false,
        gateway_timeout: false,
    };
    let mut seen = Unique::default();
    at.each("on", list, |(raw, at)| {
        let flag = match raw.0.as_str() {
            "reset" => &mut on.reset,
            "502" => &mut on.bad_gateway,
            "503" => &mut on.unavailable,
            "504" => &mut on.gateway_timeout,
            "connect" => {
                at.error("a connection that does not come about is always followed by another: leave `connect` out");
                return None;
            }
            other => {
                at.error(format!(
                    "`{other}` is nothing after which a request is sent again: write some of reset, 502, 503, 504"
                ));
                return None;
            }
        };
        *flag = true;
        seen.claim(raw.0.clone(), &at, |_| {
            format!("`{}` is listed above already: write it once", raw.0)
        });
        Some(())
    });
    Some(on)
}

pub(super) fn outliers(raw: raw::Outliers, at: &Place<'_>) -> Option<Outliers> {
    let default = Outliers::default();
    let consecutive_5xx = at.optional("consecutive5xx", raw.consecutive_5xx, number(1000));
    let consecutive_failures = at.optional("consecutiveFailures", raw.consecutive_failures, number(1000));
    let success_rate = at.optional("successRate", raw.success_rate, success_rate);
    let within = || duration_within(Duration::from_millis(100), Duration::from_secs(86_400));
    let interval = at.optional("interval", raw.interval, within());
    let base_ejection = at.optional("baseEjection", raw.base_ejection, within());
    let base_ejection = base_ejection.unwrap_or(default.base_ejection);
    let max_ejection = at.optional("maxEjection", raw.max_ejection, within());
    let max_ejection = max_ejection.unwrap_or(default.max_ejection.max(base_ejection));
    if max_ejection < base_ejection {
        at.field("maxEjection").error(
            "`maxEjection` is shorter than `baseEjection`: the first time would be longer than the longest",
        );
    }
    let max_ejected_percent = at.optional("maxEjectedPercent", raw.max_ejected_percent, percent(1));
    Some(Outliers {
        consecutive_5xx: consecutive_5xx.unwrap_or(default.consecutive_5xx),
        consecutive_failures: consecutive_failures.unwrap_or(default.consecutive_failures),
        success_rate,
        interval: interval.unwrap_or(default.interval),
        base_ejection,
        max_ejection,
        max_ejected_percent: max_ejected_percent.unwrap_or(default.max_ejected_percent),
    })
}

fn success_rate(raw: raw::SuccessRate, at: &Place<'_>) -> Option<SuccessRate> {
    let below = at.required("below", raw.below, percent(1));
    let requests = at.optional("requests", raw.requests, number(MAX_LIMIT));
    Some(SuccessRate {
        below: below?,
        requests: requests.unwrap_or(NonZeroU32::MIN.saturating_add(99)),
    })
}

/// A whole number of percent, from `least` to 100.
pub(super) fn percent(least: u8) -> impl FnOnce(u32, &Place<'_>) -> Option<u8> {
    move |value, at| {
        let percent = u8::try_from(value).ok();
        let percent = percent.filter(|percent| (least..=100).contains(percent));
        if percent.is_none() {
            at.error(format!("{value} is no share: write {least} to 100, in percent"));
        }
        percent
    }
}

/// 1 to `most`.
fn number(most: u32) -> impl FnOnce(u32, &Place<'_>) -> Option<NonZeroU32> {
    move |value, at| {
        let number = NonZeroU32::new(value).filter(|number| number.get() <= most);
        if number.is_none() {
            at.error(format!("{value} is out of range: write 1 to {most}"));
        }
        number
    }
}

/// 0 to `most`.
fn number_or_none(most: u32) -> impl FnOnce(u32, &Place<'_>) -> Option<u32> {
    move |value, at| {
        if value > most {
            at.error(format!("{value} is out of range: write 0 to {most}"));
            return None;
        }
        Some(value)
    }
}
