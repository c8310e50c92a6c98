//! Sends a request to an endpoint of a service, and again where that is safe and within bounds.
//!
//! Only this repeats requests: connections are hyper's bare ones, which never do so by themselves.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    Bound, UpstreamError,
    balance::Rounds,
    budget::Budget,
    choice::view,
    consistent::Table,
    http2,
    pool::{Connection, Lease, LocalEndpoint, Seat},
    seen::End,
    service::{Held, LocalService},
    spare::Spare,
    view::View,
};
use crate::{
    body::{Progress, RequestBody},
    counters::{Exchange, RetryCause},
};
use enforcer_model::{Protocol, Retries, Service};

/// A service, as one worker sees it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) service: Arc<Service>,
    pub(crate) endpoints: Vec<Rc<LocalEndpoint>>,
    pub(crate) local: Rc<LocalService>,
    pub(super) table: Option<Arc<Table>>,
    pub(super) site: Site,
    pub(super) rounds: Rounds,
    pub(super) view: RefCell<Rc<View>>,
}

/// Where the worker runs.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Workers that share each bound.
    pub(crate) workers: usize,
    pub(crate) zone: Option<Arc<str>>,
}

/// Of whom a request is, for services that keep clients at endpoints, and what it is for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) address: IpAddr,
    /// It asks to switch protocols. Nobody else may be told that the service has.
    pub(crate) switches: bool,
    /// The token's issuer and subject.
    pub(crate) subject: Option<(&'a str, &'a str)>,
    /// How much of a bound of requests its priority may fill, in percent.
    pub(crate) room: u8,
}

/// What has been tried for one request.
pub(super) struct Tries {
    /// What it is hashed by.
    pub(super) key: Option<u64>,
    pub(super) left: u32,
    /// Where no good response came from.
    pub(super) failed: Vec<usize>,
    /// A connection broke under it: the next must be a new one.
    pub(super) fresh: bool,
    backoff: Duration,
}

/// How one try ended without a response.
enum Failed {
    /// The endpoint has seen nothing of the request.
    Unsent(Box<Request<RequestBody>>, UpstreamError),
    /// A kept connection was gone before a byte was written, which says nothing about the endpoint.
    Stale(Box<Request<RequestBody>>),
    /// It has done nothing about it, and says so.
    Refused(UpstreamError),
    /// It may have seen it.
    Sent(UpstreamError),
}

type Answered = (Response<Incoming>, Lease);

impl Upstream {
    /// `endpoints` in the order of the service's, at least one.
    #[must_use]
    pub(crate) fn new(
        service: Arc<Service>,
        endpoints: Vec<Rc<LocalEndpoint>>,
        local: Rc<LocalService>,
        table: Option<Arc<Table>>,
        site: Site,
    ) -> Self {
        let view = view(&service, &endpoints, &site);
        Self {
            service,
            endpoints,
            local,
            table,
            site,
            rounds: Rounds::default(),
            view: RefCell::new(Rc::new(view)),
        }
    }

