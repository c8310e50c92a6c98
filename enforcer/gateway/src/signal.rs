//! What the gateway tells the rest of the agent, as it happens, from the worker that it happens on.

use enforcer_model::flow::{Class, Flow, Identity};
use std::{net::IpAddr, sync::Arc, time::Duration};

use enforcer_model::Name;
use enforcer_supervision::{Part, Reader};
use enforcer_telemetry::audit::Audit;

/// Why a request was not let through, or that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allowed,
    NoRoute,
    /// No proof was given, or it did not hold: 401, or a TLS handshake that failed on the certificate.
    Unauthenticated,
    /// The proof holds and does not suffice: 403.
    Forbidden,
    /// 429.
    Limited,
    /// Malformed, too large, too slow.
    Invalid,
    /// No endpoint, or it failed or timed out: 502, 503, 504.
    Upstream,
    /// The service has as many requests or connections as it may: 503.
    Saturated,
    /// The worker has more to do than it gets done, and others come first: 503.
    Shed,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub source: IpAddr,
    /// That it came to.
    pub port: u16,
    pub route: Option<&'a Name>,
    pub service: Option<&'a Name>,
    pub status: u16,
    pub verdict: Verdict,
    /// From when the service had the whole request to the response's head, so that it says how fast
    /// the service is, whatever the client does. `None` if the request did not get so far.
    pub latency: Option<Duration>,
    /// The client has sent a body, whose size it determines and with it what the service has to do.
    pub has_body: bool,
}

/// Listens to the gateway. Calls come from every worker and must not block.
pub trait Observer: Send + Sync + 'static {
    /// The peer has proved who it is. Called once per connection, at the first proof. What the kernel takes it for now.
    fn verified(&self, flow: Flow, identity: &Identity) -> Class;
    /// The connection is gone; only for those that were [`Self::verified`].
    fn closed(&self, flow: Flow);
    /// A credential was forged or guessed: a bad signature, a certificate of nobody, an unknown key. Not for one that is
    /// missing, has expired, or does not suffice.
    fn authentication_failed(&self, source: IpAddr);
    /// The same, of a client that the load balancer at `proxy` has named: no packets come from it.
    fn authentication_failed_behind(&self, proxy: IpAddr);
    /// A request is finished.
    fn finished(&self, outcome: Outcome<'_>);
    /// Why `client` may not connect, in words, if it may not. Asked about clients that load balancers name, whose
    /// packets the kernel does not see; once for each of their connections.
    fn denied(&self, client: IpAddr) -> Option<Arc<str>>;
    /// Where what becomes of requests is recorded, if anywhere.
    fn audit(&self) -> Option<&Audit> {
        None
    }
    /// What a part of the gateway says by that it makes progress. Unless somebody wants to know, nobody does.
    fn part(&self, _name: &str) -> Part {
        Part::unwatched()
    }
    /// What a thread that reads files says by that it does.
    fn reader(&self, what: &'static str) -> Reader {
        Reader::new(what)
    }
}
