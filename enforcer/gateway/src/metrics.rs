//! What the gateway counts.
//!
//! The request path writes to the counters of its own worker (see [`super::counters`]). Labels come from policies and
//! the configuration only, never from requests.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector as _,
    proto::{LabelPair, MetricFamily},
};

use super::{
    counters::{EXCHANGES, RETRY_CAUSES, exchange_label},
    identity::reason::REASONS,
    listener::ListenerContext,
    mirror::MIRRORED,
    signal::Verdict,
    upstream::{BOUNDS, outlier::CAUSES},
};

/// Upper bounds of latency, in seconds.
const LATENCY: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
pub(super) const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
pub(super) const VERDICTS: [Verdict; 9] = [
    Verdict::Allowed,
    Verdict::NoRoute,
    Verdict::Unauthenticated,
    Verdict::Forbidden,
    Verdict::Limited,
    Verdict::Invalid,
    Verdict::Upstream,
    Verdict::Saturated,
    Verdict::Shed,
];

/// The shared metrics.
#[derive(Clone, Debug)]
pub(super) struct GatewayMetrics {
    pub(super) requests: IntCounterVec,
    pub(super) request_seconds: HistogramVec,
    pub(super) denials: IntCounterVec,
    pub(super) claims_left_out: IntCounter,
    pub(super) connections: IntGaugeVec,
    pub(super) passed: IntCounterVec,
    handshakes: IntCounterVec,
    pub(super) upstream_requests: IntCounterVec,
    pub(super) upstream_overflows: IntCounterVec,
    pub(super) upstream_retries: IntCounterVec,
    pub(super) upstream_concurrency: IntGaugeVec,
    pub(super) worker_late: GaugeVec,
    pub(super) mirrored: IntCounterVec,
    pub(super) endpoint_healthy: IntGaugeVec,
    pub(super) endpoint_ejected: IntGaugeVec,
    pub(super) endpoint_ejections: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) crl_next_update: IntGaugeVec,
    pub(super) reload_failures: IntCounter,
    pub(super) connections_revoked: IntCounter,
    pub(super) connections_given_up: IntCounter,
    pub(super) attempts_refused: IntCounter,
    pub(super) dpop_refusals: IntCounterVec,
}