    /// Sends `request` of `sender` and waits for the response's head. The request is on the heap, since each step that it
    /// is handed through has a place for it.
    ///
    /// It is sent again if the endpoint cannot have acted on it: it accepted no connection, or a kept one
    /// was gone before a byte was written. One without a body also if the endpoint says that it has not acted
    /// (RFC 9113 section 8.7), whatever its method, or if its method is idempotent (RFC 9110 section 9.2.2) and
    /// the service's policy says so; each if the service's bound and budget admit it.
    ///
    /// # Errors
    /// Why there is no response.
    pub(crate) async fn send(
        &self,
        mut request: Box<Request<RequestBody>>,
        sender: Sender<'_>,
    ) -> Result<Answered, UpstreamError> {
        // Before its head is changed: `host` may be what it goes by.
        let key = self.key(&request, sender);
        if self.service.protocol == Protocol::Http2 {
            http2::head(&mut request)?;
        }
        let place = self.place(sender.room)?;
        let law = &self.service.retries;
        let progress = request.body().progress();
        self.local.budget.request(progress.began());
        let bodiless = progress.ended.get();
        let repeatable = bodiless && request.method().is_idempotent();
        let refusable = bodiless && self.service.protocol == Protocol::Http2;
        let mut tries = Tries::new(key, law);
        let mut retrying: Option<Held> = None;
        loop {
            let (index, seat) = self.seat(&tries).await?;
            let spare = ((repeatable || refusable) && tries.left > 0).then(|| Spare::of(&request));
            let per_try = law.per_try.filter(|_| repeatable);
            let tried = self
                .attempt(&self.endpoints[index], seat, request, per_try, sender.switches)
                .await;
            drop(retrying.take());
            let (cause, error) = match tried {
                Ok((response, lease)) => {
                    let again = repeatable && law.on.status(response.status()) && spare.is_some();
                    match again.then(|| self.admit(&tries, index)).flatten() {
                        Some(held) => retrying = Some(held),
                        None => {
                            let mut lease = lease;
                            lease.place = Some(place);
                            return Ok((response, lease));
                        }
                    }
                    (RetryCause::Status, None)
                }
                Err(Failed::Stale(same)) => {
                    request = same;
                    continue;
                }
                Err(Failed::Unsent(same, error)) => {
                    if tries.left == 0 || !self.is_elsewhere(&tries, index) {
                        return Err(error);
                    }
                    self.local.cells.retry(RetryCause::Connect);
                    tries.failed(index);
                    // Nobody has had any work by it, so another endpoint is asked at once.
                    if self.all_failed(&tries) {
                        Box::pin(tries.wait(law)).await;
                    }
                    request = same;
                    continue;
                }
                // The connection goes on, or takes no more requests by itself.
                Err(Failed::Refused(error)) => (RetryCause::Refused, Some(error)),
                Err(Failed::Sent(error)) => {
                    tries.fresh = true;
                    (RetryCause::Reset, Some(error))
                }
            };
            if let Some(error) = error {
                let may =
                    cause == RetryCause::Refused || repeatable && law.on.reset && error.may_be_repeated();
                match (may && spare.is_some())
                    .then(|| self.admit(&tries, index))
                    .flatten()
                {
                    Some(held) => retrying = Some(held),
                    None => return Err(error),
                }
            }
            let Some(spare) = spare else {
                return Err(UpstreamError::NoEndpoint);
            };
            self.local.cells.retry(cause);
            tries.failed(index);
            Box::pin(tries.wait(law)).await;
            request = Box::new(spare.with(RequestBody::empty(Rc::clone(&progress))));
        }
    }

    /// A place among the requests that are sent again, if bound, budget and endpoints admit one.
    fn admit(&self, tries: &Tries, index: usize) -> Option<Held> {
        let law = &self.service.retries;
        if tries.left == 0 || !self.is_elsewhere(tries, index) {
            return None;
        }
        let held = self
            .local
            .hold(Bound::Retries, self.share(self.service.limits.retries))
            .ok()?;
        let at_least = Budget::in_window(law.budget_per_second).div_ceil(self.site.workers as u64);
        if !self
            .local
            .budget
            .retry(Instant::now(), law.budget_percent, at_least)
        {
            self.local.saturated(Bound::Budget);
            return None;
        }
        Some(held)
    }

