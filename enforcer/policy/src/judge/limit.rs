//! What limits on packets and on requests have in common: rates, bursts, algorithms.

use std::num::NonZeroU64;

use enforcer_common::limiter::{self, ParamsError};

use crate::{
    raw::{Algorithm, Quantity},
    yaml::place::{Place, parsed},
};
use enforcer_model::{
    Budget,
    leaf::{Rate, Unit, quantity},
};

/// What a limit counts, as far as rates and bursts are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Packets or connections, where `count` could say bytes.
    Events,
    /// Packets, and nothing else.
    Packets,
    Bytes,
    /// Bytes, and nothing else.
    OnlyBytes,
    /// Requests.
    Requests,
}

impl Measure {
    /// Reads a rate in a fitting unit.
    pub(super) fn rate(self, text: &str, at: &Place<'_>) -> Option<Rate> {
        let (rate, unit) = parsed(Rate::parse)(text, at)?;
        let (counted, right) = match (self, unit) {
            (Self::Events, Unit::Bytes) => (
                "packets or connections",
                "write `count: bytes` beside it, or a rate like 20000/s",
            ),
            (Self::Packets, Unit::Bytes) => ("packets", "write a rate like 20000/s"),
            (Self::Requests, Unit::Bytes) => ("requests", "write a rate like 100/m"),
            (Self::OnlyBytes, Unit::Events) => {
                at.error_with(
                    format!("`{text}` is no rate of bytes, which are counted"),
                    "write a rate like 100Mbit/s or 500KiB/s",
                );
                return None;
            }
            (_, Unit::Events) | (Self::Bytes | Self::OnlyBytes, Unit::Bytes) => return Some(rate),
        };
        at.error_with(
            format!("`{text}` is a rate of bytes, and {counted} are counted"),
            right,
        );
        None
    }

    /// Reads a burst in a fitting unit.
    pub(super) fn burst(self, quantity: Quantity, at: &Place<'_>) -> Option<NonZeroU64> {
        let Quantity(text) = quantity;
        let amount = match self {
            Self::Bytes | Self::OnlyBytes => parsed(quantity::parse_size)(text, at)?,
            Self::Events | Self::Packets | Self::Requests => parsed(quantity::parse_count)(text, at)?,
        };
        let burst = NonZeroU64::new(amount);
        if burst.is_none() {
            at.error(
                "a burst of zero admits nothing, ever: write at least 1, or leave it out for the default",
            );
        }
        burst
    }
}

/// What to limit by, before the limiter is known to be possible.
pub(super) struct Draft {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) rate: Option<Rate>,
    pub(super) burst: Option<NonZeroU64>,
    /// The burst while none is written.
    pub(super) default_burst: fn(Rate) -> NonZeroU64,
}

impl Draft {
    /// The limiter. A window's burst is its amount, so one that is written must not differ.
    pub(super) fn build(self, at: &Place<'_>) -> Option<(Budget, limiter::Params)> {
        let rate = self.rate?;
        let (algorithm, window) = match self.algorithm {
            None | Some(Algorithm::TokenBucket) => (limiter::Algorithm::TokenBucket, false),
            Some(Algorithm::LeakyBucket) => (limiter::Algorithm::LeakyBucket, false),
            Some(Algorithm::FixedWindow) => (limiter::Algorithm::FixedWindow, true),
            Some(Algorithm::SlidingWindow) => (limiter::Algorithm::SlidingWindow, true),
        };
        if window && self.burst.is_some() {
            at.field("burst").error_with(
                "a window has no burst: all of its amount may come at once",
                "leave `burst` out, or use token-bucket",
            );
        }
        let burst = if window {
            rate.amount()
        } else {
            self.burst.unwrap_or_else(|| (self.default_burst)(rate))
        };
        let period = u64::try_from(rate.period().as_nanos()).unwrap_or(u64::MAX);
        match limiter::Params::new(algorithm, rate.amount().get(), period, burst.get()) {
            Ok(params) => Some((Budget { rate, burst }, params)),
            Err(error) => {
                refuse(error, rate, burst, at);
                None
            }
        }
    }
}

fn refuse(error: ParamsError, rate: Rate, burst: NonZeroU64, at: &Place<'_>) {
    let rate_at = at.field("rate");
    match error {
        ParamsError::TooFast => rate_at.error_with(
            format!("{rate} is faster than the limiter's clock resolves"),
            "write a lower rate, or leave the limit out",
        ),
        ParamsError::TooSlow => {
            rate_at.error(format!("{rate} is slower than any limiter can be: at least 1/d"));
        }
        ParamsError::BurstTooLong => at.field("burst").error_with(
            format!("a burst of {burst} takes too long to refill at {rate}"),
            "write a smaller burst or a higher rate",
        ),
        ParamsError::AmountTooLarge => rate_at.error_with(
            format!("{} in one window is more than the limiter counts", rate.amount()),
            "write the same rate with a shorter period, or use token-bucket",
        ),
        ParamsError::Zero => rate_at.error("zero is never unlimited: leave the limit out"),
    }
}
