//! One request: route → authenticate → authorize → limit → balance → upstream → observe.

mod admission;
mod connecting;
mod unanswered;

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    audited::Entry,
    body::{Failure, Progress, RequestBody, ResponseBody, UpstreamBody},
    changes, clock,
    connection::{Connection, UnderWay},
    forwarding, framing, grpc, headers,
    hold::Held,
    identity::{authorize::Denial, bearer::Scheme, dpop::DPOP, reason::Reason, token::VerifiedToken},
    limit::{self, Meter},
    metrics, mirror,
    refusal::Refusal,
    revocation::Proofs,
    signal::{Outcome, Verdict},
    tunnel::Tunnel,
    upgrade::{self, Told},
    upstream::send::Sender,
    worker::WorkerPolicy,
};
use enforcer_http_rules::{hop_by_hop, host::Host, known_fields::Present, methods, target};
use enforcer_model::{ApiKey, Destination, Mode, Requirement};
use enforcer_routing::router::{Asked, RuleIndex};

/// Stands for the status of a request whose client went away, as others use it.
const CLIENT_CLOSED: u16 = 499;

/// What is answered.
pub(super) type Answer = Response<ResponseBody<UnderWay>>;

/// A request on its way through the stages.
pub(super) struct Passage<'a> {
    pub(super) connection: &'a Rc<Connection>,
    pub(super) policy: &'a Rc<WorkerPolicy>,
    began: Instant,
    /// How far the request has gone to the service, once it is forwarded.
    forwarded: Option<Rc<Progress>>,
    /// The rule that decides, and which of its targets it leads to.
    pub(super) rule: Option<(RuleIndex, usize)>,
    /// Verified, and enough for the rule.
    token: Option<Arc<VerifiedToken>>,
    /// The same.
    key: Option<&'a Arc<ApiKey>>,
    /// By which scheme tokens are sent, or asked for.
    scheme: Scheme,
    /// What was decided, also where a rule in shadow mode lets the request through nevertheless.
    pub(super) verdict: Verdict,
    /// Takes the response's bytes from the limits that count them.
    meter: Option<Meter>,
    /// What the rule has not found, if that was it.
    pub(super) denied: Option<Reason>,
    /// For the audit log, if there is one.
    entry: Option<Box<Entry>>,
    /// Fields that the response gets, whatever it is; beside them,
    fields: HeaderMap,
    /// what it says of the rule's limits, if these have been asked.
    standing: Option<limit::headers::Told<'a>>,
    observed: bool,
    /// What the request rests on, until its answer has taken that over.
    held: Option<Held>,
}

/// Answers a request, whatever it is. Its head is on the heap: each step that it is handed through has a place for it.
pub(super) fn answer(connection: Rc<Connection>, request: Request<Incoming>) -> impl Future<Output = Answer> {
    let (parts, body) = request.into_parts();
    answered(connection, Box::new(parts), body)
}

