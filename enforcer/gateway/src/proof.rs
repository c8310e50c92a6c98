//! A client's certificate for as long as its connection lives: it may expire, be revoked, or lose those
//! who vouch for it.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    live::{Live, Mark},
    metrics::GatewayMetrics,
};
use enforcer_model::flow::AuthorityId;
use enforcer_tls::{ListenerTls, Trust};

/// How often a worker looks over its connections' certificates.
const LOOK: Duration = Duration::from_millis(200);

/// So many chains are verified without a break: about a millisecond.
const AT_A_STRETCH: usize = 8;

/// The certificate by which a connection's client was verified.
#[derive(Debug)]
pub(super) struct Proof {
    /// Leaf first, as the client sent it.
    chain: Box<[CertificateDer<'static>]>,
    not_after: SystemTime,
    /// Who vouches for it.
    authority: Option<AuthorityId>,
    tls: Arc<ListenerTls>,
    /// Under what it was verified last.
    trust: RefCell<Arc<Trust>>,
}

impl Proof {
    /// A certificate that `trust` of `tls` has verified by `authority`, and that is not valid from `not_after` on.
    pub(super) fn new(
        chain: Box<[CertificateDer<'static>]>,
        (not_after, authority): (SystemTime, Option<AuthorityId>),
        tls: Arc<ListenerTls>,
        trust: Arc<Trust>,
    ) -> Self {
        Self {
            chain,
            not_after,
            authority,
            tls,
            trust: RefCell::new(trust),
        }
    }

    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }

    fn is_doubtful(&self) -> bool {
        !self.tls.trusts_as(&self.trust.borrow())
    }

    /// Whether the client is not to be trusted any more, by what is trusted now.
    fn is_repudiated(&self) -> bool {
        let trust = self.tls.trust();
        let repudiated = trust.repudiates(&self.chain, self.authority.as_ref(), UnixTime::now());
        *self.trust.borrow_mut() = trust;
        repudiated
    }
}

/// Ends connections whose clients' certificates have expired, or are not trusted any more, as long as
/// the worker runs.
pub(super) async fn look_after(live: Rc<Live>, metrics: GatewayMetrics) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = SystemTime::now();
        live.each(|mark| {
            if mark.proof().is_some_and(|proof| proof.has_expired(now)) {
                mark.lapse();
            }
        });
        let ended = repudiate(&live).await;
        if ended > 0 {
            metrics.connections_revoked.inc_by(ended);
            tracing::info!(
                connections = ended,
                "ended connections whose certificates are revoked or no longer vouched for"
            );
        }
    }
}

/// Ends connections whose clients are not trusted any more, after a change. How many.
async fn repudiate(live: &Live) -> u64 {
    let mut doubtful: Vec<Rc<Mark>> = Vec::new();
    live.each(|mark| {
        if mark.proof().is_some_and(Proof::is_doubtful) {
            doubtful.push(Rc::clone(mark));
        }
    });
    let mut ended = 0;
    for some in doubtful.chunks(AT_A_STRETCH) {
        for mark in some {
            if mark.proof().is_some_and(Proof::is_repudiated) && mark.revoke() {
                ended += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    ended
}
