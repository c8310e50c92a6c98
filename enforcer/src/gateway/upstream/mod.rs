//! Where requests go: the endpoints of a service, as one worker sees them.

pub(in crate::gateway) mod balance;
pub(in crate::gateway) mod endpoint;
pub(in crate::gateway) mod health;
mod http2;
pub(in crate::gateway) mod pool;
pub(in crate::gateway) mod resolve;
pub(in crate::gateway) mod send;

use std::time::Duration;

/// Why an endpoint gave no response.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum UpstreamError {
    #[error("no endpoint of the service is healthy")]
    NoEndpoint,
    #[error("the endpoint {endpoint} did not accept a connection within {within:?}")]
    ConnectTimeout { endpoint: String, within: Duration },
    #[error("the endpoint {endpoint} accepts no connection")]
    Connect {
        endpoint: String,
        source: std::io::Error,
    },
    #[error("the endpoint {endpoint} does not speak its service's protocol")]
    Handshake { endpoint: String, source: hyper::Error },
    #[error("the endpoint {endpoint} broke off before its response")]
    Broken { endpoint: String, source: hyper::Error },
    #[error("the request has no head in HTTP/2")]
    Head(#[from] http::Error),
    #[error("the endpoint {endpoint} switched protocols without being asked")]
    Switched { endpoint: String },
}