    async fn attempt(
        &self,
        endpoint: &Rc<LocalEndpoint>,
        seat: Seat,
        request: Box<Request<RequestBody>>,
        per_try: Option<Duration>,
        switches: bool,
    ) -> Result<Answered, Failed> {
        let deadline = per_try.map(|within| Instant::now() + within);
        let progress = request.body().progress();
        let mut lease = Lease::new(Rc::clone(endpoint), Rc::clone(&progress));
        let mut exchanging = Exchanging {
            upstream: self,
            endpoint,
            progress: &progress,
            sent: Cell::new(None),
            ended: false,
        };
        let name = || endpoint.shared.authority.to_string();
        let (connection, kept): (Connection, bool) = match seat {
            Seat::Kept(mut connection) => match connection.ready().await {
                Ok(()) => (connection, true),
                Err(_) => {
                    exchanging.ended = true;
                    return Err(Failed::Stale(request));
                }
            },
            Seat::New(slot) => {
                let within = self.service.connect_timeout.min(per_try.unwrap_or(Duration::MAX));
                // On the heap: it is large and rare, and the request's future would be as large.
                match Box::pin(slot.connect(endpoint, self.service.protocol, within)).await {
                    Ok(connection) => (connection, false),
                    Err(error) => {
                        exchanging.end(Exchange::Connect, Some(End::Failure));
                        return Err(Failed::Unsent(request, error));
                    }
                }
            }
        };
        exchanging.sent.set(self.adapts().map(|_| Instant::now()));
        let sent = {
            let sending = pin!(lease.hold(connection).channel().send(request));
            match deadline {
                None => Some(sending.await),
                Some(deadline) => Box::pin(tokio::time::timeout_at(deadline, sending)).await.ok(),
            }
        };
        match sent {
            None => {
                exchanging.end(Exchange::TimedOut, Some(End::Failure));
                Err(Failed::Sent(UpstreamError::TryTimeout { endpoint: name() }))
            }
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !switches => {
                exchanging.end(Exchange::Broken, Some(End::Failure));
                Err(Failed::Sent(UpstreamError::Switched { endpoint: name() }))
            }
            Some(Ok(response)) => {
                let end = if response.status().is_server_error() {
                    End::Error
                } else {
                    End::Good
                };
                exchanging.end(Exchange::Answered, Some(end));
                // A body goes up to its last byte, and a switched connection comes free, also while nobody reads the response.
                if !progress.ended.get()
                    || progress.begun.get()
                    || response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    lease.leave();
                }
                Ok((response, lease))
            }
            Some(Err(mut error)) => {
                let message = error.take_message();
                let source = error.into_error();
                let untouched = http2::Untouched::of(&source).is_some();
                let error = UpstreamError::Broken {
                    endpoint: name(),
                    source,
                };
                // That a client's body broke off, or a kept connection, says nothing about the endpoint; one of
                // HTTP/2 goes on when a stream on it breaks. To refuse what it has no room for is its right.
                let broke = !kept || message.is_none() && self.service.protocol == Protocol::Http2;
                let fault = progress.failure.get().is_none() && broke && !untouched;
                exchanging.end(Exchange::Broken, fault.then_some(End::Failure));
                Err(match message {
                    Some(request) if kept => Failed::Stale(Box::new(request)),
                    Some(request) => Failed::Unsent(Box::new(request), error),
                    None if untouched => Failed::Refused(error),
                    None => Failed::Sent(error),
                })
            }
        }
    }
}

impl Tries {
    pub(super) fn new(key: Option<u64>, law: &Retries) -> Self {
        Self {
            key,
            left: law.attempts,
            failed: Vec::new(),
            fresh: false,
            backoff: law.backoff,
        }
    }

    pub(super) fn failed(&mut self, index: usize) {
        self.left -= 1;
        self.failed.push(index);
    }

    /// Waits for a random part of the backoff, which doubles.
    pub(super) async fn wait(&mut self, law: &Retries) {
        let most = self.backoff.min(law.max_backoff);
        self.backoff = self.backoff.saturating_mul(2).min(law.max_backoff);
        if !most.is_zero() {
            tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
        }
    }
}

/// Counts an exchange, as abandoned if it is dropped before its end.
struct Exchanging<'a> {
    upstream: &'a Upstream,
    endpoint: &'a LocalEndpoint,
    progress: &'a Progress,
    sent: Cell<Option<Instant>>,
    ended: bool,
}

impl Exchanging<'_> {
    fn end(&mut self, result: Exchange, end: Option<End>) {
        self.ended = true;
        self.endpoint.cells.count(result);
        let slow = result == Exchange::TimedOut;
        if slow || end.as_ref().is_some_and(|end| matches!(end, End::Good)) {
            self.adapt();
        }
        if let Some(end) = end {
            self.endpoint.saw(end, self.upstream.service.outliers.as_ref());
        }
    }
}

impl Exchanging<'_> {
    /// Has the bound of requests follow how long this one took, from when the service had all of it.
    fn adapt(&self) {
        let (Some(range), Some(sent)) = (self.upstream.adapts(), self.sent.get()) else {
            return;
        };
        if let Some(since) = self.progress.with_service_since() {
            let local = &self.upstream.local;
            local
                .gradient
                .answered(range, sent.max(since), Instant::now(), local.under_way());
        }
    }
}

impl Drop for Exchanging<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.progress.overdue.get() {
            self.end(Exchange::TimedOut, Some(End::Failure));
        } else {
            self.end(Exchange::Abandoned, None);
        }
    }
}

impl UpstreamError {
    /// Whether what has failed so may do better elsewhere.
    fn may_be_repeated(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::TryTimeout { .. })
    }
}
