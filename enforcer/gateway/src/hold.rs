//! Which proofs a connection and its requests rest on, so that they end when one of these is revoked.
//!
//! A request holds what it rests on from when it is admitted until its response's body, or the connection that it
//! was switched to, has ended. Requests with the same proofs as the one before share one record: those after the first
//! cost no allocation and touch nothing that other workers see.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use super::{
    identity::{api_key::KeyRing, token::VerifiedToken},
    live::Mark,
    revocation::{Proofs, Table},
    spoken::Proven,
};
use enforcer_model::ApiKey;
use enforcer_tls::certificate::ClientCertificate;

/// What a request rests on beside the connection's certificate. One of the two is there.
#[derive(Debug)]
pub(super) struct Rest {
    token: Option<Arc<VerifiedToken>>,
    key: Option<Arc<ApiKey>>,
    /// What services are told of it.
    proven: OnceCell<Proven>,
}

/// What a connection rests on.
#[derive(Debug, Default)]
pub(super) struct Rests {
    certificate: OnceCell<ClientCertificate>,
    /// By what the rest of the agent knows who is behind the connection.
    first: OnceCell<Rc<Rest>>,
    /// Of the request that was admitted last.
    last: RefCell<Option<Rc<Rest>>>,
    /// One for each that holds it: at most as many as requests may be under way.
    under_way: RefCell<Vec<Rc<Rest>>>,
}

/// A request's share in what its connection rests on, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    mark: Rc<Mark>,
    rest: Rc<Rest>,
}

impl Rest {
    fn is(&self, token: Option<&Arc<VerifiedToken>>, key: Option<&Arc<ApiKey>>) -> bool {
        same(self.token.as_ref(), token) && same(self.key.as_ref(), key)
    }

    fn is_revoked(&self, table: &Table, now: SystemTime) -> bool {
        let proofs = Proofs {
            certificate: None,
            token: self.token.as_deref(),
            key: self.key.as_deref(),
        };
        table.revoked(&proofs, now).is_some()
    }
}

fn same<T>(held: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (held, other) {
        (None, None) => true,
        (Some(held), Some(other)) => Arc::ptr_eq(held, other),
        _ => false,
    }
}

impl Rests {
    /// The connection rests on this certificate. Only the first is taken: there is no other.
    pub(super) fn on_certificate(&self, certificate: &ClientCertificate) {
        self.certificate.get_or_init(|| certificate.clone());
    }

    /// The agent has been told who is behind the connection by this. Only the first is taken.
    pub(super) fn identified_by(&self, held: &Held) {
        self.first.get_or_init(|| Rc::clone(&held.rest));
    }

    /// Whether the connection, or a request that is under way, rests on a proof that is revoked.
    pub(super) fn are_revoked(&self, table: &Table, now: SystemTime) -> bool {
        let certificate = Proofs {
            certificate: self.certificate.get(),
            ..Proofs::default()
        };
        table.revoked(&certificate, now).is_some() || self.any(|rest| rest.is_revoked(table, now))
    }

    /// Whether the connection, or a request that is under way, rests on a key that is no longer among `keys`.
    pub(super) fn have_lost_key(&self, keys: &KeyRing) -> bool {
        let is_lost = |rest: &Rc<Rest>| rest.key.as_ref().is_some_and(|key| !keys.has(key));
        self.any(is_lost)
    }

    /// Whether that is so of something that the connection, or a request that is under way, rests on.
    fn any(&self, is: impl Fn(&Rc<Rest>) -> bool) -> bool {
        self.first.get().is_some_and(&is)
            || self.last.borrow().as_ref().is_some_and(&is)
            || self.under_way.borrow().iter().any(is)
    }

    fn rest(&self, token: Option<&Arc<VerifiedToken>>, key: Option<&Arc<ApiKey>>) -> Rc<Rest> {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some(rest) if rest.is(token, key) => Rc::clone(rest),
            _ => {
                let rest = Rc::new(Rest {
                    token: token.cloned(),
                    key: key.cloned(),
                    proven: OnceCell::new(),
                });
                *last = Some(Rc::clone(&rest));
                rest
            }
        }
    }
}

impl Held {
    /// A request of the connection rests on these. `None` if that is nothing but the certificate.
    pub(super) fn new(
        mark: &Rc<Mark>,
        token: Option<&Arc<VerifiedToken>>,
        key: Option<&Arc<ApiKey>>,
    ) -> Option<Self> {
        if token.is_none() && key.is_none() {
            return None;
        }
        let rest = mark.rests.rest(token, key);
        Some(Self::of(mark, rest))
    }

    fn of(mark: &Rc<Mark>, rest: Rc<Rest>) -> Self {
        mark.rests.under_way.borrow_mut().push(Rc::clone(&rest));
        Self {
            mark: Rc::clone(mark),
            rest,
        }
    }
}

impl Held {
    /// What services are told of the token and the API key.
    pub(super) fn proven(&self) -> &Proven {
        let Rest { token, key, proven } = &*self.rest;
        proven.get_or_init(|| Proven::by(token.as_deref(), key.as_deref()))
    }

    /// When the first of them holds no more.
    pub(super) fn ends(&self) -> Option<SystemTime> {
        let token = self.rest.token.as_ref().and_then(|token| token.holds_until);
        let key = self.rest.key.as_ref().and_then(|key| key.expires);
        token.into_iter().chain(key.map(SystemTime::from)).min()
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::of(&self.mark, Rc::clone(&self.rest))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut under_way = self.mark.rests.under_way.borrow_mut();
        if let Some(place) = under_way.iter().position(|rest| Rc::ptr_eq(rest, &self.rest)) {
            under_way.swap_remove(place);
        }
    }
}
