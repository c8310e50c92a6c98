//! A rule's limits, bound to the limiters that keep them.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use enforcer_common::limiter::{Decision, Params, charge_atomic};
use http::HeaderValue;

use super::{KeyParts, Outcome, Refusal, Standing, headers, sketch::Sketch};
use crate::policy::model::{Exceed, RequestLimit};

/// Each request is one unit.
const COST: u64 = 1;

/// The limits of one rule.
#[derive(Debug)]
pub struct RuleLimits {
    hasher: RandomState,
    limits: Box<[Bound]>,
    policy_header: Option<HeaderValue>,
}

#[derive(Debug)]
struct Bound {
    limit: RequestLimit,
    id: u64,
    limiter: Limiter,
}

/// Where the state is.
#[derive(Debug)]
pub(super) enum Limiter {
    Single(Arc<AtomicU64>, Params),
    Sketch(Arc<Sketch>),
}

impl RuleLimits {
    pub(super) fn new(
        hasher: RandomState,
        limits: &[RequestLimit],
        ids: Vec<u64>,
        limiters: Vec<Limiter>,
    ) -> Self {
        let bind = |((limit, id), limiter): ((&RequestLimit, u64), Limiter)| Bound {
            limit: limit.clone(),
            id,
            limiter,
        };
        Self {
            hasher,
            limits: limits.iter().zip(ids).zip(limiters).map(bind).collect(),
            policy_header: headers::policies(limits),
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
            let decision = bound.limiter.charge(bound.key(&self.hasher, keys), now_ns);
            if !decision.admitted() {
                return Outcome::Refused(refusal(position, &decision));
            }
            delay = delay.max(decision.delay_ns);
            let standing = bound.standing(position, decision.state, now_ns);
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
                let state = bound.state(&self.hasher, keys, now_ns);
                let decision = bound.limit.params.charge(state, now_ns, COST);
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
        let mut state = bound.state(&self.hasher, keys, now_ns);
        let mut wait_ns = 0_u64;
        let mut served = 0;
        while served <= ahead {
            let decision = bound
                .limit
                .params
                .charge(state, now_ns.saturating_add(wait_ns), COST);
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
                Exceed::Queue(patience) => Some((position, bound.key(&self.hasher, keys), patience)),
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

    /// Whether the rule has no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The value of `RateLimit-Policy`.
    pub(super) fn policy_header(&self) -> Option<&HeaderValue> {
        self.policy_header.as_ref()
    }
}

impl Bound {
    fn key(&self, hasher: &RandomState, keys: &KeyParts<'_>) -> u64 {
        keys.hash(hasher, self.id, &self.limit.per)
    }

    fn state(&self, hasher: &RandomState, keys: &KeyParts<'_>, now_ns: u64) -> u64 {
        match &self.limiter {
            Limiter::Single(cell, _) => cell.load(Ordering::Relaxed),
            Limiter::Sketch(sketch) => sketch.state(self.key(hasher, keys), now_ns),
        }
    }

    fn standing(&self, limit: usize, state: u64, now_ns: u64) -> Standing {
        let params = &self.limit.params;
        Standing {
            limit,
            remaining: params.remaining(state, now_ns),
            reset: Duration::from_nanos(params.reset_after_ns(state, now_ns)),
        }
    }
}

impl Limiter {
    fn charge(&self, key: u64, now_ns: u64) -> Decision {
        match self {
            Self::Single(cell, params) => charge_atomic(cell, params, now_ns, COST),
            Self::Sketch(sketch) => sketch.charge(key, now_ns, COST),
        }
    }
}

fn refusal(limit: usize, decision: &Decision) -> Refusal {
    Refusal {
        limit,
        retry_after: Duration::from_nanos(decision.retry_after_ns),
    }
}
