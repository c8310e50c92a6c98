//! Takes endpoints out at which requests fail, and brings them back: on the control thread, from what
//! all workers tell.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::endpoint::{SharedEndpoint, Suspicion};
use crate::{metrics::GatewayMetrics, policies::Generation};
use enforcer_model::Outliers;

/// Looked at so often where nothing is due earlier.
const SELDOM: Duration = Duration::from_secs(3600);

/// Why an endpoint is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Suspicion(Suspicion),
    SuccessRate,
}

/// All of them.
pub(crate) const CAUSES: [&str; 3] = ["errors", "failures", "success_rate"];

impl Cause {
    fn label(self) -> &'static str {
        match self {
            Self::Suspicion(Suspicion::Errors) => CAUSES[0],
            Self::Suspicion(Suspicion::Failures) => CAUSES[1],
            Self::SuccessRate => CAUSES[2],
        }
    }
}

/// Which endpoints are out, until when, and how often they have been.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    records: HashMap<usize, Record>,
}

/// What is known of one endpoint.
#[derive(Debug)]
struct Record {
    endpoint: Weak<SharedEndpoint>,
    history: History,
    /// Good and bad ends when its success rate was looked at.
    ends: (u64, u64),
    next_look: Instant,
}

/// How often an endpoint has been taken out.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    times: u32,
    until: Option<Instant>,
    back: Option<Instant>,
}

impl History {
    /// Takes the endpoint out at `now`: longer each time, and each `base` in which nothing was wrong makes
    /// up for one time.
    fn eject(&mut self, now: Instant, law: &Outliers) -> Instant {
        let good = self
            .back
            .map_or(Duration::ZERO, |back| now.saturating_duration_since(back));
        let forgiven = good.as_millis() / law.base_ejection.as_millis().max(1);
        self.times = self
            .times
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
            + 1;
        let until = now + law.base_ejection.saturating_mul(self.times).min(law.max_ejection);
        self.until = Some(until);
        until
    }

    /// Whether it is back since `now`.
    fn returns(&mut self, now: Instant) -> bool {
        let returns = self.until.is_some_and(|until| until <= now);
        if returns {
            self.until = None;
            self.back = Some(now);
        }
        returns
    }
}

impl Keeper {
    /// Judges what workers have told, and brings back whose time is over. Returns when to look again.
    pub(crate) fn look(
        &mut self,
        generation: &Generation,
        metrics: &GatewayMetrics,
        now: Instant,
    ) -> Instant {
        self.records
            .retain(|_, record| record.endpoint.strong_count() > 0);
        let mut next = now + SELDOM;
        let services = generation.set.services.iter().zip(&generation.endpoints);
        for (service, endpoints) in services {
            match &service.outliers {
                Some(law) => next = next.min(self.judge(law, endpoints, metrics, now)),
                None => self.release(endpoints, metrics),
            }
        }
        next
    }

    fn judge(
        &mut self,
        law: &Outliers,
        endpoints: &[Arc<SharedEndpoint>],
        metrics: &GatewayMetrics,
        now: Instant,
    ) -> Instant {
        let mut next = now + law.interval;
        for endpoint in endpoints {
            let record = self.record(endpoint, law, now);
            if record.history.returns(now) {
                set(endpoint, false, metrics);
            }
        }
        let mut out = endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
        let most = most(endpoints.len(), law.max_ejected_percent);
        for endpoint in endpoints {
            let record = self.record(endpoint, law, now);
            let suspicion = endpoint.seen.take_suspicion().map(Cause::Suspicion);
            let cause = suspicion.or(record.rate(endpoint, law, now));
            if let Some(cause) = cause.filter(|_| !endpoint.is_ejected() && out < most) {
                out += 1;
                let until = record.history.eject(now, law);
                set(endpoint, true, metrics);
                let (service, name) = (endpoint.service.as_str(), endpoint.authority.as_str());
                let labels = [service, name, cause.label()];
                metrics.endpoint_ejections.with_label_values(&labels).inc();
                let (cause, lasts) = (cause.label(), until - now);
                tracing::warn!(%service, endpoint = %name, cause, ?lasts, "an endpoint is not used for a while");
            }
            next = next.min(record.history.until.unwrap_or(next));
            if law.success_rate.is_some() {
                next = next.min(record.next_look);
            }
        }
        next
    }

