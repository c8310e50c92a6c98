//! The gateway over real sockets on loopback, between real clients and real upstreams.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admission;
mod api_keys;
mod audit;
mod authorization;
mod balancing;
mod bound_tokens;
mod bounds;
mod calls;
mod certificates;
mod chain;
mod changes;
mod dpop;
mod hostile;
mod hostile_frames;
mod hostile_http2;
mod hostile_messages;
mod hostile_tokens;
mod introspection;
mod lifecycle;
mod metrics;
mod mirroring;
mod outliers;
mod overload;
mod proxy_protocol;
mod proxying;
mod quotas;
mod revocations;
mod rotation;
mod routing;
mod slow;
mod streaming;
mod support;
mod upgrades;
mod upstream_tls;
mod upstreams;
