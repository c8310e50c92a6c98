//! What the whole process knows of an endpoint. Workers only read it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::uri::Authority;

use crate::policy::model::{Health, Name, Service};

/// The port of `http` endpoints that name none.
const DEFAULT_PORT: u16 = 80;

/// An endpoint of a service.
#[derive(Debug)]
pub(in crate::gateway) struct SharedEndpoint {
    pub(in crate::gateway) service: Name,
    pub(in crate::gateway) authority: Authority,
    /// `None`: always taken for healthy.
    pub(in crate::gateway) health: Option<Health>,
    healthy: AtomicBool,
    /// Empty until a DNS name has been resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
}

impl SharedEndpoint {
    /// An endpoint that is healthy until shown otherwise.
    #[must_use]
    fn new(service: Name, authority: Authority, health: Option<Health>) -> Self {
        let literal = literal(&authority).into_iter().collect();
        Self {
            service,
            authority,
            health,
            healthy: AtomicBool::new(true),
            addresses: ArcSwap::new(Arc::new(literal)),
        }
    }

    /// The endpoint of `service` at `authority`: the `known` one if it is checked in the same way, else
    /// a new one, which is as healthy as that was.
    pub(in crate::gateway) fn renewed(
        service: &Service,
        authority: &Authority,
        known: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(same) = known.filter(|known| known.is_checked_by(service.health.as_ref())) {
            return Arc::clone(same);
        }
        let new = Self::new(service.name.clone(), authority.clone(), service.health.clone());
        if let Some(known) = known.filter(|_| service.health.is_some()) {
            new.set_healthy(known.is_healthy());
        }
        Arc::new(new)
    }

    /// Whether requests may go there.
    #[must_use]
    pub(in crate::gateway) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Whether the authority is a name, which needs resolving.
    #[must_use]
    pub(in crate::gateway) fn is_name(&self) -> bool {
        literal(&self.authority).is_none()
    }

    /// Where the endpoint listens; empty while unknown.
    #[must_use]
    pub(in crate::gateway) fn addresses(&self) -> arc_swap::Guard<Arc<Vec<SocketAddr>>> {
        self.addresses.load()
    }

    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// Host and port, for resolving.
    #[must_use]
    pub(in crate::gateway) fn host_and_port(&self) -> (&str, u16) {
        (
            self.authority.host(),
            self.authority.port_u16().unwrap_or(DEFAULT_PORT),
        )
    }

    /// Whether `health` is how the endpoint is checked already.
    #[must_use]
    fn is_checked_by(&self, health: Option<&Health>) -> bool {
        let parts = |health: &Health| {
            let Health {
                path,
                interval,
                timeout,
                healthy_after,
                unhealthy_after,
            } = health;
            (
                Arc::clone(path),
                *interval,
                *timeout,
                *healthy_after,
                *unhealthy_after,
            )
        };
        self.health.as_ref().map(parts) == health.map(parts)
    }
}

fn literal(authority: &Authority) -> Option<SocketAddr> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse().ok()?;
    Some(SocketAddr::new(
        address,
        authority.port_u16().unwrap_or(DEFAULT_PORT),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(authority: &'static str) -> SharedEndpoint {
        SharedEndpoint::new("s".parse().unwrap(), Authority::from_static(authority), None)
    }

    #[test]
    fn literals_need_no_resolving() {
        for (authority, address) in [
            ("10.0.0.7:8080", "10.0.0.7:8080"),
            ("10.0.0.7", "10.0.0.7:80"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            let endpoint = endpoint(authority);
            assert!(!endpoint.is_name(), "{authority}");
            assert_eq!(**endpoint.addresses(), [address.parse().unwrap()]);
        }
        let named = endpoint("orders.shop.svc:8080");
        assert!(named.is_name() && named.addresses().is_empty());
        assert_eq!(named.host_and_port(), ("orders.shop.svc", 8080));
    }
}
