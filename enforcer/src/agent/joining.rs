//! What the gateway learns, told to the kernel: who is behind a connection, and who keeps failing to
//! prove it.

use std::{net::IpAddr, sync::Arc};

use super::{
    denying::{Failing, enforces_everywhere},
    state::Shared,
};
use enforcer_dataplane::{DeniedBy, Full};
use enforcer_gateway::signal::{Observer, Outcome, Verdict};
use enforcer_model::flow::{Class, Flow, Identity};
use enforcer_supervision::{Part, Reader};
use enforcer_sys::clock::monotonic_ns;
use enforcer_telemetry::audit::Audit;

/// Listens to the gateway on behalf of the kernel and the controller.
pub struct Joining {
    shared: Arc<Shared>,
    failing: Arc<Failing>,
}

impl Joining {
    /// `failing`: denies who keeps failing.
    #[must_use]
    pub fn new(shared: Arc<Shared>, failing: Arc<Failing>) -> Self {
        Self { shared, failing }
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
        self.failing.failed(source);
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
        let (_, denial) = kernel.denials.find(client)?;
        // Where policies only watch, what the agent has decided by itself drops nothing.
        let holds = denial.by == DeniedBy::Operator || enforces_everywhere(&self.shared.standing().kernel);
        holds.then_some(denial.reason)
    }

    fn audit(&self) -> Option<&Audit> {
        self.shared.audit()
    }

    fn part(&self, name: &str) -> Part {
        self.shared.parts.part(name)
    }

    fn reader(&self, what: &'static str) -> Reader {
        let reader = Reader::new(what);
        self.shared.parts.watch_reader(&reader);
        reader
    }

    fn authentication_failed_behind(&self, proxy: IpAddr) {
        self.shared.metrics.authentication_failures.inc();
        tracing::debug!(%proxy, "a client behind it has failed to prove who it is");
    }

    fn finished(&self, outcome: Outcome<'_>) {
        if matches!(outcome.verdict, Verdict::Allowed | Verdict::Upstream)
            && outcome.service.is_some()
            && let Some(latency) = outcome.latency
            && !outcome.has_body
        {
            self.shared.services.record(outcome.port, latency);
        }
    }
}
