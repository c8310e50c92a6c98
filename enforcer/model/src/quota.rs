//! Limits on requests, as policies have them.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use enforcer_common::limiter;
use http::HeaderName;

use crate::{Budget, Rate};

/// How many times as much as a source (an IPv4 address, an IPv6 /64) the prefixes around it may take: an IPv4 /24 and an
/// IPv6 /56, and an IPv6 /48.
pub const TIMES: [u64; 3] = [1, 4, 16];

/// The token buckets of a source and of the prefixes around it: see [`TIMES`].
///
/// # Errors
/// The rate or the burst is more than a limiter counts, or less.
pub fn source_buckets(rate: Rate, burst: NonZeroU64) -> Result<[limiter::Params; 3], limiter::ParamsError> {
    let period_ns = u64::try_from(rate.period().as_nanos()).unwrap_or(u64::MAX);
    let bucket = |times: u64| {
        let (amount, burst) = (
            rate.amount().get().saturating_mul(times),
            burst.get().saturating_mul(times),
        );
        limiter::Params::new(limiter::Algorithm::TokenBucket, amount, period_ns, burst)
    };
    let [own, wider, widest] = TIMES;
    Ok([bucket(own)?, bucket(wider)?, bucket(widest)?])
}

/// A limit on requests.
#[derive(Clone, Debug)]
pub struct RequestLimit {
    /// Unique in its route: `metadata.name`, the rule's and the limit's position, unless named.
    pub name: Arc<str>,
    /// At least one; together they are the key.
    pub per: Vec<RequestKey>,
    pub counted: Counted,
    pub budget: Budget,
    /// What the limiter runs with.
    pub params: limiter::Params,
    /// Whose requests have another budget; each tier once.
    pub tiers: Vec<Tier>,
    pub exceed: Exceed,
}

/// What is taken from a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// So much for each request.
    Requests(NonZeroU64),
    /// The bytes of the response's body, as they are sent. A request is admitted while any are left, and what
    /// is sent beyond is owed.
    ResponseBytes,
}

/// The budget of one tier's requests.
#[derive(Clone, Debug)]
pub struct Tier {
    pub name: Arc<str>,
    pub budget: Budget,
    /// What the limiter runs with.
    pub params: limiter::Params,
}

/// A part of a request limit's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestKey {
    /// So many bits of the peer's address: 1 to 32, or 1 to 128.
    Source { ipv4: u8, ipv6: u8 },
    /// The client certificate's identity.
    Certificate,
    /// The token's issuer and `sub`.
    TokenSubject,
    /// The token's issuer and `client_id`.
    TokenClient,
    /// The API key's id.
    ApiKey,
    /// All values of a header field, as the client wrote them.
    Header(HeaderName),
    /// What the client's credentials say that it is entitled to.
    Tier,
    /// The rule: all its requests share one limiter. Of a route's limits: the route.
    Rule,
    /// The service: all requests that lead there share one limiter, where their rules have the same limit.
    Service,
}

impl RequestKey {
    /// The addresses that one client has: an IPv4 address, an IPv6 /64 (RFC 4291, section 2.5.4).
    pub const SOURCE: Self = Self::Source { ipv4: 32, ipv6: 64 };
}

/// What happens to a request over its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exceed {
    /// 429 at once.
    #[default]
    Reject,
    /// It waits for its turn if that comes within this time, else 429.
    Queue(Duration),
}

impl Counted {
    /// What must be left for a request to be admitted, and is taken then.
    #[must_use]
    pub fn at_once(self) -> u64 {
        match self {
            Self::Requests(cost) => cost.get(),
            Self::ResponseBytes => 1,
        }
    }
}
