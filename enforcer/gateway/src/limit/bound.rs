//! A rule's limits, bound to the limiters that keep them.

use std::{
    collections::BTreeSet,
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use enforcer_common::limiter::{Decision, Params, charge_atomic, debit_atomic};
use http::HeaderValue;

use super::{KeyParts, Meter, Outcome, Refusal, Standing, headers, sketch::Sketch};
use enforcer_model::{Counted, Exceed, RequestLimit};

/// The limits of one rule.
#[derive(Debug)]
pub struct RuleLimits {
    hasher: RandomState,
    limits: Box<[Bound]>,
    /// What is told of the limits to the requests of no tier, then of each that is named.
    policy_headers: Vec<(Arc<str>, Option<HeaderValue>)>,
    counts_bytes: bool,
}

/// A limit, with its states.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) limit: RequestLimit,
    pub(super) base: Arm,
    /// In the order of the limit's.
    pub(super) tiers: Box<[Arm]>,
    /// What is told of it begins so.
    pub(super) item: Box<[u8]>,
}

/// What a limit is for the requests of one tier, or of none.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) id: u64,
    pub(super) limiter: Limiter,
}

/// Where the state is.
#[derive(Clone, Debug)]
pub(super) enum Limiter {
    Single(Arc<AtomicU64>, Params),
    Sketch(Arc<Sketch>),
}

impl RuleLimits {
    pub(super) fn new(hasher: RandomState, limits: Box<[Bound]>) -> Self {
        let tiers = limits.iter().flat_map(|bound| &bound.limit.tiers);
        let names: BTreeSet<_> = tiers.map(|tier| Arc::clone(&tier.name)).collect();
        let told = |tier: &str| headers::policies(limits.iter().map(|bound| &bound.limit), tier);
        let none = (Arc::from(""), told(""));
        let named = names.into_iter().map(|name| (Arc::clone(&name), told(&name)));
        Self {
            hasher,
            policy_headers: std::iter::once(none).chain(named).collect(),
            counts_bytes: limits
                .iter()
                .any(|bound| bound.limit.counted == Counted::ResponseBytes),
            limits,
        }
    }

    /// Charges a request to all limits, if all admit it.
    ///
    /// With several limits, all are looked at before the first is charged. If another worker uses up
    /// one of them in between, the request is refused, and those before it have been charged in vain:
    /// at most one request per other worker. No limit ever admits more than it should.
    pub fn check(&self, keys: &KeyParts<'_>, now_ns: u64) -> Outcome {
        if self.limits.len() > 1
            && let Some(refusal) = self.refusal(keys, now_ns)
        {
            return Outcome::Refused(refusal);
        }
        let mut tightest: Option<Standing> = None;
        let mut delay = 0;
        for (position, bound) in self.limits.iter().enumerate() {
            let arm = bound.arm(keys);
            let key = bound.key(arm, &self.hasher, keys);
            let decision = arm.limiter.charge(key, now_ns, bound.cost());
            if !decision.admitted() {
                return Outcome::Refused(refusal(position, &decision));
            }
            delay = delay.max(decision.delay_ns);
            let standing = arm.standing(position, decision.state, now_ns);
            if tightest.is_none_or(|other| standing.remaining < other.remaining) {
                tightest = Some(standing);
            }
        }
        Outcome::Admitted {
            tightest,
            delay: Duration::from_nanos(delay),
        }
    }

    /// What would refuse a request now. Charges nothing. Of several, one that rejects at once, else the
    /// one that takes longest.
    #[must_use]
    pub fn refusal(&self, keys: &KeyParts<'_>, now_ns: u64) -> Option<Refusal> {
        self.limits
            .iter()
            .enumerate()
            .filter_map(|(position, bound)| {
                let arm = bound.arm(keys);
                let state = bound.state(arm, &self.hasher, keys, now_ns);
                let decision = arm.limiter.params().charge(state, now_ns, bound.cost());
                (!decision.admitted()).then(|| refusal(position, &decision))
            })
            .max_by_key(|refusal| (self.exceed(refusal.limit) == Exceed::Reject, refusal.retry_after))
    }

    /// When a request's turn at a limit comes if so many are `ahead` of it, as far as is known now; or
    /// `None` if not within `patience`. Takes time in proportion to `ahead`.
    pub(super) fn turn(
        &self,
        limit: usize,
        keys: &KeyParts<'_>,
        now_ns: u64,
        ahead: usize,
        patience: Duration,
    ) -> Option<Duration> {
        let bound = &self.limits[limit];
        let arm = bound.arm(keys);
        let mut state = bound.state(arm, &self.hasher, keys, now_ns);
        let mut wait_ns = 0_u64;
        let mut served = 0;
        while served <= ahead {
            let then = now_ns.saturating_add(wait_ns);
            let decision = arm.limiter.params().charge(state, then, bound.cost());
            if decision.admitted() {
                state = decision.state;
                served += 1;
            } else {
                wait_ns = wait_ns.saturating_add(decision.retry_after_ns);
                if Duration::from_nanos(wait_ns) > patience {
                    return None;
                }
            }
        }
        Some(Duration::from_nanos(wait_ns))
    }

