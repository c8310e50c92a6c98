//! How many TLS handshakes are begun, and how many are under way.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

use super::{HandshakeBudget, Handshakes, build::within, raw};
use enforcer_model::leaf::{Rate, Unit};
use enforcer_model::quota::source_buckets;
use enforcer_policy::yaml::place::{Place, parsed};

/// What one source may begin unless configured: about a quarter of what a core completes in a second.
const DEFAULT: (u64, u64) = (200, 1_000);

/// What one source may begin unless configured.
pub(super) fn default_budget() -> Option<HandshakeBudget> {
    let (rate, burst) = DEFAULT;
    Some(HandshakeBudget {
        rate: Rate::new(NonZeroU64::new(rate)?, Duration::from_secs(1))?,
        burst: NonZeroU64::new(burst)?,
    })
}

/// What a listener has to itself.
pub(super) fn handshakes(raw: raw::Handshakes, at: &Place<'_>) -> Option<Handshakes> {
    let concurrent = at.optional("concurrent", raw.concurrent, |count, at| {
        within(count, 1, 1_000_000, at).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?))
    });
    Some(Handshakes {
        concurrent,
        per_source: at.optional("perSource", raw.per_source, budget),
    })
}

/// What one source may begin.
pub(super) fn budget(raw: raw::HandshakeBudget, at: &Place<'_>) -> Option<HandshakeBudget> {
    let rate = at.required("rate", raw.rate, |text, at| rate_of(&text, "handshakes", at));
    let burst = at.optional("burst", raw.burst, |count, at| within(count, 1, 1_000_000, at));
    let rate = rate?;
    let burst = burst.and_then(|count| NonZeroU64::new(u64::from(count)));
    let burst = burst.unwrap_or(rate.amount());
    if source_buckets(rate, burst).is_err() {
        at.error("no limiter keeps that: write a rate like 20/s, and a burst that it refills within minutes");
        return None;
    }
    Some(HandshakeBudget { rate, burst })
}

/// How many of `what` in how long.
pub(super) fn rate_of(text: &enforcer_policy::raw::Rate, what: &str, at: &Place<'_>) -> Option<Rate> {
    let (rate, unit) = parsed(Rate::parse)(text, at)?;
    if unit == Unit::Bytes {
        at.error(format!(
            "`{}` is a rate of bytes, and {what} are counted: write it like 10/m",
            text.as_ref()
        ));
    }
    Some(rate)
}
