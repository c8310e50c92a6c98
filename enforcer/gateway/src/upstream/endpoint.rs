//! What the whole process knows of an endpoint. Workers only read it.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::uri::Authority;
use tokio::sync::Notify;

use super::board::Board;
use enforcer_model::{Health, Name, Protocol, Service};
use enforcer_tls::service::ServiceTls;

/// The port of `http` endpoints that name none.
const DEFAULT_PORT: u16 = 80;

/// An endpoint of a service.
#[derive(Debug)]
pub(crate) struct SharedEndpoint {
    pub(crate) service: Name,
    pub(crate) authority: Authority,
    /// `None`: always taken for healthy.
    pub(crate) health: Option<Health>,
    protocol: Protocol,
    /// `None`: it speaks plain HTTP.
    pub(super) tls: Option<Arc<ServiceTls>>,
    board: Arc<Board>,
    /// What its checks say.
    healthy: AtomicBool,
    /// Requests failed there too often.
    ejected: AtomicBool,
    /// When it became usable, by the board's clock. 0: it has been from the beginning.
    usable_since: AtomicU64,
    /// What workers have seen of it.
    pub(super) seen: Seen,
    /// Empty until a DNS name has been resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
    resolved: Notify,
    is_name: bool,
}

/// What workers tell of how requests ended; added up by the control thread.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A [`Suspicion`], or 0.
    suspicion: AtomicU8,
    good: AtomicU64,
    bad: AtomicU64,
}

/// Why a worker holds an endpoint for broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// Too many 5xx or missing responses in a row.
    Errors = 1,
    /// Too many missing responses in a row.
    Failures = 2,
}

impl Seen {
    fn suspect(&self, suspicion: Suspicion) {
        self.suspicion.store(suspicion as u8, Ordering::Relaxed);
    }

    /// Takes the suspicion away.
    pub(super) fn take_suspicion(&self) -> Option<Suspicion> {
        match self.suspicion.swap(0, Ordering::Relaxed) {
            1 => Some(Suspicion::Errors),
            2 => Some(Suspicion::Failures),
            _ => None,
        }
    }

    /// Adds what a worker has counted since the last time.
    pub(super) fn add(&self, good: u64, bad: u64) {
        self.good.fetch_add(good, Ordering::Relaxed);
        self.bad.fetch_add(bad, Ordering::Relaxed);
    }

    /// Good and bad ends so far.
    pub(super) fn ends(&self) -> (u64, u64) {
        (
            self.good.load(Ordering::Relaxed),
            self.bad.load(Ordering::Relaxed),
        )
    }
}

impl SharedEndpoint {
    /// An endpoint that is usable until shown otherwise.
    #[must_use]
    fn new(
        service: Name,
        authority: Authority,
        health: Option<Health>,
        protocol: Protocol,
        tls: Option<Arc<ServiceTls>>,
        board: Arc<Board>,
    ) -> Self {
        let literal = literal(&authority);
        Self {
            service,
            health,
            protocol,
            tls,
            board,
            healthy: AtomicBool::new(true),
            ejected: AtomicBool::new(false),
            usable_since: AtomicU64::new(0),
            seen: Seen::default(),
            is_name: literal.is_none(),
            addresses: ArcSwap::new(Arc::new(literal.into_iter().collect())),
            resolved: Notify::new(),
            authority,
        }
    }

    /// The endpoint of `service` at `authority`: the `known` one if it is checked and spoken to in the same way, else
    /// a new one, which is as usable as that was. `joins`: the service has been there before.
    pub(crate) fn renewed(
        service: &Service,
        authority: &Authority,
        tls: Option<&Arc<ServiceTls>>,
        known: Option<&Arc<Self>>,
        joins: bool,
        board: &Arc<Board>,
    ) -> Arc<Self> {
        let is_same = |known: &&Arc<Self>| {
            known.health == service.health
                && known.protocol == service.protocol
                && known.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
        };
        if let Some(same) = known.filter(is_same) {
            return Arc::clone(same);
        }
        let health = service.health.clone();
        let new = Self::new(
            service.name.clone(),
            authority.clone(),
            health,
            service.protocol,
            tls.cloned(),
            Arc::clone(board),
        );
        if let Some(known) = known {
            let healthy = known.healthy.load(Ordering::Relaxed) || service.health.is_none();
            new.healthy.store(healthy, Ordering::Relaxed);
            let since = known.usable_since.load(Ordering::Relaxed);
            new.usable_since.store(since, Ordering::Relaxed);
            if new.is_name {
                new.addresses.store(known.addresses.load_full());
            }
        } else if joins {
            new.usable_since.store(board.now(), Ordering::Relaxed);
        }
        Arc::new(new)
    }