    /// The limits over which a request may wait: position, key and for how long.
    pub(super) fn queues<'a>(
        &'a self,
        keys: &'a KeyParts<'_>,
    ) -> impl Iterator<Item = (usize, u64, Duration)> + 'a {
        self.limits
            .iter()
            .enumerate()
            .filter_map(|(position, bound)| match bound.limit.exceed {
                Exceed::Queue(patience) => {
                    let key = bound.key(bound.arm(keys), &self.hasher, keys);
                    Some((position, key, patience))
                }
                Exceed::Reject => None,
            })
    }

    /// What happens to a request over the limit.
    #[must_use]
    pub fn exceed(&self, limit: usize) -> Exceed {
        self.limits
            .get(limit)
            .map_or(Exceed::Reject, |bound| bound.limit.exceed)
    }

    /// The limit's name; empty if there is none at that position.
    #[must_use]
    pub fn name(&self, limit: usize) -> &str {
        self.limits.get(limit).map_or("", |bound| &bound.limit.name)
    }

    /// The beginning of what is told of how the limit stands.
    pub(super) fn item(&self, limit: usize) -> Option<&[u8]> {
        self.limits.get(limit).map(|bound| &*bound.item)
    }

    /// Whether the rule has no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The value of `RateLimit-Policy` for the requests of a tier.
    pub(super) fn policy_header(&self, tier: Option<&str>) -> Option<&HeaderValue> {
        let named = tier.and_then(|tier| self.policy_headers.iter().find(|(name, _)| **name == *tier));
        named.or(self.policy_headers.first())?.1.as_ref()
    }

    /// What takes the bytes of the response from the limits that count them, if any does.
    #[must_use]
    pub fn meter(&self, keys: &KeyParts<'_>, start: Instant) -> Option<Meter> {
        if !self.counts_bytes {
            return None;
        }
        let counting = |bound: &&Bound| bound.limit.counted == Counted::ResponseBytes;
        let charged = self.limits.iter().filter(counting).map(|bound| {
            let arm = bound.arm(keys);
            (arm.limiter.clone(), bound.key(arm, &self.hasher, keys))
        });
        Some(Meter::new(charged.collect(), start))
    }
}

impl Bound {
    /// What the limit is for the request's tier.
    fn arm(&self, keys: &KeyParts<'_>) -> &Arm {
        let Some(tier) = keys.tier else { return &self.base };
        let mut named = self.limit.tiers.iter().zip(&self.tiers);
        named
            .find(|(named, _)| *named.name == *tier)
            .map_or(&self.base, |(_, arm)| arm)
    }

    fn cost(&self) -> u64 {
        self.limit.counted.at_once()
    }

    fn key(&self, arm: &Arm, hasher: &RandomState, keys: &KeyParts<'_>) -> u64 {
        keys.hash(hasher, arm.id, &self.limit.per)
    }

    fn state(&self, arm: &Arm, hasher: &RandomState, keys: &KeyParts<'_>, now_ns: u64) -> u64 {
        match &arm.limiter {
            Limiter::Single(cell, _) => cell.load(Ordering::Relaxed),
            Limiter::Sketch(sketch) => sketch.state(self.key(arm, hasher, keys), now_ns),
        }
    }
}

impl Arm {
    fn standing(&self, limit: usize, state: u64, now_ns: u64) -> Standing {
        let params = self.limiter.params();
        Standing {
            limit,
            remaining: params.remaining(state, now_ns),
            reset: Duration::from_nanos(params.reset_after_ns(state, now_ns)),
        }
    }
}

impl Limiter {
    fn params(&self) -> &Params {
        match self {
            Self::Single(_, params) => params,
            Self::Sketch(sketch) => sketch.params(),
        }
    }

    fn charge(&self, key: u64, now_ns: u64, cost: u64) -> Decision {
        match self {
            Self::Single(cell, params) => charge_atomic(cell, params, now_ns, cost),
            Self::Sketch(sketch) => sketch.charge(key, now_ns, cost),
        }
    }

    pub(super) fn debit(&self, key: u64, now_ns: u64, cost: u64) {
        match self {
            Self::Single(cell, params) => debit_atomic(cell, params, now_ns, cost),
            Self::Sketch(sketch) => sketch.debit(key, now_ns, cost),
        }
    }
}

fn refusal(limit: usize, decision: &Decision) -> Refusal {
    Refusal {
        limit,
        retry_after: Duration::from_nanos(decision.retry_after_ns),
    }
}