/// How a handshake, or the admission before it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Completed,
    /// A service does it.
    Passed,
    /// The client's certificate is missing or does not verify.
    Certificate,
    /// Anything else in TLS.
    Failed,
    TimedOut,
    /// Too many connections, or too many handshakes since.
    Refused,
    /// The source has its share of connections.
    SourceShare,
    /// The source has spent its budget of handshakes.
    SourceBudget,
    /// A load balancer has not said whose connection it is.
    ProxyHeader,
    /// The client that a load balancer has named is denied.
    Denied,
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
                    "Time from when a service had a whole request to the head of its response.",
                )
                .buckets(LATENCY.to_vec()),
                &["route"],
            )?,
            denials: counters(
                "enforcer_denials_total",
                "Requests that a rule did not admit, or would not have but for shadow, by what was missing.",
                &["route", "reason"],
            )?,
            claims_left_out: IntCounter::new(
                "enforcer_claims_not_forwarded_total",
                "Claims that a rule forwards and that no header field can carry.",
            )?,
            connections: gauges(
                "enforcer_connections",
                "Open connections of clients.",
                &["listener"],
            )?,
            passed: counters(
                "enforcer_passthrough_connections_total",
                "Connections whose TLS a service ends, by the route and service, and what was decided.",
                &["route", "service", "verdict"],
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
            upstream_overflows: counters(
                "enforcer_upstream_overflows_total",
                "Requests, waits and repetitions that a service's bounds or its retry budget did not admit.",
                &["service", "bound"],
            )?,
            upstream_retries: counters(
                "enforcer_upstream_retries_total",
                "Requests that were sent again, by what had come of the try before.",
                &["service", "cause"],
            )?,
            upstream_concurrency: gauges(
                "enforcer_upstream_concurrency_limit",
                "How many requests to a service may be under way, where that is adapted to its latency.",
                &["service"],
            )?,
            worker_late: GaugeVec::new(
                Opts::new(
                    "enforcer_worker_late_seconds",
                    "How late a worker has been lately, at least: how long what is ready waits for its turn.",
                ),
                &["worker"],
            )?,
            mirrored: counters(
                "enforcer_mirrored_requests_total",
                "Copies of requests, by the service that they were for and what became of them.",
                &["route", "service", "result"],
            )?,
            endpoint_ejected: gauges(
                "enforcer_endpoint_ejected",
                "Whether an endpoint is not used for a while because requests failed there: 1 or 0.",
                &["service", "endpoint"],
            )?,
            endpoint_ejections: counters(
                "enforcer_endpoint_ejections_total",
                "How often an endpoint was taken out because requests failed there, by what was seen.",
                &["service", "endpoint", "cause"],
            )?,
            endpoint_healthy: gauges(
                "enforcer_endpoint_healthy",
                "Whether an endpoint's health checks pass: 1 if they do or it has none, else 0.",
                &["service", "endpoint"],
            )?,
            certificate_expiry: gauges(
                "enforcer_certificate_expiry_seconds",
                "When the certificate of a file expires, the first of authorities, in seconds since 1970.",
                &["listener", "service", "certificate"],
            )?,
            crl_next_update: gauges(
                "enforcer_crl_next_update_seconds",
                "When a file's revocation lists should be replaced, in seconds since 1970; 0 if they do not say.",
                &["listener", "file"],
            )?,
            reload_failures: IntCounter::new(
                "enforcer_certificate_reload_failures_total",
                "Changed certificate files that were not taken over; the old ones stay in use.",
            )?,
            connections_revoked: IntCounter::new(
                "enforcer_connections_revoked_total",
                "Connections of clients that were revoked, or whose certificates were, and so ended by a reset.",
            )?,
            connections_given_up: IntCounter::new(
                "enforcer_connections_given_up_total",
                "Idle connections of unverified clients that were ended by a reset because others needed their places.",
            )?,
            attempts_refused: IntCounter::new(
                "enforcer_authentication_attempts_refused_total",
                "Requests whose credentials were not looked at because too many of their source had been refused.",
            )?,
            dpop_refusals: counters(
                "enforcer_dpop_refusals_total",
                "Tokens that were refused because of the proof of their key (RFC 9449), by what was wrong with it.",
                &["reason"],
            )?,
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn prometheus::core::Collector>; 23] {
        [
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.denials.clone()),
            Box::new(self.claims_left_out.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.passed.clone()),
            Box::new(self.handshakes.clone()),
            Box::new(self.upstream_requests.clone()),
            Box::new(self.upstream_overflows.clone()),
            Box::new(self.upstream_retries.clone()),
            Box::new(self.upstream_concurrency.clone()),
            Box::new(self.worker_late.clone()),
            Box::new(self.mirrored.clone()),
            Box::new(self.endpoint_healthy.clone()),
            Box::new(self.endpoint_ejected.clone()),
            Box::new(self.endpoint_ejections.clone()),
            Box::new(self.certificate_expiry.clone()),
            Box::new(self.crl_next_update.clone()),
            Box::new(self.reload_failures.clone()),
            Box::new(self.connections_revoked.clone()),
            Box::new(self.connections_given_up.clone()),
            Box::new(self.attempts_refused.clone()),
            Box::new(self.dpop_refusals.clone()),
        ]
    }

    /// Takes out what was counted for a rule of `route` that led to `service` and is gone.
    pub(super) fn forget_rule(&self, route: &str, service: &str) {
        for verdict in VERDICTS {
            self.passed
                .remove_label_values(&[route, service, label(verdict)])
                .unwrap_or_default();
        }
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

    /// Takes out what was counted for copies of a route's requests that `service` gets no longer.
    pub(super) fn forget_mirror(&self, route: &str, service: &str) {
        for (_, result) in MIRRORED {
            self.mirrored
                .remove_label_values(&[route, service, result])
                .unwrap_or_default();
        }
    }

    /// Takes out the latencies and denials of a route that is gone.
    pub(super) fn forget_route(&self, route: &str) {
        self.request_seconds
            .remove_label_values(&[route])
            .unwrap_or_default();
        for reason in REASONS {
            self.denials
                .remove_label_values(&[route, reason.label()])
                .unwrap_or_default();
        }
    }

    /// Takes out what was counted for an endpoint that is gone.
    pub(super) fn forget_endpoint(&self, service: &str, endpoint: &str) {
        self.endpoint_healthy
            .remove_label_values(&[service, endpoint])
            .unwrap_or_default();
        self.endpoint_ejected
            .remove_label_values(&[service, endpoint])
            .unwrap_or_default();
        for cause in CAUSES {
            self.endpoint_ejections
                .remove_label_values(&[service, endpoint, cause])
                .unwrap_or_default();
        }
        for result in EXCHANGES.map(exchange_label) {
            self.upstream_requests
                .remove_label_values(&[service, endpoint, result])
                .unwrap_or_default();
        }
    }

    /// Takes out what was counted for a listener that is gone.
    pub(super) fn forget_listener(&self, listener: &str) {
        self.connections
            .remove_label_values(&[listener])
            .unwrap_or_default();
        let families = self.handshakes.collect();
        let series = families.iter().flat_map(MetricFamily::get_metric);
        for series in series {
            let value = |name| {
                let mut labels = series.get_label().iter();
                labels.find(|label| label.name() == name).map(LabelPair::value)
            };
            if let (Some(of), Some(result)) = (value("listener"), value("result"))
                && of == listener
            {
                self.handshakes
                    .remove_label_values(&[listener, result])
                    .unwrap_or_default();
            }
        }
    }

    /// Takes out what was counted for a service that is gone.
    pub(super) fn forget_service(&self, service: &str) {
        self.upstream_concurrency
            .remove_label_values(&[service])
            .unwrap_or_default();
        for bound in BOUNDS {
            self.upstream_overflows
                .remove_label_values(&[service, bound.label()])
                .unwrap_or_default();
        }
        for cause in RETRY_CAUSES {
            self.upstream_retries
                .remove_label_values(&[service, cause.label()])
                .unwrap_or_default();
        }
    }

    /// Counts a handshake, unless the listener is gone and what was counted for it is forgotten.
    pub(super) fn handshake(&self, listener: &ListenerContext, result: Handshake) {
        if !listener.is_retired() {
            self.handshakes
                .with_label_values(&[listener.name.as_str(), result.label()])
                .inc();
        }
    }
}

impl Handshake {
    /// Its name in metrics and logs.
    #[must_use]
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Passed => "passed",
            Self::Certificate => "certificate",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::SourceShare => "source_share",
            Self::SourceBudget => "source_budget",
            Self::ProxyHeader => "proxy_header",
            Self::Denied => "denied",
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
        Verdict::Saturated => "saturated",
        Verdict::Shed => "shed",
    }
}