    fn record(&mut self, endpoint: &Arc<SharedEndpoint>, law: &Outliers, now: Instant) -> &mut Record {
        self.records
            .entry(Arc::as_ptr(endpoint) as usize)
            .or_insert_with(|| Record {
                endpoint: Arc::downgrade(endpoint),
                history: History::default(),
                ends: endpoint.seen.ends(),
                next_look: now + law.interval,
            })
    }

    /// Nothing is known any more that would keep them out.
    fn release(&mut self, endpoints: &[Arc<SharedEndpoint>], metrics: &GatewayMetrics) {
        for endpoint in endpoints {
            if self.records.remove(&(Arc::as_ptr(endpoint) as usize)).is_some() && endpoint.is_ejected() {
                set(endpoint, false, metrics);
            }
        }
    }
}

impl Record {
    /// Whether too few requests of the last interval ended well.
    fn rate(&mut self, endpoint: &SharedEndpoint, law: &Outliers, now: Instant) -> Option<Cause> {
        let wanted = law.success_rate?;
        if now < self.next_look {
            return None;
        }
        self.next_look = now + law.interval;
        let (good, bad) = endpoint.seen.ends();
        let (before_good, before_bad) = std::mem::replace(&mut self.ends, (good, bad));
        let (good, bad) = (good - before_good, bad - before_bad);
        let enough = good + bad >= u64::from(wanted.requests.get());
        let low = good * 100 < (good + bad) * u64::from(wanted.below);
        (enough && low).then_some(Cause::SuccessRate)
    }
}

/// How many of so many may be out. One of two or more always; the only one never.
fn most(count: usize, percent: u8) -> usize {
    let share = count * usize::from(percent) / 100;
    share
        .max(usize::from(count > 1))
        .min(if count > 1 { count } else { 0 })
}

fn set(endpoint: &SharedEndpoint, ejected: bool, metrics: &GatewayMetrics) {
    endpoint.set_ejected(ejected);
    let (service, name) = (endpoint.service.as_str(), endpoint.authority.as_str());
    metrics
        .endpoint_ejected
        .with_label_values(&[service, name])
        .set(i64::from(ejected));
    if !ejected {
        tracing::info!(%service, endpoint = %name, "an endpoint is used again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_get_longer_and_are_forgiven() {
        let seconds = Duration::from_secs;
        let law = Outliers {
            base_ejection: seconds(30),
            max_ejection: seconds(75),
            ..Outliers::default()
        };
        let mut history = History::default();
        let mut now = Instant::now();
        for lasts in [30, 60, 75, 75] {
            let until = history.eject(now, &law);
            assert_eq!(until - now, seconds(lasts));
            assert!(!history.returns(until - seconds(1)));
            assert!(history.returns(until));
            now = until;
        }
        // Four times, of which three are made up for.
        assert_eq!(history.eject(now + seconds(95), &law) - now, seconds(95 + 60));
        history.returns(now + seconds(155));
        assert_eq!(
            history.eject(now + seconds(10_000), &law) - now,
            seconds(10_000 + 30)
        );
    }

    #[test]
    fn some_stay() {
        for (count, percent, out) in [
            (0, 50, 0),
            (1, 100, 0),
            (2, 10, 1),
            (3, 50, 1),
            (4, 50, 2),
            (10, 10, 1),
            (10, 100, 10),
        ] {
            assert_eq!(most(count, percent), out, "{percent} % of {count}");
        }
    }
}
