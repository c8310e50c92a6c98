//! Services: where requests go, how an endpoint is chosen, and what is done when one fails.

use std::{
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::routing::Protocol;
use crate::{Name, Origin, SpiffePattern};

/// A set of instances that serve the same thing.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Name,
    pub origin: Origin,
    /// At least one, each once.
    pub endpoints: Vec<Endpoint>,
    pub balance: Balance,
    pub health: Option<Health>,
    pub connect_timeout: Duration,
    /// Of `https` endpoints.
    pub tls: UpstreamTls,
    pub limits: UpstreamLimits,
    pub retries: Retries,
    /// `None`: what requests meet says nothing about an endpoint.
    pub outliers: Option<Outliers>,
    /// In which an endpoint that is new, or back, gets to its whole weight. `None`: at once.
    pub slow_start: Option<Duration>,
    /// Where fewer of the endpoints can be used than this many percent, all are used. 0: never.
    pub panic_percent: u8,
    /// What endpoints speak.
    pub protocol: Protocol,
}

/// How `https` endpoints are spoken to. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that vouch for endpoints. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// What endpoints are asked for, and whose name their certificates must have. `None`: the endpoint's host.
    pub server_name: Option<Arc<str>>,
    /// If there are any, the certificate must have one of these SPIFFE identities, whatever its names.
    pub spiffe: Vec<SpiffePattern>,
    /// Who we are.
    pub own: Option<OwnCertificate>,
}

/// A certificate, its intermediates, and the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// Leaf first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Where an instance listens: `http` or `https` with an address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `host:port`.
    pub authority: http::uri::Authority,
    /// By TLS, as the service's [`UpstreamTls`] says.
    pub https: bool,
    /// Its share of the requests, in proportion to the others': 1 to 1000.
    pub weight: NonZeroU16,
    pub zone: Option<Arc<str>>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest requests under way; ties go round.
    #[default]
    LeastRequest,
    RoundRobin,
    /// The less busy of two that are drawn.
    PowerOfTwo,
    /// A ring of points (consistent hashing): a key stays with its endpoint.
    RingHash(HashKey),
    /// A table by permutations (Maglev): a key stays with its endpoint, and shares are more equal.
    Maglev(HashKey),
}

/// What a request is hashed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The peer's address.
    Source,
    /// The path as the service gets it, without query.
    Path,
    /// The token's issuer and subject.
    TokenSubject,
    Header(http::HeaderName),
    /// The value of that cookie.
    Cookie(Arc<str>),
    /// The value of that query parameter, as it is written.
    Query(Arc<str>),
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Begins with `/`.
    pub path: Arc<str>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring an endpoint back.
    pub healthy_after: u32,
    /// Failures in a row that take it out.
    pub unhealthy_after: u32,
}

/// How much of a service may be in use at once. Each worker has its equal share, rounded up, so that
/// together they may have up to one less than there are workers more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Connections to one endpoint.
    pub connections: NonZeroU32,
    /// Requests that wait for a connection. 0: none waits.
    pub pending: u32,
    /// Requests, waiting ones included.
    pub requests: NonZeroU32,
    /// Requests that are being sent again. 0: none is.
    pub retries: u32,
    /// The least that `requests` is lowered to while the service answers more slowly than it can. `None`: it is
    /// not lowered.
    pub adaptive_floor: Option<NonZeroU32>,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        let number = |number: u32| NonZeroU32::MIN.saturating_add(number - 1);
        Self {
            connections: number(1024),
            pending: 1024,
            requests: number(16_384),
            retries: 128,
            adaptive_floor: None,
        }
    }
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// At most so many times.
    pub attempts: u32,
    /// Where the endpoint may have acted on the request: only if that may be repeated.
    pub on: RetryOn,
    /// How long one try of a request that may be repeated takes at most.
    pub per_try: Option<Duration>,
    /// The first wait is a random part of this; it doubles each time.
    pub backoff: Duration,
    pub max_backoff: Duration,
    /// In ten seconds so many percent of the requests may be sent again,
    pub budget_percent: u8,
    /// and so many for each second.
    pub budget_per_second: u32,
}

/// What is followed by another try, beside connections that do not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// The connection broke before a response, or a try took too long.
    pub reset: bool,
    pub bad_gateway: bool,
    pub unavailable: bool,
    pub gateway_timeout: bool,
}

impl RetryOn {
    /// Whether a response with that status is.
    #[must_use]
    pub fn status(&self, status: http::StatusCode) -> bool {
        match status.as_u16() {
            502 => self.bad_gateway,
            503 => self.unavailable,
            504 => self.gateway_timeout,
            _ => false,
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn {
                reset: true,
                bad_gateway: false,
                unavailable: false,
                gateway_timeout: false,
            },
            per_try: None,
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            budget_percent: 20,
            budget_per_second: 10,
        }
    }
}

/// When an endpoint is not used for a while because of how requests ended there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// So many 5xx, or requests without response, in a row at one worker.
    pub consecutive_5xx: NonZeroU32,
    /// So many requests without response in a row at one worker.
    pub consecutive_failures: NonZeroU32,
    pub success_rate: Option<SuccessRate>,
    /// How often success rates are looked at.
    pub interval: Duration,
    /// For how long; twice as long the second time, and so on,
    pub base_ejection: Duration,
    /// but no longer than this.
    pub max_ejection: Duration,
    /// Of the endpoints; one of two or more may always be.
    pub max_ejected_percent: u8,
}

/// The least share of good responses in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Percent.
    pub below: u8,
    /// With fewer requests in the interval nothing follows.
    pub requests: NonZeroU32,
}

impl Default for Outliers {
    fn default() -> Self {
        let number = |number: u32| NonZeroU32::MIN.saturating_add(number - 1);
        Self {
            consecutive_5xx: number(5),
            consecutive_failures: number(3),
            success_rate: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
        }
    }
}
