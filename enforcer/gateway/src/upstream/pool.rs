//! One worker's connections to one endpoint.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::TrySendError,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

use super::{
    UpstreamError,
    endpoint::SharedEndpoint,
    http1::Carrier,
    http2::{Connections, Stream},
    seen::{End, SeenHere},
    service::{Held, LocalService},
};
use crate::{
    body::{Progress, RequestBody},
    clock,
    counters::EndpointCells,
    wire::Wire,
};
use enforcer_model::{Outliers, Protocol};

/// Idle connections that one worker keeps to one endpoint.
const MAX_IDLE: usize = 256;
/// How long an idle connection is kept. Less than the usual 60 s and more of servers.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// Of a name's addresses so many are tried for one connection.
const TRIED_ADDRESSES: usize = 3;

/// An endpoint, as one worker sees it.
#[derive(Debug)]
pub(crate) struct LocalEndpoint {
    pub(crate) shared: Arc<SharedEndpoint>,
    pub(crate) cells: EndpointCells,
    under_way: Cell<usize>,
    open: Rc<Open>,
    /// The one used last is last.
    idle: RefCell<Vec<Idle>>,
    http2: Connections,
    /// Which address the next connection goes to.
    turn: Cell<usize>,
    seen: SeenHere,
}

/// Counts an endpoint's connections, also those that are being made. Connections hold it, and not the
/// endpoint, which holds them.
#[derive(Debug)]
struct Open {
    count: Cell<usize>,
    service: Rc<LocalService>,
}

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    lead: Lead,
    /// Of HTTP/1.1, which may be switched to something that outlives the half that hyper reads and writes with.
    _slot: Option<Rc<Slot>>,
}

/// Where a connection leads, and by what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    peer: SocketAddr,
    /// Of the certificate files that it was made with. `None`: it has no TLS.
    pub(super) tls: Option<u64>,
}

/// What one request goes through.
#[derive(Debug)]
pub(crate) enum Channel {
    Http1(Carrier),
    Http2(Stream),
}

impl Channel {
    /// Whether it takes another request at once.
    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(carrier) => carrier.is_ready(),
            Self::Http2(stream) => !stream.is_closed(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(carrier) => carrier.is_closed(),
            Self::Http2(stream) => stream.is_closed(),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// With the request, if the endpoint has seen nothing of it.
    pub(crate) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
    ) -> Result<Response<Incoming>, Box<TrySendError<Request<RequestBody>>>> {
        match self {
            Self::Http1(carrier) => carrier.send(request).await,
            Self::Http2(stream) => stream.send(request).await.map_err(Box::new),
        }
    }
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection's place in its endpoint's count, for as long as the connection lasts.
#[derive(Debug)]
pub(super) struct Slot {
    open: Rc<Open>,
    /// A connection that is open will not do.
    fresh: bool,
}

/// What a request is sent on.
#[derive(Debug)]
pub(super) enum Seat {
    /// A connection that has been used before, and may be gone.
    Kept(Connection),
    /// A connection that is yet to be made.
    New(Slot),
}

/// A connection that serves a request, and the request's place in the counts.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) endpoint: Rc<LocalEndpoint>,
    connection: Option<Connection>,
    progress: Rc<Progress>,
    /// In the service's count of requests.
    pub(super) place: Option<Held>,
}

impl LocalEndpoint {
    /// Without connections.
    #[must_use]
    pub(crate) fn new(shared: Arc<SharedEndpoint>, cells: EndpointCells, service: Rc<LocalService>) -> Self {
        Self {
            shared,
            cells,
            under_way: Cell::new(0),
            open: Rc::new(Open {
                count: Cell::new(0),
                service,
            }),
            idle: RefCell::default(),
            http2: Connections::default(),
            turn: Cell::new(0),
            seen: SeenHere::default(),
        }
    }

    /// Its connections, also those that are being made.
    #[cfg(test)]
    pub(super) fn open_connections(&self) -> usize {
        self.open.count.get()
    }

    /// Requests that this worker has there.
    #[must_use]
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// Whether a request finds a connection, or may make one where there are at most `limit`.
    #[must_use]
    pub(super) fn has_room(&self, limit: usize) -> bool {
        self.open.count.get() < limit
            || !self.idle.borrow().is_empty()
            || self.http2.has_room(|lead| self.is_current(lead))
    }

