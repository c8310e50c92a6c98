//! What the gateway counts.
//!
//! The request path writes to counters of its own worker. [`WorkerMetrics::flush`] adds them to the
//! shared ones a few times each second, so workers do not contend. Labels come from policies and
//! the configuration only, never from requests.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    time::Duration,
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    local::{LocalHistogram, LocalIntCounter},
};

use super::signal::Verdict;

/// Upper bounds of latency, in seconds.
const LATENCY: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const VERDICTS: [Verdict; 7] = [
    Verdict::Allowed,
    Verdict::NoRoute,
    Verdict::Unauthenticated,
    Verdict::Forbidden,
    Verdict::Limited,
    Verdict::Invalid,
    Verdict::Upstream,
];

const EXCHANGES: [Exchange; 4] = [
    Exchange::Answered,
    Exchange::Connect,
    Exchange::Broken,
    Exchange::Abandoned,
];

/// The shared metrics.
#[derive(Clone, Debug)]
pub(super) struct GatewayMetrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    pub(super) connections: IntGaugeVec,
    handshakes: IntCounterVec,
    upstream_requests: IntCounterVec,
    pub(super) endpoint_healthy: IntGaugeVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) reload_failures: IntCounter,
}

/// How a handshake, or the admission before it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Completed,
    /// The client's certificate is missing or does not verify.
    Certificate,
    /// Anything else in TLS.
    Failed,
    TimedOut,
    /// Too many connections.
    Refused,
}

/// How an exchange with an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Answered,
    Connect,
    Broken,
    /// Given up: the client went away, or the rule's time was over.
    Abandoned,
}

impl GatewayMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the registry already has one of them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauges = |name, help, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            requests: counters(
                "enforcer_requests_total",
                "Requests, by the route and service that they matched, what was decided and how they were answered.",
                &["route", "service", "verdict", "code_class"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "enforcer_request_seconds",
                    "Time from a request's head to its response's head.",
                )
                .buckets(LATENCY.to_vec()),
                &["route"],
            )?,
            connections: gauges(
                "enforcer_connections",
                "Open connections of clients.",
                &["listener"],
            )?,
            handshakes: counters(
                "enforcer_handshakes_total",
                "TLS handshakes, and connections refused before one, by how they ended.",
                &["listener", "result"],
            )?,
            upstream_requests: counters(
                "enforcer_upstream_requests_total",
                "Exchanges with endpoints, by how they ended.",
                &["service", "endpoint", "result"],
            )?,
            endpoint_healthy: gauges(
                "enforcer_endpoint_healthy",
                "Whether an endpoint is used: 1 if its health checks pass or it has none, else 0.",
                &["service", "endpoint"],
            )?,
            certificate_expiry: gauges(
                "enforcer_certificate_expiry_seconds",
                "When the listener's certificate expires, in seconds since 1970.",
                &["listener"],
            )?,
            reload_failures: IntCounter::new(
                "enforcer_certificate_reload_failures_total",
                "Changed certificate files that were not taken over; the old ones stay in use.",
            )?,
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn prometheus::core::Collector>; 8] {
        [
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.handshakes.clone()),
            Box::new(self.upstream_requests.clone()),
            Box::new(self.endpoint_healthy.clone()),
            Box::new(self.certificate_expiry.clone()),
            Box::new(self.reload_failures.clone()),
        ]
    }

    /// Takes out what was counted for a rule of `route` that led to `service` and is gone.
    pub(super) fn forget_rule(&self, route: &str, service: &str) {
        for (verdict, class) in VERDICTS
            .iter()
            .flat_map(|&verdict| CODE_CLASSES.map(|class| (verdict, class)))
        {
            // An error says that there was nothing.
            self.requests
                .remove_label_values(&[route, service, label(verdict), class])
                .unwrap_or_default();
        }
    }

    /// Takes out the latencies of a route that is gone.
    pub(super) fn forget_route(&self, route: &str) {
        self.request_seconds
            .remove_label_values(&[route])
            .unwrap_or_default();
    }

    /// Takes out what was counted for an endpoint that is gone.
    pub(super) fn forget_endpoint(&self, service: &str, endpoint: &str) {
        self.endpoint_healthy
            .remove_label_values(&[service, endpoint])
            .unwrap_or_default();
        for result in EXCHANGES.map(exchange_label) {
            self.upstream_requests
                .remove_label_values(&[service, endpoint, result])
                .unwrap_or_default();
        }
    }

    /// Counts a handshake.
    pub(super) fn handshake(&self, listener: &str, result: Handshake) {
        let result = match result {
            Handshake::Completed => "completed",
            Handshake::Certificate => "certificate",
            Handshake::Failed => "failed",
            Handshake::TimedOut => "timed_out",
            Handshake::Refused => "refused",
        };
        self.handshakes.with_label_values(&[listener, result]).inc();
    }
}

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
    seconds: LocalHistogram,
    touched: Cell<bool>,
}