    /// An endpoint of a service that has nothing else.
    #[cfg(test)]
    pub(super) fn for_test(authority: &'static str) -> Self {
        let (service, board) = ("s".parse().unwrap(), Arc::default());
        Self::new(
            service,
            Authority::from_static(authority),
            None,
            Protocol::Http1,
            None,
            board,
        )
    }

    /// Whether requests may go there.
    #[must_use]
    pub(crate) fn is_usable(&self) -> bool {
        self.is_healthy() && !self.is_ejected()
    }

    /// Whether its checks pass, or it has none.
    #[must_use]
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Whether it is taken out because requests failed there.
    #[must_use]
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.change(|| self.healthy.store(healthy, Ordering::Relaxed));
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.change(|| self.ejected.store(ejected, Ordering::Relaxed));
    }

    /// Called by the control thread alone.
    fn change(&self, change: impl FnOnce()) {
        let before = self.is_usable();
        change();
        if !before && self.is_usable() {
            self.usable_since.store(self.board.now(), Ordering::Relaxed);
        }
        self.board.changed();
    }

    /// How far it has got in a slow start of that length, in thousandths.
    #[must_use]
    pub(super) fn warmth(&self, slow_start: Option<Duration>) -> u32 {
        const WHOLE: u32 = 1000;
        /// An endpoint that gets nothing never warms up.
        const LEAST: u32 = 100;
        let since = self.usable_since.load(Ordering::Relaxed);
        let Some(length) = slow_start.filter(|_| since > 0) else {
            return WHOLE;
        };
        let part = self.board.since(since).as_millis() * u128::from(WHOLE) / length.as_millis().max(1);
        u32::try_from(part).unwrap_or(WHOLE).clamp(LEAST, WHOLE)
    }

    /// A worker has seen too many failures in a row.
    pub(super) fn suspect(&self, suspicion: Suspicion) {
        self.seen.suspect(suspicion);
        self.board.raise_alarm();
    }

    #[must_use]
    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// Whether the authority is a name, which needs resolving.
    #[must_use]
    pub(crate) fn is_name(&self) -> bool {
        self.is_name
    }

    /// Where the endpoint listens; empty while unknown.
    #[must_use]
    pub(crate) fn addresses(&self) -> arc_swap::Guard<Arc<Vec<SocketAddr>>> {
        self.addresses.load()
    }

    /// Where it listens, once that is known.
    pub(super) async fn known_addresses(&self) -> Arc<Vec<SocketAddr>> {
        loop {
            let mut resolved = pin!(self.resolved.notified());
            resolved.as_mut().enable();
            let addresses = self.addresses.load_full();
            if !addresses.is_empty() {
                return addresses;
            }
            resolved.await;
        }
    }

    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
        self.resolved.notify_waiters();
    }

    /// Host and port, for resolving.
    #[must_use]
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        (
            self.authority.host(),
            self.authority.port_u16().unwrap_or(DEFAULT_PORT),
        )
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

    #[test]
    fn literals_need_no_resolving() {
        for (authority, address) in [
            ("10.0.0.7:8080", "10.0.0.7:8080"),
            ("10.0.0.7", "10.0.0.7:80"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            let endpoint = SharedEndpoint::for_test(authority);
            assert!(!endpoint.is_name(), "{authority}");
            assert_eq!(**endpoint.addresses(), [address.parse().unwrap()]);
        }
        let named = SharedEndpoint::for_test("orders.shop.svc:8080");
        assert!(named.is_name() && named.addresses().is_empty());
        assert_eq!(named.host_and_port(), ("orders.shop.svc", 8080));
    }

    #[test]
    fn what_comes_back_warms_up() {
        let endpoint = SharedEndpoint::for_test("10.0.0.7:80");
        let length = Some(Duration::from_secs(3600));
        assert_eq!(
            endpoint.warmth(length),
            1000,
            "it has been there from the beginning"
        );
        let before = endpoint.board().epoch();
        endpoint.set_ejected(true);
        assert!(!endpoint.is_usable() && endpoint.is_healthy());
        endpoint.set_ejected(false);
        assert_eq!(endpoint.warmth(length), 100);
        assert_eq!(endpoint.warmth(None), 1000);
        endpoint.set_healthy(false);
        assert!(!endpoint.is_usable());
        assert!(endpoint.board().epoch() > before);
    }
}