    /// A connection, or the right to make one, for a request at an endpoint that has room. `fresh`: one
    /// that has been kept will not do; an idle one makes room where need be.
    #[must_use]
    pub(super) fn seat(&self, limit: usize, fresh: bool) -> Seat {
        let now = clock::now();
        let kept =
            || std::iter::from_fn(|| self.idle.borrow_mut().pop()).find(|idle| self.is_kept(idle, now));
        if let Some(idle) = (!fresh).then(kept).flatten() {
            return Seat::Kept(idle.connection);
        }
        let full = self.open.count.get() >= limit && self.idle.borrow().is_empty();
        if (!fresh || full)
            && let Some(stream) = self.http2.take(|lead| self.is_current(lead))
        {
            return Seat::Kept(Connection::http2(stream));
        }
        if self.open.count.get() >= limit {
            // Its place is free as soon as its task has noticed.
            self.idle.borrow_mut().pop();
        }
        self.open.count.set(self.open.count.get() + 1);
        Seat::New(Slot {
            open: Rc::clone(&self.open),
            fresh,
        })
    }

    /// Closes connections that have been idle for too long, or that lead where the endpoint no longer is.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| self.is_kept(idle, now));
        self.http2.sweep(now, KEEP_IDLE);
    }

    fn is_kept(&self, idle: &Idle, now: Instant) -> bool {
        now.saturating_duration_since(idle.since) < KEEP_IDLE
            && !idle.connection.channel.is_closed()
            && self.is_current(&idle.connection.lead)
    }

    /// Whether the endpoint is still where the connection leads, and what it trusts and shows is in use.
    fn is_current(&self, lead: &Lead) -> bool {
        self.shared.tls.as_ref().map(|tls| tls.version()) == lead.tls && self.is_here(&lead.peer)
    }

    /// Whether `peer` is one of the endpoint's addresses.
    fn is_here(&self, peer: &SocketAddr) -> bool {
        !self.shared.is_name() || self.shared.addresses().contains(peer)
    }

    /// Takes in how a request ended.
    pub(super) fn saw(&self, end: End, law: Option<&Outliers>) {
        let suspicion = law.and_then(|law| self.seen.add(end, law));
        if let Some(suspicion) = suspicion.filter(|_| !self.shared.is_ejected()) {
            self.shared.suspect(suspicion);
        }
    }

    /// Tells the control thread what has been counted since the last time.
    pub(crate) fn report(&self) {
        self.cells.flush();
        let (good, bad) = self.seen.take();
        if good + bad > 0 {
            self.shared.seen.add(good, bad);
        }
    }

    /// Connects to the next address, or to one after it if that does not accept.
    pub(super) async fn open(&self, within: Duration) -> std::io::Result<(Wire, SocketAddr)> {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let known = self.shared.addresses().clone();
        let addresses = if known.is_empty() {
            self.shared.known_addresses().await
        } else {
            known
        };
        let tries = addresses.len().min(TRIED_ADDRESSES);
        let each = within / u32::try_from(tries.max(1)).unwrap_or(1);
        let mut failure = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in (0..tries).filter_map(|step| nth(&addresses, turn.wrapping_add(step))) {
            match tokio::time::timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok((Wire::new(stream), address));
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

impl Slot {
    /// A new connection.
    ///
    /// # Errors
    /// When the endpoint does not accept one in time.
    pub(super) async fn connect(
        self,
        to: &LocalEndpoint,
        protocol: Protocol,
        within: Duration,
    ) -> Result<Connection, UpstreamError> {
        let shared = &to.shared;
        let endpoint = || shared.authority.to_string();
        let deadline = Instant::now() + within;
        let too_late = |_| UpstreamError::ConnectTimeout {
            endpoint: endpoint(),
            within,
        };
        // One opens a connection of HTTP/2, and others wait for it.
        let _alone = match protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => {
                let opening = tokio::time::timeout_at(deadline, to.http2.opening.lock());
                let alone = opening.await.map_err(too_late)?;
                if !self.fresh
                    && let Some(stream) = to.http2.take(|lead| to.is_current(lead))
                {
                    return Ok(Connection::http2(stream));
                }
                Some(alone)
            }
        };
        let (stream, peer) = tokio::time::timeout_at(deadline, to.open(within))
            .await
            .map_err(too_late)?
            .map_err(|source| UpstreamError::Connect {
                endpoint: endpoint(),
                source,
            })?;
        let Some(tls) = &shared.tls else {
            return self.speak(to, stream, Lead { peer, tls: None }, protocol).await;
        };
        // Before the configuration is taken, so that a change in between is noticed.
        let version = tls.version();
        let stream = tokio::time::timeout_at(deadline, tls.connect(shared.authority.host(), stream))
            .await
            .map_err(too_late)?
            .map_err(|source| UpstreamError::Tls {
                endpoint: endpoint(),
                source,
            })?;
        let lead = Lead {
            peer,
            tls: Some(version),
        };
        self.speak(to, stream, lead, protocol).await
    }

    /// `protocol` over `stream`.
    async fn speak<S>(
        self,
        to: &LocalEndpoint,
        stream: S,
        lead: Lead,
        protocol: Protocol,
    ) -> Result<Connection, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |source| UpstreamError::Handshake {
            endpoint: to.shared.authority.to_string(),
            source,
        };
        if protocol == Protocol::Http2 {
            let stream = to.http2.add(stream, lead, Rc::new(self)).await.map_err(failed)?;
            // There is room for more than the one that has opened it.
            to.open.service.stir();
            return Ok(Connection::http2(stream));
        }
        let slot = Rc::new(self);
        let carrier = Carrier::over(stream, Rc::clone(&slot)).await.map_err(failed)?;
        Ok(Connection {
            channel: Channel::Http1(carrier),
            lead,
            _slot: Some(slot),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.count.set(self.open.count.get() - 1);
        self.open.service.free();
    }
}

impl Connection {
    /// Waits until it takes a request.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.channel {
            Channel::Http1(carrier) => carrier.ready().await,
            // Whatever is wrong with it shows when the request is sent.
            Channel::Http2(_) => Ok(()),
        }
    }

    /// A place on a connection of HTTP/2.
    fn http2(stream: Stream) -> Self {
        Self {
            lead: stream.lead(),
            channel: Channel::Http2(stream),
            _slot: None,
        }
    }

    pub(super) fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// All of the response's `body` has been read.
    fn complete(&self, body: Option<Incoming>) {
        if let Channel::Http1(carrier) = &self.channel {
            carrier.complete(body);
        }
    }

    /// Lets it move by itself, whether or not the response is polled for.
    fn leave(&self) {
        if let Channel::Http1(carrier) = &self.channel {
            carrier.leave();
        }
    }
}

