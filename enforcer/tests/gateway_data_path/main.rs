//! The gateway over real sockets on loopback, between real clients and real upstreams.

mod admission;
mod certificates;
mod hostile;
mod lifecycle;
mod metrics;
mod proxying;
mod slow;
mod support;
mod upstreams;
