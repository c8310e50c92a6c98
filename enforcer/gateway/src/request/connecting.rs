//! CONNECT (RFC 9110 section 9.3.6): bytes for a service, which the gateway does not look at.

use http::{Response, StatusCode, Uri};

use super::{Passage, unanswered};
use crate::{
    body::UpstreamBody, refusal::Refusal, signal::Verdict, tunnel::Tunnel, upgrade::Asked,
    upstream::send::Sender,
};
use enforcer_routing::router::RuleIndex;

/// What a request by CONNECT is matched as: it has a host and a port, and no path.
///
/// # Errors
/// When its target is no authority with a port (RFC 9112 section 3.2.3, RFC 9113 section 8.5).
pub(super) fn target(uri: &Uri) -> Result<Uri, Refusal> {
    let has_port = uri
        .authority()
        .is_some_and(|authority| authority.port_u16().is_some());
    if !has_port || uri.path_and_query().is_some_and(|path| path.as_str() != "/") || uri.scheme().is_some() {
        return Err(Refusal::invalid("the target of CONNECT is a host and a port").closing());
    }
    Ok(Uri::from_static("/"))
}

impl Passage<'_> {
    /// Connects to the rule's service; the client's bytes go there once it has the answer.
    ///
    /// # Errors
    /// That the service cannot be reached in time.
    pub(super) async fn connect(
        &mut self,
        (index, target): (RuleIndex, usize),
        asked: Asked,
    ) -> Result<Response<Option<UpstreamBody>>, Refusal> {
        let (_, rule) = self.policy.generation.rule(index);
        let missing = || {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Refusal::new(Verdict::Upstream, status, "the service is not configured")
        };
        let upstream = self.policy.upstream(target).ok_or_else(missing)?;
        let sender = Sender {
            address: self.connection.client.ip(),
            switches: false,
            subject: None,
            room: self.policy.generation.room(target),
        };
        let line = match tokio::time::timeout(rule.timeout, upstream.line(sender, None)).await {
            Ok(line) => line.map_err(|error| unanswered::refusal(&error))?,
            Err(_) => {
                let (status, detail) = (StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time");
                return Err(Refusal::new(Verdict::Upstream, status, detail));
            }
        };
        let idle = rule
            .routing
            .idle
            .unwrap_or(self.connection.listener.timeouts.idle);
        let tunnel = Tunnel::open(line, idle, self.held.clone());
        let head = asked.connected(tunnel, self.connection);
        Ok(Response::from_parts(head, None))
    }
}