fn nth(addresses: &[SocketAddr], turn: usize) -> Option<SocketAddr> {
    Some(addresses[turn.checked_rem(addresses.len())?])
}

impl Lease {
    /// Counts a request at `endpoint`, without a connection yet.
    #[must_use]
    pub(crate) fn new(endpoint: Rc<LocalEndpoint>, progress: Rc<Progress>) -> Self {
        endpoint.under_way.set(endpoint.under_way.get() + 1);
        Self {
            endpoint,
            connection: None,
            progress,
            place: None,
        }
    }

    /// Gives the lease its connection.
    pub(super) fn hold(&mut self, connection: Connection) -> &mut Connection {
        self.connection.insert(connection)
    }

    /// The next piece of the response that has come on the lease's connection.
    pub(crate) fn frame(
        &self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &self.connection {
            Some(Connection {
                channel: Channel::Http1(carrier),
                ..
            }) => carrier.frame(body, context),
            _ => Pin::new(body).poll_frame(context),
        }
    }

    #[cfg(test)]
    pub(super) fn channel(&mut self) -> &mut Channel {
        self.connection.as_mut().unwrap().channel()
    }

    /// From here on the connection moves also while nobody polls for pieces of the response.
    pub(super) fn leave(&self) {
        if let Some(connection) = &self.connection {
            connection.leave();
        }
    }

    /// The response is complete, all of its `body` has been read. The connection is used again, unless the endpoint answered before
    /// it had the whole request: then the rest of it is still on its way, or waits in hyper to be sent.
    pub(crate) fn give_back(mut self, body: Option<Incoming>) {
        if let Some(Connection {
            channel: Channel::Http2(_),
            ..
        }) = self.connection
        {
            // Its place on the connection ends with the lease.
            return;
        }
        let Some(connection) = self.connection.take() else {
            return;
        };
        let endpoint = &self.endpoint;
        let reusable = self.progress.ended.get()
            && connection.channel.is_ready()
            && endpoint.is_current(&connection.lead)
            && endpoint.idle.borrow().len() < MAX_IDLE;
        if reusable {
            connection.complete(body);
            endpoint.idle.borrow_mut().push(Idle {
                connection,
                since: clock::now(),
            });
            endpoint.open.service.free();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.under_way.set(self.endpoint.under_way.get() - 1);
        let connection = self.connection.take();
        if let Some(Channel::Http2(_)) = connection.as_ref().map(|connection| &connection.channel) {
            drop(connection);
            self.endpoint.open.service.free();
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
