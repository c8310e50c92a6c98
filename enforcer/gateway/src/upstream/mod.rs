//! Where requests go: the endpoints of a service, as one worker sees them.

mod balance;
pub(crate) mod board;
mod budget;
mod choice;
pub(crate) mod consistent;
pub(crate) mod endpoint;
mod gradient;
pub(crate) mod health;
mod http1;
mod http2;
pub(crate) mod line;
pub(crate) mod outlier;
pub(crate) mod pool;
pub(crate) mod resolve;
mod seen;
pub(crate) mod send;
pub(crate) mod service;
mod spare;
mod view;

use std::time::Duration;

/// Why an endpoint gave no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("no endpoint of the service can be used")]
    NoEndpoint,
    #[error("the service has as many {0} as it may")]
    Saturated(Bound),
    #[error("the endpoint {endpoint} did not accept a connection within {within:?}")]
    ConnectTimeout { endpoint: String, within: Duration },
    #[error("the endpoint {endpoint} accepts no connection")]
    Connect {
        endpoint: String,
        source: std::io::Error,
    },
    #[error("there is no TLS with the endpoint {endpoint}")]
    Tls {
        endpoint: String,
        source: std::io::Error,
    },
    #[error("the endpoint {endpoint} does not speak its service's protocol")]
    Handshake { endpoint: String, source: hyper::Error },
    #[error("the endpoint {endpoint} broke off before its response")]
    Broken { endpoint: String, source: hyper::Error },
    #[error("the endpoint {endpoint} did not answer a try in time")]
    TryTimeout { endpoint: String },
    #[error("the request has no head in HTTP/2")]
    Head(#[from] http::Error),
    #[error("the endpoint {endpoint} switched protocols without being asked")]
    Switched { endpoint: String },
}

/// A bound of a service: see [`enforcer_model::UpstreamLimits`] and
/// [`enforcer_model::Retries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Connections,
    Pending,
    Requests,
    Retries,
    Budget,
    /// [`Self::Requests`], lowered while the service is slow.
    Adaptive,
}

/// All of them.
pub(crate) const BOUNDS: [Bound; 6] = [
    Bound::Connections,
    Bound::Pending,
    Bound::Requests,
    Bound::Retries,
    Bound::Budget,
    Bound::Adaptive,
];

impl Bound {
    /// Its name in policies and metrics.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
            Self::Budget => "retry_budget",
            Self::Adaptive => "adaptive",
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections",
            Self::Pending => "waiting requests",
            Self::Requests | Self::Adaptive => "requests",
            Self::Retries | Self::Budget => "repeated requests",
        })
    }
}
