//! Limits on requests.
//!
//! [`RequestLimiters`] holds the limiters' states for as long as the process runs. [`RuleLimits`] is a
//! rule's limits bound to theirs: made when a policy is compiled, asked at each request. A new policy
//! that has a limit with the same parameters goes on with its states.

mod bound;
pub mod headers;
pub mod key;
pub mod meter;
pub mod queue;
pub mod sketch;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    time::Duration,
};

use enforcer_common::limiter::{FRESH, Params};

use self::bound::{Arm, Bound};
use self::{bound::Limiter, sketch::Sketch};
pub use self::{bound::RuleLimits, key::KeyParts, meter::Meter};
use enforcer_model::{Name, RequestKey, RequestLimit};

/// So many sketches have the full size; further ones have a sixteenth of it. With the usual size all
/// sketches of `p` different parameters take at most 4 MiB · min(p, 16) + 256 KiB · max(p - 16, 0).
const FULL_SIZE_SKETCHES: usize = 16;

/// The states of all request limiters.
#[derive(Debug)]
pub struct RequestLimiters {
    /// Secret, and new at each start: nobody can aim at the cells of others.
    hasher: RandomState,
    lines: usize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Limits with the same parameters share a sketch, as cells of different ones cannot.
    sketches: Vec<(Params, Weak<Sketch>)>,
    /// Limits whose key is the same for all requests: exact. By whose they are and what they run with.
    singles: HashMap<(String, Params), Weak<AtomicU64>>,
}

/// What the limits say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was charged to every limit.
    Admitted {
        /// Of the limit of which the least is left; `None` without limits.
        tightest: Option<Standing>,
        /// Leaky bucket: how long the request waits for those before it.
        delay: Duration,
    },
    /// It was charged to none.
    Refused(Refusal),
}

/// Which limit refuses a request, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The position of the limit in its rule.
    pub limit: usize,
    /// Until then it would be refused again.
    pub retry_after: Duration,
}

/// How a limit stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The position of the limit in its rule.
    pub limit: usize,
    /// How many requests would be admitted at once.
    pub remaining: u64,
    /// How long until nothing of the limit is used any more.
    pub reset: Duration,
}

impl Default for RequestLimiters {
    fn default() -> Self {
        Self::new(sketch::DEFAULT_LINES)
    }
}

impl RequestLimiters {
    /// Limiters whose sketches have `lines` cache lines of 64 bytes.
    #[must_use]
    pub fn new(lines: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            lines,
            tables: Mutex::default(),
        }
    }

    /// Binds the limits of a rule of `route` to their states. Not for the request path: takes a lock.
    ///
    /// `service`: the one that the rule leads to. A rule that redirects has none, and shares no limit by it.
    #[must_use]
    pub fn bind(&self, route: &Name, service: Option<&Name>, limits: &[RequestLimit]) -> RuleLimits {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.forget_unused();
        let mut arm = |limit: &RequestLimit, tier: &str, params: Params| {
            let whose = whose(route, service, limit, tier);
            Arm {
                id: self.hasher.hash_one(&whose),
                limiter: tables.limiter(whose, limit, params, self.lines),
            }
        };
        let bound = limits.iter().map(|limit| Bound {
            base: arm(limit, "", limit.params),
            tiers: limit
                .tiers
                .iter()
                .map(|tier| arm(limit, &tier.name, tier.params))
                .collect(),
            item: headers::item(&limit.name),
            limit: limit.clone(),
        });
        RuleLimits::new(self.hasher.clone(), bound.collect())
    }
}

/// Which limits have a state together: those of a route by one name, and those by a service that say the same.
fn whose(route: &Name, service: Option<&Name>, limit: &RequestLimit, tier: &str) -> String {
    if let (Some(service), true) = (service, limit.per.contains(&RequestKey::Service)) {
        let (per, counted) = (&limit.per, limit.counted);
        format!("service {service} {per:?} {counted:?} {:?} {tier}", limit.params)
    } else {
        format!("route {route} {} {tier}", limit.name)
    }
}

impl Tables {
    fn forget_unused(&mut self) {
        self.sketches.retain(|(_, sketch)| sketch.strong_count() > 0);
        self.singles.retain(|_, cell| cell.strong_count() > 0);
    }

    fn limiter(&mut self, whose: String, limit: &RequestLimit, params: Params, lines: usize) -> Limiter {
        let constant = |key: &RequestKey| matches!(key, RequestKey::Rule | RequestKey::Service);
        if limit.per.iter().all(constant) {
            Limiter::Single(self.single(whose, params), params)
        } else {
            Limiter::Sketch(self.sketch(params, lines))
        }
    }

    fn single(&mut self, whose: String, params: Params) -> Arc<AtomicU64> {
        let held = self.singles.entry((whose, params)).or_default();
        held.upgrade().unwrap_or_else(|| {
            let cell = Arc::new(AtomicU64::new(FRESH));
            *held = Arc::downgrade(&cell);
            cell
        })
    }

    fn sketch(&mut self, params: Params, lines: usize) -> Arc<Sketch> {
        let held = self
            .sketches
            .iter()
            .find(|(of, _)| *of == params)
            .and_then(|(_, sketch)| sketch.upgrade());
        held.unwrap_or_else(|| {
            let full = self.sketches.len() < FULL_SIZE_SKETCHES;
            let sketch = Arc::new(Sketch::new(params, if full { lines } else { lines / 16 }));
            self.sketches.push((params, Arc::downgrade(&sketch)));
            sketch
        })
    }
}
