//! Limits and requests to try them with.

use std::{num::NonZeroU64, time::Duration};

use enforcer_common::limiter::{Algorithm, Params};
use enforcer_gateway::limit::{KeyParts, Outcome, RequestLimiters, RuleLimits};
use enforcer_model::{Budget, Counted, Exceed, Name, Rate, RequestKey, RequestLimit};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// A time at which a window of any whole number of seconds below 100 s begins, in ns.
pub(crate) const NOW: u64 = 6_983_776_800 * SECOND;

pub(crate) const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::TokenBucket,
    Algorithm::LeakyBucket,
    Algorithm::FixedWindow,
    Algorithm::SlidingWindow,
];

pub(crate) fn params(algorithm: Algorithm, amount: u64, period: Duration) -> Params {
    Params::new(algorithm, amount, period.as_nanos().try_into().unwrap(), amount).unwrap()
}

/// `amount` in `period`, and as much at once.
pub(crate) fn limit(algorithm: Algorithm, amount: u64, period: Duration, per: &[RequestKey]) -> RequestLimit {
    let count = NonZeroU64::new(amount).unwrap();
    RequestLimit {
        name: "per-client".into(),
        per: per.to_vec(),
        budget: Budget {
            rate: Rate::new(count, period).unwrap(),
            burst: count,
        },
        params: params(algorithm, amount, period),
        counted: Counted::Requests(NonZeroU64::MIN),
        tiers: Vec::new(),
        exceed: Exceed::Reject,
    }
}

pub(crate) fn route() -> Name {
    "orders".parse().unwrap()
}

pub(crate) fn service() -> Name {
    "shop".parse().unwrap()
}

pub(crate) fn bind(limits: &[RequestLimit]) -> RuleLimits {
    RequestLimiters::new(1 << 10).bind(&route(), Some(&service()), limits)
}

pub(crate) fn from(source: &str) -> KeyParts<'static> {
    KeyParts::new(source.parse().unwrap(), None, None)
}

/// How many of `tries` requests at once are admitted.
pub(crate) fn admitted(limits: &RuleLimits, keys: &KeyParts<'_>, now: u64, tries: usize) -> usize {
    (0..tries)
        .filter(|_| matches!(limits.check(keys, now), Outcome::Admitted { .. }))
        .count()
}
