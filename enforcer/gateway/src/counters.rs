//! A worker's own counters, which it adds to the shared metrics a few times each second, so that
//! workers do not contend.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    time::Duration,
};

use prometheus::{
    IntGaugeVec,
    local::{LocalHistogram, LocalIntCounter},
};

use super::{
    identity::reason::{REASONS, Reason},
    metrics::{CODE_CLASSES, GatewayMetrics, VERDICTS, label},
    signal::Verdict,
    upstream::{BOUNDS, Bound},
};

/// How an exchange with an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Answered,
    Connect,
    Broken,
    /// Given up: the client went away, or the rule's time was over.
    Abandoned,
    /// The service took too long.
    TimedOut,
}

/// All of them.
pub(super) const EXCHANGES: [Exchange; 5] = [
    Exchange::Answered,
    Exchange::Connect,
    Exchange::Broken,
    Exchange::Abandoned,
    Exchange::TimedOut,
];

/// One worker's counters that wait for the next flush.
#[derive(Debug, Default)]
pub(super) struct WorkerMetrics {
    touched: RefCell<Vec<Rc<RuleCells>>>,
}

/// One worker's counters for one rule.
#[derive(Debug)]
pub(super) struct RuleCells {
    metrics: GatewayMetrics,
    route: String,
    service: String,
    requests: [[OnceCell<LocalIntCounter>; CODE_CLASSES.len()]; VERDICTS.len()],
    denials: [OnceCell<LocalIntCounter>; REASONS.len()],
    seconds: LocalHistogram,
    touched: Cell<bool>,
}

/// One worker's counters for one endpoint. They are few, so each flush looks at all.
#[derive(Debug)]
pub(super) struct EndpointCells([LocalIntCounter; EXCHANGES.len()]);

/// Why a request was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryCause {
    Connect,
    /// The endpoint said that it has not acted on the request.
    Refused,
    /// The connection broke, or the try took too long.
    Reset,
    /// The response's status.
    Status,
}

/// All of them.
pub(super) const RETRY_CAUSES: [RetryCause; 4] = [
    RetryCause::Connect,
    RetryCause::Refused,
    RetryCause::Reset,
    RetryCause::Status,
];

impl RetryCause {
    /// Its name in metrics.
    #[must_use]
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Status => "status",
        }
    }
}

/// One worker's counters for one service.
#[derive(Debug)]
pub(super) struct ServiceCells {
    overflows: [LocalIntCounter; BOUNDS.len()],
    retries: [LocalIntCounter; RETRY_CAUSES.len()],
    concurrency: IntGaugeVec,
    service: String,
    /// This worker's part of the gauge.
    adapted: Cell<u32>,
}

impl ServiceCells {
    #[must_use]
    pub(super) fn new(metrics: &GatewayMetrics, service: &str) -> Self {
        let overflows = |bound: Bound| {
            metrics
                .upstream_overflows
                .with_label_values(&[service, bound.label()])
        };
        let retries = |cause: RetryCause| {
            metrics
                .upstream_retries
                .with_label_values(&[service, cause.label()])
        };
        Self {
            overflows: BOUNDS.map(|bound| overflows(bound).local()),
            retries: RETRY_CAUSES.map(|cause| retries(cause).local()),
            concurrency: metrics.upstream_concurrency.clone(),
            service: service.to_owned(),
            adapted: Cell::new(0),
        }
    }

    /// A bound was in the way.
    pub(super) fn overflow(&self, bound: Bound) {
        self.overflows[bound as usize].inc();
    }

    /// A request is sent again.
    pub(super) fn retry(&self, cause: RetryCause) {
        self.retries[cause as usize].inc();
    }

    /// So many requests may be under way on this worker; 0 where that is not adapted.
    pub(super) fn adapted(&self, limit: u32) {
        let before = self.adapted.replace(limit);
        if before != limit {
            let gauge = self.concurrency.with_label_values(&[&*self.service]);
            gauge.add(i64::from(limit) - i64::from(before));
        }
    }

    /// Adds what has been counted to the shared counters.
    pub(super) fn flush(&self) {
        self.overflows.iter().for_each(LocalIntCounter::flush);
        self.retries.iter().for_each(LocalIntCounter::flush);
    }
}

impl RuleCells {
    /// Counters for a rule of `route` that leads to `service`; both empty where none matched.
    #[must_use]
    pub(super) fn new(metrics: &GatewayMetrics, route: &str, service: &str) -> Rc<Self> {
        Rc::new(Self {
            metrics: metrics.clone(),
            route: route.to_owned(),
            service: service.to_owned(),
            requests: Default::default(),
            denials: Default::default(),
            seconds: metrics.request_seconds.with_label_values(&[route]).local(),
            touched: Cell::new(false),
        })
    }