async fn answered(connection: Rc<Connection>, parts: Box<Parts>, body: Incoming) -> Answer {
    let mut under_way = UnderWay::new(&connection);
    let policy = connection.worker.policy();
    let mut passage = Passage {
        connection: &connection,
        policy: &policy,
        began: clock::now(),
        forwarded: None,
        rule: None,
        token: None,
        key: None,
        scheme: Scheme::default(),
        verdict: Verdict::Allowed,
        meter: None,
        denied: None,
        entry: connection.worker.observer.audit().map(|_| Entry::of(&parts)),
        fields: HeaderMap::new(),
        standing: None,
        observed: false,
        held: None,
    };
    let is_call = grpc::is_call(&parts.method, &parts.headers);
    let is_connect = parts.method == Method::CONNECT;
    let mut refused = None;
    let passed = passage.pass(parts, body).await;
    under_way.rests_on(passage.held.take());
    let mut response = match passed {
        Ok(response) => response.map(|body| match body {
            Some(body) => ResponseBody::upstream(body, under_way),
            None => ResponseBody::own(Bytes::new(), under_way),
        }),
        Err(refusal) => {
            passage.verdict = refusal.verdict;
            passage.denied = refusal.denied;
            passage.note(&refusal, false);
            refused = Some(refusal.status());
            if is_call {
                refusal.into_call_response(under_way)
            } else {
                refusal.into_response(under_way)
            }
        }
    };
    if !passage.fields.is_empty() {
        response.headers_mut().extend(std::mem::take(&mut passage.fields));
    }
    if let Some(standing) = &passage.standing {
        standing.write(response.headers_mut());
    }
    // Behind a CONNECT there may be bytes already that were meant for the service.
    let ends = (connection.ends_soon() || is_connect) && !connection.http2;
    let ends = ends && !connection.is_switched();
    if ends {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // A refused call has another status for the client.
    passage.observe(refused.unwrap_or(response.status()).as_u16());
    response
}

impl<'a> Passage<'a> {
    /// The service's response; without a body if the connection is switched to another protocol, or the client is
    /// to ask elsewhere.
    async fn pass(
        &mut self,
        mut parts: Box<Parts>,
        body: Incoming,
    ) -> Result<Response<Option<UpstreamBody>>, Refusal> {
        let present = Present::in_request(&parts.headers);
        framing::check(&parts, present, self.connection.activity.is_in_doubt())?;
        framing::one_length(&mut parts.headers)?;
        let asked = upgrade::asked(&mut parts, present)?;
        self.check_method(&parts.method)?;
        let host = Host::of(&parts.uri, &parts.headers).map_err(Refusal::invalid)?;
        hop_by_hop::strip_named(&mut parts.headers, present);
        parts.uri = match parts.method {
            Method::CONNECT => connecting::target(&parts.uri)?,
            _ => target::origin_form(std::mem::take(&mut parts.uri)).map_err(Refusal::invalid)?,
        };
        let policy = self.policy;
        let paths = policy.generation.router.paths(host.name());
        let paths = paths.ok_or_else(Refusal::no_route)?;
        paths.mentioned.remove_aliases(&mut parts.headers);
        let looked_at = Asked {
            host: host.name(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            method: &parts.method,
            fields: &parts.headers,
            listener: &self.connection.listener.name,
        };
        let index = paths
            .find(&looked_at, &policy.patterns)
            .map_err(|error| Refusal::new(Verdict::Invalid, error.status(), error.to_string()))?
            .ok_or_else(Refusal::no_route)?;
        let target = policy.generation.choose(index);
        self.rule = Some((index, target));
        let (route, rule) = policy.generation.rule(index);
        if self.connection.has_lapsed() {
            return Err(Refusal::denied(&Denial::CertificateExpired, route.name.as_str()));
        }
        if self.connection.worker.pressure.sheds(rule.routing.priority) {
            let detail = "the gateway has more to do than it gets done; try again soon";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Refusal::new(Verdict::Shed, status, detail).retry_after(1));
        }
        if let Err(refusal) = self.admit((index, target), &parts, &host).await {
            if rule.mode(route) == Mode::Enforce {
                return Err(refusal);
            }
            self.verdict = refusal.verdict;
            self.denied = refusal.denied;
            self.note(&refusal, true);
        }
        if body.size_hint().lower() > rule.max_body {
            return Err(Refusal::too_large(rule.max_body));
        }
        if let Destination::Redirect(redirect) = &rule.destination {
            let tls = self.connection.is_tls();
            let mut response = changes::redirect(redirect, policy.pattern(index), &parts.uri, &host, tls)?;
            changes::apply(&rule.routing.response_fields, response.headers_mut());
            return Ok(response);
        }
        let asked = match asked {
            Some(asked) => asked.granted(rule, !body.is_end_stream())?,
            None => None,
        };
        let asked = match asked {
            Some(asked) if !asked.is_of_http() => {
                return Box::pin(self.connect((index, target), asked)).await;
            }
            asked => asked,
        };
        if let Requirement::Proof {
            api_key: Some(wanted),
            ..
        } = &rule.require
        {
            // It is a secret between the client and the gateway.
            parts.headers.remove(&wanted.header);
        }
        self.prepare(index, &mut parts, present, host)?;
        if present.has(Present::DPOP) && matches!(rule.require, Requirement::Proof { token: Some(_), .. }) {
            // The proof was for the gateway, and counts once.
            parts.headers.remove(DPOP);
        }
        let told = asked.map(|asked| asked.tell(&mut parts.headers)).transpose()?;
        changes::rewrite(&rule.routing.rewrite, policy.pattern(index), &mut parts)?;
        changes::apply_to_request(&rule.routing.request_fields, &mut parts.headers);
        self.forward((index, target), parts, body, told).await
    }

    /// Refuses methods that are not served.
    fn check_method(&self, method: &Method) -> Result<(), Refusal> {
        let (status, detail) = if *method == Method::TRACE {
            (StatusCode::METHOD_NOT_ALLOWED, "TRACE is not served".to_owned())
        } else if let Some(meant) = methods::meant(method, self.policy.generation.router.methods()) {
            (
                StatusCode::NOT_IMPLEMENTED,
                format!("methods are case-sensitive: write {meant}"),
            )
        } else {
            return Ok(());
        };
        Err(Refusal::new(Verdict::Invalid, status, detail))
    }

    /// Whether the connection's certificate is revoked. In shadow mode its requests are forwarded nevertheless, whatever
    /// was found first, and say nothing any more.
    fn is_revoked(&self) -> bool {
        let certificate = Proofs {
            certificate: self.connection.certificate.as_ref(),
            ..Proofs::default()
        };
        self.denied == Some(Reason::Revoked)
            || self.verdict != Verdict::Allowed && self.connection.worker.revoked(&certificate).is_some()
    }

    /// Keeps for the audit log why the request is refused, or would be but for shadow.
    fn note(&mut self, refusal: &Refusal, shadow: bool) {
        if let Some(entry) = &mut self.entry {
            entry.detail = Some(refusal.detail().to_owned());
            entry.shadow = shadow;
        }
    }

    /// Makes the request's head, which has the fields that are `present`, what the upstream gets.
    fn prepare(
        &self,
        index: RuleIndex,
        parts: &mut Parts,
        present: Present,
        host: Host,
    ) -> Result<(), Refusal> {
        let connection = self.connection;
        let told = connection.told();
        let is_revoked = self.is_revoked();
        let client = headers::Client {
            address: &told.address,
            tls: connection.is_tls(),
            identity: told.identity.as_ref().filter(|_| !is_revoked),
            authority: told.authority.as_ref().filter(|_| !is_revoked),
            proven: self.held.as_ref().map(Held::proven),
        };
        headers::prepare_request(&mut parts.headers, present, host, &client).map_err(Refusal::invalid)?;
        let forward = &self.policy.generation.rule(index).1.access.forward;
        let left_out = forwarding::apply(&mut parts.headers, forward, self.token.as_deref());
        if left_out > 0 {
            connection.worker.metrics.claims_left_out.inc_by(left_out);
        }
        if present.has(Present::COOKIE) {
            headers::join_cookies(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        // What hyper keeps there belongs to the client's connection.
        parts.extensions.clear();
        Ok(())
    }

    async fn forward(
        &mut self,
        (index, target): (RuleIndex, usize),
        mut parts: Box<Parts>,
        body: Incoming,
        told: Option<Told>,
    ) -> Result<Response<Option<UpstreamBody>>, Refusal> {
        let (_, rule) = self.policy.generation.rule(index);
        let upstream = self.policy.upstream(target).ok_or_else(|| {
            Refusal::new(
                Verdict::Upstream,
                StatusCode::SERVICE_UNAVAILABLE,
                "the service is not configured",
            )
        })?;
        let ended = body.is_end_stream();
        if !ended && body.size_hint().exact().is_none() {
            // Otherwise hyper takes it that GET and some others have no body, and drops it.
            parts
                .headers
                .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let asked = grpc::is_call(&parts.method, &parts.headers)
            .then(|| grpc::deadline(&parts.headers))
            .flatten();
        let impatient = asked.filter(|asked| *asked < rule.timeout);
        let token = self.token.as_deref();
        let sender = Sender {
            address: self.connection.client.ip(),
            switches: told.is_some(),
            subject: token.map(|token| (token.issuer.as_str(), &*token.subject)),
            room: self.policy.generation.room(target),
        };
        let copied = mirror::copy(
            self.policy,
            index,
            &parts,
            &body,
            sender,
            &self.connection.worker.mirrors,
        );
        let body = RequestBody::new(body, ended, rule.max_body).copied_to(copied);
        let body = if self.policy.generation.router.mentioned(index.route).is_empty() {
            body
        } else {
            body.under(self.policy, index)
        };
        let request = Box::new(Request::from_parts(*parts, body));
        let progress = request.body().progress();
        self.forwarded = Some(Rc::clone(&progress));
        let sending = upstream.send(request, sender);
        let deadlines = &self.connection.worker.deadlines;
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            refusal = unanswered::overdue(deadlines, &progress, rule.timeout, impatient) => return Err(refusal),
        };
        let (mut response, lease) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                return Err(match progress.failure.get() {
                    Some(Failure::TooLarge) => Refusal::too_large(rule.max_body),
                    Some(Failure::Client) => Refusal::new(
                        Verdict::Invalid,
                        StatusCode::BAD_REQUEST,
                        "the request's body broke off",
                    ),
                    None => unanswered::refusal(&error),
                });
            }
        };
        let switched = match told {
            Some(told) => told.is_switched(&response)?.then_some(told),
            None => None,
        };
        let idle = rule
            .routing
            .idle
            .unwrap_or(self.connection.listener.timeouts.idle);
        let service = switched.is_some().then(|| hyper::upgrade::on(&mut response));
        let (mut parts, body) = response.into_parts();
        headers::prepare_response(&mut parts.headers);
        changes::apply(&rule.routing.response_fields, &mut parts.headers);
        parts.version = Version::default();
        parts.extensions.clear();
        if let (Some(switched), Some(service)) = (switched, service) {
            switched.switch(
                &mut parts,
                Tunnel::new(service, lease, idle, self.held.clone()),
                self.connection,
            );
            return Ok(Response::from_parts(parts, None));
        }
        let activity = Rc::clone(&self.connection.activity);
        let body = UpstreamBody::new(body, lease, idle, activity).metered(self.meter.take());
        Ok(Response::from_parts(parts, Some(body)))
    }

    fn observe(&mut self, status: u16) {
        self.observed = true;
        let worker = &self.connection.worker;
        // Neither the client's upload nor its place in a queue says anything about the service.
        let latency = self
            .forwarded
            .as_ref()
            .and_then(|progress| progress.with_service_since())
            .map(|since| clock::now().saturating_duration_since(since));
        let cells = match self.rule {
            Some((index, target)) => self.policy.cells(index, target, &worker.metrics),
            None => &self.policy.no_route,
        };
        worker
            .counted
            .request(cells, (self.verdict, self.denied), status, latency);
        let generation = &self.policy.generation;
        let outcome = Outcome {
            source: self.connection.client.ip(),
            port: self.connection.flow.local.port(),
            route: self.rule.map(|(index, _)| &generation.rule(index).0.name),
            service: self
                .rule
                .and_then(|(index, target)| generation.service_name(index, target)),
            status,
            verdict: self.verdict,
            latency,
            has_body: self
                .forwarded
                .as_ref()
                .is_some_and(|progress| progress.begun.get()),
        };
        worker.observer.finished(outcome);
        if let (Some(audit), Some(entry)) = (worker.observer.audit(), &self.entry) {
            self.audit(audit, entry, status);
        }
        tracing::debug!(
            peer = %self.connection.client,
            route = outcome.route.map(tracing::field::display),
            status = outcome.status,
            verdict = metrics::label(outcome.verdict),
            ?latency,
            whole = ?clock::now().saturating_duration_since(self.began),
            "request"
        );
    }
}

impl Drop for Passage<'_> {
    /// The client went away before it got an answer.
    fn drop(&mut self) {
        if !self.observed {
            self.verdict = Verdict::Invalid;
            self.observe(CLIENT_CLOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large what `of` makes is, without making it.
    fn size<A, B, F: Future>(_of: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_that_waits_for_nothing_rare_takes_little_memory() {
        let size = size(answer);
        assert!(size <= 3072, "{size}");
    }
}
