//! What a client is told about limits: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4) and `Retry-After` (RFC 9110, section 10.2.3).

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use super::{Outcome, Refusal, RuleLimits, Standing};
use crate::problem::Problem;
use enforcer_model::{Counted, Rate, RequestLimit};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// How the limits of a rule stand after a request.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    limits: &'a RuleLimits,
    policies: Option<&'a HeaderValue>,
    outcome: Outcome,
}

impl<'a> Told<'a> {
    /// `tier` is the request's.
    #[must_use]
    pub fn new(limits: &'a RuleLimits, tier: Option<&str>, outcome: Outcome) -> Self {
        Self {
            limits,
            policies: limits.policy_header(tier),
            outcome,
        }
    }

    /// Says it in a response's headers. `Retry-After` comes with a refusal only.
    pub fn write(&self, headers: &mut HeaderMap) {
        let (standing, retry) = match self.outcome {
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
        if let Some(policies) = self.policies {
            headers.insert(POLICY, policies.clone());
        }
        let item = self.limits.item(standing.limit);
        if let Some(value) = item.and_then(|item| standing_of(item, &standing)) {
            headers.insert(LIMIT, value);
        }
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, seconds(retry).max(1).into());
        }
    }
}

/// The beginning of what is told of a limit's standing: the rest is two numbers.
pub(super) fn item(name: &str) -> Box<[u8]> {
    format!("{};r=", quoted(name)).into_bytes().into()
}

/// The value of `RateLimit`. It is written for each request, and so by hand and at once.
fn standing_of(item: &[u8], standing: &Standing) -> Option<HeaderValue> {
    let (mut r, mut t) = (itoa::Buffer::new(), itoa::Buffer::new());
    let r = r.format(standing.remaining.min(MAX_INTEGER));
    let t = t.format(seconds(standing.reset));
    let value = [item, r.as_bytes(), b";t=", t.as_bytes()].concat();
    HeaderValue::try_from(value).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_up_to_the_largest() {
        let numbers = [0, 7, 10, 12_345, MAX_INTEGER, MAX_INTEGER + 1, u64::MAX];
        for (remaining, reset) in numbers.into_iter().flat_map(|r| numbers.map(|t| (r, t))) {
            let standing = Standing {
                limit: 0,
                remaining,
                reset: Duration::from_secs(reset),
            };
            let (r, t) = (remaining.min(MAX_INTEGER), reset.min(MAX_INTEGER));
            for name in ["reads", "a\"b\\c"] {
                let value = standing_of(&item(name), &standing).unwrap();
                assert_eq!(value, format!("{};r={r};t={t}", quoted(name)));
            }
        }
    }
}
