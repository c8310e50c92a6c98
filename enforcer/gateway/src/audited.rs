//! What the audit log says of a request, kept while the request is under way. Only where there is an audit log.

use std::sync::Arc;

use http::{HeaderValue, Method, Uri, header::HOST, request::Parts};

use super::{
    identity::{reason::Reason, token::VerifiedToken},
    metrics::{self, Handshake},
    proxy_protocol::Whose,
    request::Passage,
    signal::Verdict,
    worker::Place,
};
use enforcer_model::{ApiKey, Name};
use enforcer_telemetry::audit::{
    Audit,
    record::{self, ConnectionRecord, RequestRecord},
    trace_id,
};

/// What was entry. Clones share the head's bytes.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    /// Verified, whether it was enough or not.
    pub(super) token: Option<Arc<VerifiedToken>>,
    pub(super) key: Option<Arc<ApiKey>>,
    /// The sentence of the refusal.
    pub(super) detail: Option<String>,
    /// The refusal was only counted.
    pub(super) shadow: bool,
}

impl Entry {
    pub(super) fn of(request: &Parts) -> Box<Self> {
        let field = |name: &str| request.headers.get(name).cloned();
        Box::new(Self {
            method: request.method.clone(),
            uri: request.uri.clone(),
            host: request.headers.get(HOST).cloned(),
            trace: field("traceparent"),
            request_id: field("x-request-id"),
            token: None,
            key: None,
            detail: None,
            shadow: false,
        })
    }
}

/// A connection that was not made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unmade<'a> {
    pub(super) result: Handshake,
    pub(super) reason: &'a str,
    pub(super) detail: &'a str,
}

impl Unmade<'_> {
    /// Records it, if there is an audit log.
    pub(super) fn audit(self, place: &Place, whose: Whose) {
        let Some(audit) = place.worker.observer.audit() else {
            return;
        };
        let client = whose.address();
        audit.connection(|| {
            let record = ConnectionRecord {
                result: self.result.label(),
                reason: self.reason,
                detail: record::text(self.detail.as_bytes()),
                source: client.ip(),
                source_port: client.port(),
                proxy: whose.proxy(),
                listener: place.listener.name.as_str(),
            };
            record.line()
        });
    }
}

impl Passage<'_> {
    /// Records the request, if it was refused or is a sample of those that were not.
    pub(super) fn audit(&self, audit: &Audit, entry: &Entry, status: u16) {
        if self.verdict == Verdict::Allowed && !audit.samples() {
            return;
        }
        audit.request(|| {
            let connection = self.connection;
            let matched = self.rule.map(|(index, target)| {
                let generation = &self.policy.generation;
                let route = generation.rule(index).0;
                (
                    route.name.as_str(),
                    index.rule,
                    generation.service_name(index, target),
                )
            });
            let token = entry.token.as_deref();
            let authority = entry
                .uri
                .authority()
                .map(|authority| authority.as_str().as_bytes());
            let host = authority.or(entry.host.as_ref().map(HeaderValue::as_bytes));
            let peer = connection.client;
            let record = RequestRecord {
                verdict: metrics::label(self.verdict),
                reason: self.denied.map(Reason::label),
                detail: entry.detail.as_deref(),
                shadow: entry.shadow,
                status,
                source: peer.ip(),
                source_port: peer.port(),
                listener: connection.listener.name.as_str(),
                route: matched.map(|(route, ..)| route),
                rule: matched.map(|(_, rule, _)| rule),
                service: matched.and_then(|(.., service)| service).map(Name::as_str),
                method: entry.method.as_str(),
                host: host.map(record::text),
                path: record::path(entry.uri.path()),
                certificate: connection
                    .certificate
                    .as_ref()
                    .map(|certificate| &*certificate.identity),
                class: connection.class.get().label(),
                issuer: token.map(|token| token.issuer.as_str()),
                subject: token.map(|token| &*token.subject),
                client: token.and_then(|token| token.client_id.as_deref()),
                api_key: entry.key.as_ref().map(|key| &*key.id),
                owner: entry.key.as_ref().map(|key| &*key.owner),
                trace: entry.trace.as_ref().and_then(|value| trace_id(value.as_bytes())),
                request_id: entry
                    .request_id
                    .as_ref()
                    .map(|value| record::text(value.as_bytes())),
            };
            record.line()
        });
    }
}
