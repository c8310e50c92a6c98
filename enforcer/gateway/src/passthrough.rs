//! Connections whose TLS a service ends: by the name that the client asks for, and unread beside that.
//!
//! What the listener asks of clients, their certificates included, is not asked of these: whom they reach is for the
//! service to ask. So a rule must say that it admits `anonymous` sources, and may name which.

use std::{error::Error, net::SocketAddr, rc::Rc};

use tokio::{io::Interest, net::TcpStream};

use super::{
    hello::Passing,
    identity::{
        authorize::{admit_source, authorize},
        reason::Reason,
    },
    limit::{KeyParts, Outcome},
    metrics::label,
    proxy_protocol,
    signal::Verdict,
    tunnel::join,
    upstream::{UpstreamError, line::Line, send::Sender},
    worker::{Place, Worker, WorkerPolicy, reset},
};
use enforcer_model::{Mode, Name};
use enforcer_routing::router::RuleIndex;
use enforcer_telemetry::audit::record::PassthroughRecord;

/// Why a connection goes no further.
struct Refused {
    verdict: Verdict,
    reason: Option<Reason>,
}

/// Counts as a request under way, which draining waits for.
struct UnderWay<'a>(&'a Worker);

impl<'a> UnderWay<'a> {
    fn begin(worker: &'a Worker) -> Self {
        worker.request_begins();
        Self(worker)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// Hands the connection of `client` on to its service until it ends. One that is refused is reset.
pub(super) async fn pass(place: &Place, client: SocketAddr, policy: Rc<WorkerPolicy>, passing: Passing) {
    let Place { worker, listener, .. } = place;
    let _under_way = UnderWay::begin(worker);
    let index = passing.rule;
    let target = policy.generation.choose(index);
    let (route, rule) = policy.generation.rule(index);
    let idle = rule.routing.idle.unwrap_or(listener.timeouts.idle);
    let introduces = route.passthrough.is_some_and(|law| law.proxy_protocol);
    let admitted = admit(worker, &policy, (index, target), client).await;
    let shadow = admitted.is_err() && rule.mode(route) == Mode::Shadow;
    let (line, refused) = match admitted {
        Err(refused) if !shadow => (None, Some(refused)),
        admitted => match dial(&policy, target, client, passing.socket.tcp()).await {
            Ok(line) => (Some(line), admitted.err()),
            Err(verdict) => {
                let reason = None;
                (None, Some(Refused { verdict, reason }))
            }
        },
    };
    let verdict = refused
        .as_ref()
        .map_or(Verdict::Allowed, |refused| refused.verdict);
    let service = policy
        .generation
        .service_name(index, target)
        .map_or("", Name::as_str);
    let labels = [route.name.as_str(), service, label(verdict)];
    worker.metrics.passed.with_label_values(&labels).inc();
    if let Some(audit) = worker.observer.audit()
        && (verdict != Verdict::Allowed || audit.samples())
    {
        let record = PassthroughRecord {
            verdict: label(verdict),
            reason: refused.and_then(|refused| refused.reason).map(Reason::label),
            shadow,
            source: client.ip(),
            source_port: client.port(),
            listener: listener.name.as_str(),
            route: route.name.as_str(),
            service,
            name: &passing.name,
        };
        audit.request(|| record.line());
    }
    // Policies may change while it lasts.
    drop(policy);
    let Some(line) = line else {
        return reset(passing.socket.tcp());
    };
    let mut ahead = Vec::new();
    if introduces {
        let local = passing.socket.tcp().local_addr();
        match local.and_then(|local| proxy_protocol::header(client, super::connection::unmapped(local))) {
            Ok(header) => ahead = header,
            Err(_) => return reset(passing.socket.tcp()),
        }
    }
    ahead.extend_from_slice(&passing.beginning);
    join(passing.socket, ahead.into(), line, idle).await;
}

/// Whether the rule admits the connection. It may have to wait for its turn.
async fn admit(
    worker: &Worker,
    policy: &WorkerPolicy,
    (index, target): (RuleIndex, usize),
    client: SocketAddr,
) -> Result<(), Refused> {
    let generation = &policy.generation;
    let (route, rule) = generation.rule(index);
    let source = admit_source(&rule.access, client.ip());
    source
        .and_then(|()| authorize(&rule.require, None, None))
        .map_err(|denial| Refused {
            verdict: Verdict::Forbidden,
            reason: Some(denial.reason()),
        })?;
    let limits = generation.limits(target);
    let keys = KeyParts::new(client.ip(), None, None);
    let outcome = match rule.mode(route) {
        Mode::Enforce => worker.waiting.admit(limits, &keys, || generation.now_ns()).await,
        Mode::Shadow => limits.check(&keys, generation.now_ns()),
    };
    match outcome {
        Outcome::Admitted { .. } => Ok(()),
        Outcome::Refused(_) => Err(Refused {
            verdict: Verdict::Limited,
            reason: None,
        }),
    }
}

/// A connection to the service, as long as the client waits for it on `socket`.
async fn dial(
    policy: &WorkerPolicy,
    target: usize,
    client: SocketAddr,
    socket: &TcpStream,
) -> Result<Line, Verdict> {
    let upstream = policy.upstream(target).ok_or(Verdict::Upstream)?;
    let sender = Sender {
        address: client.ip(),
        switches: false,
        subject: None,
        room: policy.generation.room(target),
    };
    let patience = Some(upstream.service.connect_timeout);
    let line = tokio::select! {
        biased;
        line = upstream.line(sender, patience) => line,
        () = left(socket) => return Err(Verdict::Invalid),
    };
    line.map_err(|error| {
        tracing::debug!(error = &error as &dyn Error, "no connection to a service");
        match error {
            UpstreamError::Saturated(_) => Verdict::Saturated,
            _ => Verdict::Upstream,
        }
    })
}

/// Waits until the client has ended or broken its connection. Nothing is read.
async fn left(socket: &TcpStream) {
    if let Ok(1..) = socket.peek(&mut [0]).await {
        // The end is behind what the client has sent; that it broke shows all the same.
        drop(socket.ready(Interest::ERROR).await);
    }
}
