//! One worker's connections to one endpoint.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::MutexGuard, time::Instant};

use super::{
    UpstreamError,
    endpoint::SharedEndpoint,
    http2::{Connections, Stream},
    resolve,
};
use crate::{
    gateway::{
        body::{Progress, RequestBody},
        counters::EndpointCells,
    },
    policy::model::Protocol,
};

/// Idle connections that one worker keeps to one endpoint.
const MAX_IDLE: usize = 256;
/// How long an idle connection is kept. Less than the usual 60 s and more of servers.
const KEEP_IDLE: Duration = Duration::from_secs(30);

/// An endpoint, as one worker sees it.
#[derive(Debug)]
pub(in crate::gateway) struct LocalEndpoint {
    pub(in crate::gateway) shared: Arc<SharedEndpoint>,
    pub(in crate::gateway) cells: EndpointCells,
    under_way: Cell<usize>,
    /// The one used last is last.
    idle: RefCell<Vec<Idle>>,
    http2: Connections,
    /// Which address the next connection goes to.
    turn: Cell<usize>,
}

/// A connection that one request may use.
#[derive(Debug)]
pub(in crate::gateway) enum Sender {
    Http1(SendRequest<RequestBody>),
    Http2(Stream),
}

impl Sender {
    /// Sends a request.
    ///
    /// # Errors
    /// With the request, if the endpoint has seen nothing of it.
    pub(in crate::gateway) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(stream) => stream.send(request).await,
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection that serves a request, and the request's place in the endpoint's count.
#[derive(Debug)]
pub(in crate::gateway) struct Lease {
    pub(in crate::gateway) endpoint: Rc<LocalEndpoint>,
    sender: Option<Sender>,
    progress: Rc<Progress>,
}

impl LocalEndpoint {
    /// Without connections.
    #[must_use]
    pub(in crate::gateway) fn new(shared: Arc<SharedEndpoint>, cells: EndpointCells) -> Self {
        Self {
            shared,
            cells,
            under_way: Cell::new(0),
            idle: RefCell::default(),
            http2: Connections::default(),
            turn: Cell::new(0),
        }
    }

    /// Requests that this worker has there.
    #[must_use]
    pub(in crate::gateway) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// Closes connections that have been idle for too long or that the endpoint has closed.
    pub(in crate::gateway) fn sweep(&self, now: Instant) {
        self.idle
            .borrow_mut()
            .retain(|idle| now.duration_since(idle.since) < KEEP_IDLE && !idle.sender.is_closed());
        self.http2.sweep(now, KEEP_IDLE);
    }

    /// A connection that is open and free, if there is one.
    pub(in crate::gateway) async fn take_idle(&self, protocol: Protocol) -> Option<Sender> {
        if protocol == Protocol::Http2 {
            return self.http2.take().map(Sender::Http2);
        }
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            if idle.since.elapsed() >= KEEP_IDLE {
                // Those below it have been idle for longer.
                self.idle.borrow_mut().clear();
                return None;
            }
            let mut sender = idle.sender;
            if sender.ready().await.is_ok() {
                return Some(Sender::Http1(sender));
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// When the endpoint does not accept one in time.
    pub(in crate::gateway) async fn connect(
        &self,
        protocol: Protocol,
        within: Duration,
    ) -> Result<Sender, UpstreamError> {
        let endpoint = || self.shared.authority.to_string();
        let opening = async {
            let alone = match protocol {
                Protocol::Http1 => None,
                Protocol::Http2 => {
                    let alone = self.http2.opening.lock().await;
                    if let Some(stream) = self.http2.take() {
                        return Ok(Opened::Http2(stream));
                    }
                    Some(alone)
                }
            };
            let stream = self.open().await?;
            Ok::<_, std::io::Error>(Opened::New(stream, alone))
        };
        let opened = tokio::time::timeout(within, opening)
            .await
            .map_err(|_| UpstreamError::ConnectTimeout {
                endpoint: endpoint(),
                within,
            })?
            .map_err(|source| UpstreamError::Connect {
                endpoint: endpoint(),
                source,
            })?;
        let unspoken = |source| UpstreamError::Handshake {
            endpoint: endpoint(),
            source,
        };
        let stream = match opened {
            Opened::Http2(stream) => return Ok(Sender::Http2(stream)),
            Opened::New(stream, Some(alone)) => {
                let stream = self.http2.add(stream).await.map_err(unspoken)?;
                drop(alone);
                return Ok(Sender::Http2(stream));
            }
            Opened::New(stream, None) => stream,
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unspoken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an endpoint broke");
            }
        });
        Ok(Sender::Http1(sender))
    }

    async fn open(&self) -> std::io::Result<TcpStream> {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let mut address = nth(&self.shared.addresses(), turn);
        if address.is_none() {
            address = nth(&resolve::look_up(&self.shared).await?, turn);
        }
        let address = address.ok_or(std::io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What connecting has come to.
enum Opened<'a> {
    /// Somebody else has opened a connection in the meantime.
    Http2(Stream),
    New(TcpStream, Option<MutexGuard<'a, ()>>),
}

fn nth(addresses: &[SocketAddr], turn: usize) -> Option<SocketAddr> {
    Some(addresses[turn.checked_rem(addresses.len())?])
}

impl Lease {
    /// Counts a request at `endpoint`, without a connection yet.
    #[must_use]
    pub(in crate::gateway) fn new(endpoint: Rc<LocalEndpoint>, progress: Rc<Progress>) -> Self {
        endpoint.under_way.set(endpoint.under_way.get() + 1);
        Self {
            endpoint,
            sender: None,
            progress,
        }
    }

    /// Gives the lease its connection.
    pub(in crate::gateway) fn hold(&mut self, sender: Sender) -> &mut Sender {
        self.sender.insert(sender)
    }

    /// The response is complete. The connection is used again, unless the endpoint answered before
    /// it had the whole request: then the rest of it is still on its way.
    pub(in crate::gateway) fn give_back(mut self) {
        // A connection of HTTP/2 is free again once the place on it is dropped.
        let Some(Sender::Http1(sender)) = self.sender.take() else {
            return;
        };
        let mut idle = self.endpoint.idle.borrow_mut();
        if self.progress.ended.get() && !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.under_way.set(self.endpoint.under_way.get() - 1);
    }
}
