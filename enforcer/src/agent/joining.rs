//! What the gateway learns, told to the kernel: who is behind a connection, and who keeps failing to
//! prove it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::state::Shared;
use crate::{
    adapt::failures::Failures,
    audit::Audit,
    gateway::signal::{Class, Flow, Identity, Observer, Outcome, Verdict},
    kernel::{DeniedBy, Full, client_prefix, monotonic_ns},
    policy::model::Action,
};

/// Listens to the gateway on behalf of the kernel and the controller.
pub struct Joining {
    shared: Arc<Shared>,
    failures: Option<(Failures, Duration)>,
}

impl Joining {
    /// `failures`: how often a source may fail, and for how long it is denied if it does so more often.
    #[must_use]
    pub fn new(shared: Arc<Shared>, failures: Option<(Failures, Duration)>) -> Self {
        Self { shared, failures }
    }
}

impl Joining {
    /// The peer's address has a verified connection, or has just had one.
    fn saw(&self, flow: Flow) {
        let Some(kernel) = &self.shared.kernel else { return };
        if let Err(error) = kernel.recents.saw(flow.peer.ip(), monotonic_ns()) {
            tracing::debug!(peer = %flow.peer, %error, "not remembered as verified");
        }
    }
}

impl Observer for Joining {
    fn verified(&self, flow: Flow, identity: &Identity) -> Class {
        let Some(kernel) = &self.shared.kernel else {
            return Class::Unverified;
        };
        let metrics = &self.shared.metrics;
        self.saw(flow);
        match kernel.flows.enter(flow, identity) {
            Ok(None) => {
                metrics.flows_entered.inc();
                return Class::Verified;
            }
            // Limited as a stranger's, which is safe; the operator sees it in the metric.
            Ok(Some(Full::Flows)) => metrics.flows_refused.with_label_values(&["flows"]).inc(),
            Ok(Some(Full::Identities)) => metrics.flows_refused.with_label_values(&["identities"]).inc(),
            Err(error) => {
                metrics.flows_refused.with_label_values(&["kernel"]).inc();
                tracing::debug!(peer = %flow.peer, %error, "connection not entered");
            }
        }
        Class::Unverified
    }

    fn closed(&self, flow: Flow) {
        let Some(kernel) = &self.shared.kernel else { return };
        self.saw(flow);
        if let Err(error) = kernel.flows.leave(&flow) {
            tracing::debug!(peer = %flow.peer, %error, "connection not taken out");
        }
    }

    fn authentication_failed(&self, source: IpAddr) {
        self.shared.metrics.authentication_failures.inc();
        let Some((failures, lasts)) = &self.failures else {
            return;
        };
        if source.to_canonical().is_loopback() || !failures.record(source, monotonic_ns()) {
            return;
        }
        let prefix = client_prefix(source);
        let spared = |why| self.shared.metrics.denials_spared.with_label_values(&[why]).inc();
        // Somebody behind the same address has proved who they are: they must not suffer for a neighbour.
        if self.shared.is_client_verified(&prefix) {
            return spared("verified-client");
        }
        match self.shared.deny(
            prefix,
            DeniedBy::Authentication,
            "authentication keeps failing",
            *lasts,
            Action::Drop,
        ) {
            Ok(None) => {
                self.shared.metrics.denials.inc();
                // What the source has open already ends too; this worker does not wait for that.
                tokio::spawn(Arc::clone(&self.shared).end_denied(prefix));
            }
            Ok(Some(_)) => spared("management"),
            Err(error) => {
                spared("kernel");
                tracing::debug!(%source, %error, "not denied");
            }
        }
    }

    fn denied(&self, client: IpAddr) -> Option<Arc<str>> {
        let kernel = self.shared.kernel.as_ref()?;
        // Inside a denied prefix management passes, as in the kernel.
        if self
            .shared
            .management
            .iter()
            .any(|listed| listed.contains(&client))
        {
            return None;
        }
        kernel.denials.find(client).map(|(_, denial)| denial.reason)
    }

    fn audit(&self) -> Option<&Audit> {
        self.shared.audit()
    }

    fn authentication_failed_behind(&self, proxy: IpAddr) {
        self.shared.metrics.authentication_failures.inc();
        tracing::debug!(%proxy, "a client behind it has failed to prove who it is");
    }

    fn finished(&self, outcome: Outcome<'_>) {
        let (Some(service), Some(latency)) = (outcome.service, outcome.latency) else {
            return;
        };
        if matches!(outcome.verdict, Verdict::Allowed | Verdict::Upstream) {
            self.shared
                .services
                .record(service, latency, outcome.status >= 500);
        }
    }
}
