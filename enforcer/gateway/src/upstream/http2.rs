//! One worker's HTTP/2 connections to one endpoint: by TLS where it is agreed on there (RFC 9113 section 3.2), else
//! by prior knowledge (section 3.3).

use std::{
    cell::{Cell, RefCell},
    error::Error,
    rc::Rc,
    time::Duration,
};

use http::{
    Request, Response, Uri, Version,
    header::{CONNECTION, HOST, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex,
    time::Instant,
};

use super::pool::{Lead, Slot};
use crate::{
    body::RequestBody,
    clock::{self, FrameTimer},
    connection::OnThisWorker,
};

/// Requests that share one connection.
const MAX_STREAMS: u32 = 100;
/// What an endpoint may send ahead on one stream, in bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// All streams together have as much as each of them: a client that does not read holds up nobody else.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// How much of a request waits for the endpoint to take it, for each stream, in bytes.
const STREAM_BUFFER: usize = 64 * 1024;
/// Bytes of a response's head.
const MAX_HEAD: u32 = 32 * 1024;
/// How often an endpoint is pinged while it owes something, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);

/// How an endpoint says that it has not acted on a request, so that any may be sent again (RFC 9113 section 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untouched {
    /// `REFUSED_STREAM`.
    Stream,
    /// `GOAWAY`, with a last stream below the request's.
    GoAway,
}

impl Untouched {
    pub(super) fn of(error: &hyper::Error) -> Option<Self> {
        let error = error.source()?.downcast_ref::<h2::Error>()?;
        if !error.is_remote() {
            return None;
        }
        if error.is_go_away() {
            // Only streams above the last one end by it; those below go on.
            return Some(Self::GoAway);
        }
        (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)).then_some(Self::Stream)
    }
}

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<Vec<Rc<Shared>>>,
    /// Held by who opens one: others wait for it, instead of opening one each.
    pub(super) opening: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    sender: SendRequest<RequestBody>,
    lead: Lead,
    /// Streams go on after the endpoint has said that it takes no more (GOAWAY), and hyper's connection has ended.
    _slot: Rc<Slot>,
    streams: Cell<u32>,
    /// The endpoint has said that it takes no more.
    leaves: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// A place on a connection.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Shared>);

impl Connections {
    /// Whether one that is open has a place.
    pub(super) fn has_room(&self, is_current: impl Fn(&Lead) -> bool) -> bool {
        let is_free = |shared: &Rc<Shared>| {
            shared.streams.get() < MAX_STREAMS && !shared.is_closed() && is_current(&shared.lead)
        };
        self.open.borrow().iter().any(is_free)
    }

    /// A place on a connection that is open and leads where the endpoint is; others take no more requests.
    pub(super) fn take(&self, is_current: impl Fn(&Lead) -> bool) -> Option<Stream> {
        let mut open = self.open.borrow_mut();
        open.retain(|shared| !shared.is_closed() && is_current(&shared.lead));
        let free = open.iter().find(|shared| shared.streams.get() < MAX_STREAMS)?;
        Some(Stream::on(Rc::clone(free)))
    }

    /// A place on a connection that `stream` becomes; `slot` lives as long as that.
    ///
    /// # Errors
    /// When the connection's first bytes cannot be sent.
    pub(super) async fn add<S>(&self, stream: S, lead: Lead, slot: Rc<Slot>) -> hyper::Result<Stream>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(OnThisWorker)
            .timer(FrameTimer)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_BUFFER)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .handshake(TokioIo::new(stream))
            .await?;
        let held = Rc::clone(&slot);
        tokio::task::spawn_local(async move {
            let _slot = held;
            if let Err(error) = clock::in_moments(connection).await {
                tracing::debug!(%error, "a connection to an endpoint broke");
            }
        });
        let shared = Rc::new(Shared {
            sender,
            lead,
            _slot: slot,
            streams: Cell::new(0),
            leaves: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        });
        self.open.borrow_mut().push(Rc::clone(&shared));
        Ok(Stream::on(shared))
    }

    /// Closes connections that have been idle for `keep`, and those that the endpoint has closed.
    pub(super) fn sweep(&self, now: Instant, keep: Duration) {
        self.open.borrow_mut().retain(|shared| {
            let used = shared.streams.get() > 0 || now.duration_since(shared.idle_since.get()) < keep;
            used && !shared.is_closed()
        });
    }
}

impl Shared {
    /// Whether it takes no more requests.
    fn is_closed(&self) -> bool {
        self.leaves.get() || self.sender.is_closed()
    }
}

impl Stream {
    fn on(shared: Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self(shared)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    pub(super) fn lead(&self) -> Lead {
        self.0.lead
    }

    /// Sends a request with a [`head`] of HTTP/2.
    ///
    /// # Errors
    /// With the request, if the endpoint has seen nothing of it.
    pub(super) async fn send(
        &self,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        if self.0.lead.tls.is_some() {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::HTTPS);
            // What has an authority and a path is a URI with either scheme.
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        let sent = self.0.sender.clone().try_send_request(*request).await;
        if let Err(error) = &sent
            && Untouched::of(error.error()) == Some(Untouched::GoAway)
        {
            self.0.leaves.set(true);
        }
        sent
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(clock::now());
    }
}

/// Makes a head of HTTP/1.1 one of HTTP/2 without TLS (RFC 9113 section 8.3.1).
///
/// # Errors
/// When its host is none.
pub(super) fn head<B>(request: &mut Request<B>) -> Result<(), http::Error> {
    let host = request.headers_mut().remove(HOST);
    let host = host.as_ref().map_or(&b""[..], |host| host.as_bytes());
    let mut parts = request.uri().clone().into_parts();
    parts.authority = Some(Authority::try_from(host)?);
    parts.scheme = Some(Scheme::HTTP);
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(TRANSFER_ENCODING);
    Ok(())
}