/// One worker's counters for one endpoint. They are few, so each flush looks at all.
#[derive(Debug)]
pub(super) struct EndpointCells([LocalIntCounter; EXCHANGES.len()]);

/// Counts an exchange, as abandoned if it is dropped before its end.
#[derive(Debug)]
pub(super) struct ExchangeGuard<'a>(Option<&'a EndpointCells>);

impl RuleCells {
    /// Counters for a rule of `route` that leads to `service`; both empty where none matched.
    #[must_use]
    pub(super) fn new(metrics: &GatewayMetrics, route: &str, service: &str) -> Rc<Self> {
        Rc::new(Self {
            metrics: metrics.clone(),
            route: route.to_owned(),
            service: service.to_owned(),
            requests: Default::default(),
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

    fn flush(&self) {
        self.touched.set(false);
        self.requests
            .iter()
            .flatten()
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

    /// Begins to count an exchange.
    #[must_use]
    pub(super) fn guard(&self) -> ExchangeGuard<'_> {
        ExchangeGuard(Some(self))
    }

    /// Adds what has been counted to the shared counters.
    pub(super) fn flush(&self) {
        self.0.iter().for_each(LocalIntCounter::flush);
    }

    fn count(&self, result: Exchange) {
        for (each, counter) in EXCHANGES.iter().zip(&self.0) {
            if *each == result {
                counter.inc();
            }
        }
    }
}

impl ExchangeGuard<'_> {
    /// The exchange is over.
    pub(super) fn end(mut self, result: Exchange) {
        if let Some(cells) = self.0.take() {
            cells.count(result);
        }
    }
}

impl Drop for ExchangeGuard<'_> {
    fn drop(&mut self) {
        if let Some(cells) = self.0.take() {
            cells.count(Exchange::Abandoned);
        }
    }
}

impl WorkerMetrics {
    /// Counts a finished request.
    pub(super) fn request(&self, cells: &Rc<RuleCells>, verdict: Verdict, status: u16, latency: Duration) {
        cells.request(verdict, status).inc();
        cells.seconds.observe(latency.as_secs_f64());
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

/// The verdict's name in metrics and logs.
#[must_use]
pub(super) fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::NoRoute => "no_route",
        Verdict::Unauthenticated => "unauthenticated",
        Verdict::Forbidden => "forbidden",
        Verdict::Limited => "limited",
        Verdict::Invalid => "invalid",
        Verdict::Upstream => "upstream",
    }
}

fn exchange_label(result: Exchange) -> &'static str {
    match result {
        Exchange::Answered => "answered",
        Exchange::Connect => "connect_failed",
        Exchange::Broken => "broken",
        Exchange::Abandoned => "abandoned",
    }
}

fn position(verdict: Verdict) -> usize {
    VERDICTS.iter().position(|&each| each == verdict).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_reach_the_registry_by_flushing() {
        let registry = Registry::new();
        let metrics = GatewayMetrics::new(&registry).unwrap();
        let worker = WorkerMetrics::default();
        let cells = RuleCells::new(&metrics, "orders", "orders-v1");
        for status in [200, 204, 404] {
            worker.request(&cells, Verdict::Allowed, status, Duration::from_millis(3));
        }
        worker.request(&cells, Verdict::Limited, 429, Duration::ZERO);
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
        assert_eq!(
            metrics
                .request_seconds
                .with_label_values(&["orders"])
                .get_sample_count(),
            4
        );
        assert!(
            GatewayMetrics::new(&registry).is_err(),
            "names are registered once"
        );
    }

    #[test]
    fn a_dropped_exchange_counts_as_abandoned() {
        let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
        let cells = EndpointCells::new(&metrics, "s", "e");
        drop(cells.guard());
        cells.guard().end(Exchange::Answered);
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
