//! What a client is told about limits: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4) and `Retry-After` (RFC 9110, section 10.2.3).

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use super::{Outcome, Refusal, RuleLimits, Standing};
use crate::{
    gateway::problem::Problem,
    policy::model::{Counted, Rate, RequestLimit},
};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Says in a response's headers how the limits stand. `Retry-After` comes with a refusal only.
///
/// `tier` is the request's.
pub fn write(headers: &mut HeaderMap, limits: &RuleLimits, tier: Option<&str>, outcome: &Outcome) {
    let (standing, retry) = match *outcome {
        Outcome::Admitted { tightest, .. } => (tightest, None),
        Outcome::Refused(Refusal { limit, retry_after }) => {
            let standing = Standing {
                limit,
                remaining: 0,
                reset: retry_after,
            };
            (Some(standing), Some(retry_after))
        }
    };
    let Some(standing) = standing else { return };
    if let Some(policies) = limits.policy_header(tier) {
        headers.insert(POLICY, policies.clone());
    }
    let name = quoted(limits.name(standing.limit));
    let (r, t) = (standing.remaining.min(MAX_INTEGER), seconds(standing.reset));
    if let Ok(value) = HeaderValue::try_from(format!("{name};r={r};t={t}")) {
        headers.insert(LIMIT, value);
    }
    if let Some(retry) = retry {
        headers.insert(RETRY_AFTER, seconds(retry).max(1).into());
    }
}

/// The body that goes with a refusal.
#[must_use]
pub fn problem(limits: &RuleLimits, refusal: &Refusal) -> Problem {
    let wait = seconds(refusal.retry_after).max(1);
    Problem::quota_exceeded(
        limits.name(refusal.limit),
        format!("The limit on requests is used up. Try again in {wait} s."),
    )
}

/// The value of `RateLimit-Policy` for the limits of a rule, as they are for a tier.
pub(super) fn policies<'a>(
    limits: impl Iterator<Item = &'a RequestLimit>,
    tier: &str,
) -> Option<HeaderValue> {
    let mut text = String::new();
    for limit in limits {
        let own = limit.tiers.iter().find(|named| *named.name == *tier);
        let (quota, window) = quota(own.map_or(limit.budget, |tier| tier.budget).rate);
        let separator = if text.is_empty() { "" } else { ", " };
        let unit = match limit.counted {
            Counted::Requests(_) => "",
            Counted::ResponseBytes => ";qu=\"content-bytes\"",
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator}{};q={quota};w={window}{unit}",
            quoted(&limit.name)
        );
    }
    (!text.is_empty())
        .then(|| HeaderValue::try_from(text).ok())
        .flatten()
}

/// How much in how many seconds. A window is whole seconds: others are told as what fits in whole ones.
fn quota(rate: Rate) -> (u64, u64) {
    let window = seconds(rate.period()).max(1);
    let period = rate.period().as_nanos().max(1);
    let amount = u128::from(rate.amount().get()) * u128::from(window) * 1_000_000_000 / period;
    (u64::try_from(amount).unwrap_or(u64::MAX).min(MAX_INTEGER), window)
}

/// Rounded up: who waits so long has waited long enough.
fn seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
        .min(MAX_INTEGER)
}

/// A string of a structured field (RFC 9651, section 3.3.3); it holds ASCII only.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}
