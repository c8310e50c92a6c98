//! Limits of all sizes, and arrivals that fit them.

use enforcer_common::limiter::{Algorithm, Params};
use proptest::prelude::*;

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const DAY: u64 = 24 * 3600 * SECOND;

/// What a limiter was built from, beside the limiter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) algorithm: Algorithm,
    pub(crate) amount: u64,
    pub(crate) period: u64,
    pub(crate) burst: u64,
    pub(crate) params: Params,
}

/// What arrives: how long after the one before, and what it costs.
pub(crate) type Arrival = (u64, u64);

impl Limit {
    pub(crate) fn new(algorithm: Algorithm, amount: u64, period: u64, burst: u64) -> Option<Self> {
        let params = Params::new(algorithm, amount, period, burst).ok()?;
        Some(Self {
            algorithm,
            amount,
            period,
            burst: params.burst(),
            params,
        })
    }

    /// How long the burst lasts at the rate; for windows that is the period.
    pub(crate) fn burst_ns(&self) -> u64 {
        let ns = u128::from(self.burst) * u128::from(self.period) / u128::from(self.amount);
        u64::try_from(ns).expect("at most 30 days").max(1)
    }

    /// 2^-8 ns for one unit of cost, rounded down.
    pub(crate) fn pace(&self) -> u128 {
        (u128::from(self.period) << 8) / u128::from(self.amount)
    }

    /// Whether the bucket rounds nothing.
    pub(crate) fn is_exact(&self) -> bool {
        (u128::from(self.period) << 8).is_multiple_of(u128::from(self.amount))
    }

    /// Whether a charge is rounded, beside the pace.
    pub(crate) fn rounds_charges(&self) -> bool {
        !self.is_exact() && self.pace() < 1 << 14
    }
}

fn rate() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        Just((1, DAY)),
        Just((1, 3600 * SECOND)),
        Just((100, 60 * SECOND)),
        Just((20_000, SECOND)),
        // 1 and 100 Gbit/s in bytes.
        Just((125_000_000, SECOND)),
        Just((12_500_000_000, SECOND)),
        // A pace that is rounded up to a power of two.
        Just((1_000_000_001, 16 * SECOND)),
        Just((4095, SECOND)),
        Just((4096, SECOND)),
        (1_u64..200, 1_000_000..DAY),
        (1_u64..100_000_000, 1_000_000..SECOND),
        (1_u64..200_000_000_000, Just(SECOND)),
    ]
}

fn limit(algorithm: Algorithm) -> impl Strategy<Value = Limit> {
    let burst = prop_oneof![
        1_u64..4,
        1_u64..2000,
        1_u64..1_000_000_000,
        (0..60_u32).prop_map(|bits| 1 << bits)
    ];
    (rate(), burst).prop_filter_map("not a possible limit", move |((amount, period), burst)| {
        Limit::new(algorithm, amount, period, burst)
    })
}

pub(crate) fn bucket() -> impl Strategy<Value = Limit> {
    prop_oneof![limit(Algorithm::TokenBucket), limit(Algorithm::LeakyBucket)]
}

/// Buckets that round nothing.
pub(crate) fn exact_bucket() -> impl Strategy<Value = Limit> {
    bucket().prop_filter("rounds its pace", Limit::is_exact)
}

/// Buckets that round the pace at most.
pub(crate) fn slow_bucket() -> impl Strategy<Value = Limit> {
    bucket().prop_filter("rounds charges", |limit| !limit.rounds_charges())
}

/// Buckets that round every charge.
pub(crate) fn fast_bucket() -> impl Strategy<Value = Limit> {
    bucket().prop_filter("rounds no charge", Limit::rounds_charges)
}

pub(crate) fn fixed_window() -> impl Strategy<Value = Limit> {
    limit(Algorithm::FixedWindow)
}

pub(crate) fn sliding_window() -> impl Strategy<Value = Limit> {
    limit(Algorithm::SlidingWindow)
}

/// Sliding windows that keep the previous use exactly.
pub(crate) fn exact_sliding_window() -> impl Strategy<Value = Limit> {
    sliding_window().prop_filter("rounds the previous use", |limit| limit.amount <= 4095)
}

pub(crate) fn any_limit() -> impl Strategy<Value = Limit> {
    prop_oneof![bucket(), fixed_window(), sliding_window()]
}

/// A cost of the limit's size: one, a few, a packet, a part of the burst, all of it.
pub(crate) fn cost(limit: Limit) -> impl Strategy<Value = u64> {
    let burst = limit.burst;
    prop_oneof![
        Just(1),
        1..=burst.min(5),
        60.min(burst)..=1514.min(burst),
        1..=burst.div_ceil(8),
        1..=burst,
        Just(burst),
    ]
}

/// A gap of the limit's size: none, a few ns, a part of the time of a burst, a few of them.
fn gap(limit: Limit) -> impl Strategy<Value = u64> {
    let burst_ns = limit.burst_ns();
    prop_oneof![
        Just(0),
        0..=burst_ns.min(3),
        0..=burst_ns / 16,
        0..=burst_ns,
        Just(burst_ns),
        0..=burst_ns * 3,
    ]
}

pub(crate) fn arrivals(limit: Limit, most: usize) -> impl Strategy<Value = Vec<Arrival>> {
    prop::collection::vec((gap(limit), cost(limit)), 1..=most)
}

/// A limit, when it begins, and what arrives.
pub(crate) fn traffic(
    limits: impl Strategy<Value = Limit>,
    most: usize,
) -> impl Strategy<Value = (Limit, u64, Vec<Arrival>)> {
    limits.prop_flat_map(move |limit| (Just(limit), 0..1_u64 << 60, arrivals(limit, most)))
}

/// A state that a limiter is in after some arrivals, and when.
pub(crate) fn run(params: &Params, start_ns: u64, arrivals: &[Arrival]) -> (u64, u64) {
    arrivals.iter().fold((0, start_ns), |(state, now), &(gap, cost)| {
        let now = now + gap;
        (params.charge(state, now, cost).state, now)
    })
}