    fn request(&self, verdict: Verdict, status: u16) -> &LocalIntCounter {
        let class = usize::from(status / 100).clamp(1, CODE_CLASSES.len()) - 1;
        self.requests[position(verdict)][class].get_or_init(|| {
            let labels = [&*self.route, &*self.service, label(verdict), CODE_CLASSES[class]];
            self.metrics.requests.with_label_values(&labels).local()
        })
    }

    fn denied(&self, reason: Reason) -> &LocalIntCounter {
        self.denials[reason as usize].get_or_init(|| {
            let labels = [&*self.route, reason.label()];
            self.metrics.denials.with_label_values(&labels).local()
        })
    }

    fn flush(&self) {
        self.touched.set(false);
        self.requests
            .iter()
            .flatten()
            .chain(&self.denials)
            .filter_map(OnceCell::get)
            .for_each(LocalIntCounter::flush);
        self.seconds.flush();
    }
}

impl EndpointCells {
    #[must_use]
    pub(super) fn new(metrics: &GatewayMetrics, service: &str, endpoint: &str) -> Self {
        Self(EXCHANGES.map(|result| {
            let labels = [service, endpoint, exchange_label(result)];
            metrics.upstream_requests.with_label_values(&labels).local()
        }))
    }

    /// Adds what has been counted to the shared counters.
    pub(super) fn flush(&self) {
        self.0.iter().for_each(LocalIntCounter::flush);
    }

    /// Counts the end of an exchange.
    pub(super) fn count(&self, result: Exchange) {
        for (each, counter) in EXCHANGES.iter().zip(&self.0) {
            if *each == result {
                counter.inc();
            }
        }
    }
}

impl WorkerMetrics {
    /// Counts a finished request: why it was denied, and the service's latency, if there is such.
    pub(super) fn request(
        &self,
        cells: &Rc<RuleCells>,
        (verdict, denied): (Verdict, Option<Reason>),
        status: u16,
        latency: Option<Duration>,
    ) {
        cells.request(verdict, status).inc();
        if let Some(reason) = denied {
            cells.denied(reason).inc();
        }
        if let Some(latency) = latency {
            cells.seconds.observe(latency.as_secs_f64());
        }
        if !cells.touched.replace(true) {
            self.touched.borrow_mut().push(Rc::clone(cells));
        }
    }

    /// Adds what has been counted since the last time to the shared metrics.
    pub(super) fn flush(&self) {
        for cells in self.touched.borrow_mut().drain(..) {
            cells.flush();
        }
    }
}

/// The result's name in metrics.
pub(super) fn exchange_label(result: Exchange) -> &'static str {
    match result {
        Exchange::Answered => "answered",
        Exchange::Connect => "connect_failed",
        Exchange::Broken => "broken",
        Exchange::Abandoned => "abandoned",
        Exchange::TimedOut => "timed_out",
    }
}

fn position(verdict: Verdict) -> usize {
    VERDICTS.iter().position(|&each| each == verdict).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn counts_reach_the_registry_by_flushing() {
        let registry = Registry::new();
        let metrics = GatewayMetrics::new(&registry).unwrap();
        let worker = WorkerMetrics::default();
        let cells = RuleCells::new(&metrics, "orders", "orders-v1");
        for status in [200, 204, 404] {
            worker.request(
                &cells,
                (Verdict::Allowed, None),
                status,
                Some(Duration::from_millis(3)),
            );
        }
        worker.request(&cells, (Verdict::Limited, None), 429, None);
        worker.request(&cells, (Verdict::Forbidden, Some(Reason::Claims)), 403, None);
        worker.flush();
        let count = |verdict, class| {
            metrics
                .requests
                .with_label_values(&["orders", "orders-v1", verdict, class])
                .get()
        };
        assert_eq!(count("allowed", "2xx"), 2);
        assert_eq!(count("allowed", "4xx"), 1);
        assert_eq!(count("limited", "4xx"), 1);
        let denials = metrics.denials.with_label_values(&["orders", "claims"]);
        assert_eq!((count("forbidden", "4xx"), denials.get()), (1, 1));
        assert_eq!(
            metrics
                .request_seconds
                .with_label_values(&["orders"])
                .get_sample_count(),
            3
        );
        assert!(
            GatewayMetrics::new(&registry).is_err(),
            "names are registered once"
        );
    }

    #[test]
    fn exchanges_are_counted_by_their_ends() {
        let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
        let cells = EndpointCells::new(&metrics, "s", "e");
        cells.count(Exchange::Abandoned);
        cells.count(Exchange::Answered);
        cells.flush();
        let count = |result| {
            metrics
                .upstream_requests
                .with_label_values(&["s", "e", result])
                .get()
        };
        assert_eq!((count("abandoned"), count("answered")), (1, 1));
    }
}
