//! One connection of a client: handshake, who is behind it, requests, end.

use std::{
    cell::{Cell, OnceCell},
    convert::Infallible,
    error::Error,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

use super::{
    activity::{Activity, Watched},
    audited::Unmade,
    body::ResponseBody,
    clock::{self, FrameTimer},
    driving::{Driven, drive},
    greeting::{Ungreeted, Welcome, greet},
    hold::Held,
    identity::{repeated::Repeated, token::VerifiedToken},
    listener::ListenerContext,
    live::Mark,
    metrics::Handshake,
    passthrough,
    proxy_protocol::{self, Whose},
    request,
    revocation::Proofs,
    socket::Socket,
    spoken::Peer,
    tunnel::Tunnel,
    worker::{Place, Worker, reset},
};
use enforcer_model::ApiKey;
use enforcer_model::flow::{Certified, Class, Flow, Identity};
use enforcer_tls::certificate::ClientCertificate;

/// Bytes of a request's head: hyper answers 431 beyond.
const MAX_HEAD: usize = 32 * 1024;
/// Bytes that HTTP/1.1 buffers in each direction of a connection.
const MAX_BUFFER: usize = 64 * 1024;
/// Requests of one HTTP/2 connection that are under way.
const MAX_STREAMS: u32 = 100;
/// Streams that an HTTP/2 client may reset before the gateway has looked at them (CVE-2023-44487),
/// and that its errors may make the gateway reset; beyond, the connection ends.
const MAX_RESETS: usize = 64;
/// How much an HTTP/2 client may send ahead, for a stream and for its connection, in bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// How much of a response waits for an HTTP/2 client to read it, for each stream, in bytes.
const STREAM_BUFFER: usize = 64 * 1024;
/// How often a quiet HTTP/2 client is pinged, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How often a verified connection that has requests keeps its source among those that come first.
const SEEN: Duration = Duration::from_secs(60);

/// A client's connection, as its requests see it.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Arc<ListenerContext>,
    /// As the kernel sees it.
    pub(super) flow: Flow,
    /// Whose it is.
    pub(super) whose: Whose,
    /// The address that stands for it.
    pub(super) client: SocketAddr,
    pub(super) mark: Rc<Mark>,
    /// Verified by the handshake.
    pub(super) certificate: Option<ClientCertificate>,
    /// The token that its requests sent twice in a row.
    pub(super) repeated: Repeated,
    pub http2: bool,
    pub(super) activity: Rc<Activity>,
    standing: Cell<Standing>,
    /// When its source was last remembered as verified.
    seen: Cell<Instant>,
    /// What the kernel takes it for.
    pub(super) class: Cell<Class>,
    /// Where its bytes go after the response that is being sent, if that switches protocols.
    pub(super) tunnel: Cell<Option<Box<Tunnel>>>,
    /// Made once there is a request to tell a service of.
    told: OnceCell<Peer>,
}

/// What the observer knows of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Verified,
    Closed,
}

/// A request under way, for as long as its response's body lasts.
pub(super) struct UnderWay {
    connection: Rc<Connection>,
    /// What it rests on.
    _held: Option<Held>,
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnThisWorker;

/// Serves `stream` until it ends.
pub(super) async fn serve(place: Place, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    // Without it small responses wait for acknowledgements; a socket that refuses is about to fail.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let flow = Flow {
        peer: unmapped(peer),
        local: unmapped(local),
    };
    let seat = place.worker.live.enter(flow);
    let socket = Socket::new(stream, Rc::clone(&seat.mark));
    tokio::select! {
        biased;
        // What is under way is dropped with its socket, which is closed by a reset.
        () = seat.mark.revoked() => tracing::debug!(peer = %flow.peer, "connection revoked"),
        () = begin(place, socket, flow, &seat.mark) => {}
    }
}

async fn begin(mut place: Place, mut stream: Socket, flow: Flow, mark: &Rc<Mark>) {
    let mut whose = Whose::Peer(flow.peer);
    if place.listener.is_proxied(flow.peer.ip()) {
        match proxy_protocol::introduced(&mut place, &mut stream, flow).await {
            Ok(introduced) => whose = introduced,
            Err(refused) => {
                place.worker.metrics.handshake(&place.listener, refused);
                return reset(stream.tcp());
            }
        }
        mark.belongs_to(whose);
    }
    let Place { worker, listener, .. } = &place;
    match &listener.tls {
        None => {
            let connection = Connection::new(&place, (flow, whose), mark, None, false);
            Box::pin(converse(connection, stream)).await;
        }
        Some(tls) => {
            let known = worker.admission.verified.is_recent(whose.address().ip());
            let seat = place.handshakes.begin(whose.address().ip(), known);
            // What a generation passes through is what it passes through at the hello.
            let policy = worker.policy();
            let greeting = greet(tls, stream, &listener.name, &policy.generation.router);
            let greeting = tokio::time::timeout(listener.timeouts.handshake, greeting);
            let greeted = tokio::select! {
                biased;
                greeted = greeting => greeted.unwrap_or(Err(Ungreeted::TooSlow)),
                () = seat.given_up() => Err(Ungreeted::GivenUp),
            };
            drop(seat);
            let result = match &greeted {
                Ok(Welcome::Greeted(_)) => Handshake::Completed,
                Ok(Welcome::Passing(_)) => Handshake::Passed,
                Err(reason) => reason.counts_as(),
            };
            worker.metrics.handshake(listener, result);
            match greeted {
                Ok(Welcome::Passing(passing)) => {
                    // Who it is is for the service to ask.
                    mark.begun();
                    Box::pin(passthrough::pass(&place, whose.address(), policy, *passing)).await;
                }
                Ok(Welcome::Greeted(greeted)) => {
                    let greeted = *greeted;
                    drop(policy);
                    if let Some(proof) = greeted.proof {
                        mark.prove(proof);
                    }
                    let (certificate, http2) = (greeted.certificate, greeted.http2);
                    let connection = Connection::new(&place, (flow, whose), mark, certificate, http2);
                    Box::pin(converse(connection, greeted.stream)).await;
                }
                Err(reason) => {
                    let unmade = Unmade {
                        result,
                        reason: reason.label(),
                        detail: &reason.told(),
                    };
                    unmade.audit(&place, whose);
                    if reason.is_forged() {
                        blame(worker, whose);
                    } else if reason.is_bad_proof() {
                        attempted(worker, whose);
                    }
                    let (listener, peer) = (&listener.name, whose.address());
                    tracing::debug!(%listener, %peer, error = &reason as &dyn Error, "no TLS connection");
                }
            }
        }
    }
}

/// A credential was forged or guessed. A load balancer is never blamed for its clients, whether it names them or not;
/// the kernel does not see the addresses that it names, so it has no use for them.
pub(super) fn blame(worker: &Worker, whose: Whose) {
    attempted(worker, whose);
    match whose {
        Whose::Peer(peer) => worker.observer.authentication_failed(peer.ip()),
        Whose::Behind { proxy, .. } => worker.observer.authentication_failed_behind(proxy.ip()),
    }
}

/// A credential was refused. Clients that a load balancer does not name are not counted as one.
pub(super) fn attempted(worker: &Worker, whose: Whose) {
    if let Some(source) = whose.source() {
        worker.attempted(source);
    }
}

impl Connection {
    fn new(
        place: &Place,
        (flow, whose): (Flow, Whose),
        mark: &Rc<Mark>,
        certificate: Option<ClientCertificate>,
        http2: bool,
    ) -> Rc<Self> {
        let connection = Self {
            worker: Rc::clone(&place.worker),
            listener: Arc::clone(&place.listener),
            flow,
            whose,
            client: whose.address(),
            mark: Rc::clone(mark),
            certificate,
            repeated: Repeated::default(),
            http2,
            activity: Rc::new(Activity::new(http2, Instant::now())),
            standing: Cell::new(Standing::Unknown),
            seen: Cell::new(Instant::now()),
            class: Cell::new(Class::Unverified),
            tunnel: Cell::default(),
            told: OnceCell::new(),
        };
        if let Some(certificate) = &connection.certificate {
            connection.mark.rests.on_certificate(certificate);
            let proofs = Proofs {
                certificate: Some(certificate),
                ..Proofs::default()
            };
            if connection.worker.revoked(&proofs).is_none() {
                connection.verified(|| {
                    Identity::Certificate(Certified {
                        name: Arc::clone(&certificate.identity),
                        authority: certificate.authority.clone(),
                    })
                });
            }
        }
        Rc::new(connection)
    }

    /// Whether the client's certificate has expired since the handshake.
    pub(super) fn has_lapsed(&self) -> bool {
        self.mark
            .proof()
            .is_some_and(|proof| proof.has_expired(SystemTime::now()))
    }

    /// Whether it ends after what is under way: the gateway drains, or the listener is gone.
    pub(super) fn ends_soon(&self) -> bool {
        self.worker.is_draining() || self.listener.is_retired()
    }

    /// What services are told of the client.
    pub(super) fn told(&self) -> &Peer {
        self.told
            .get_or_init(|| Peer::of(self.client.ip(), self.certificate.as_ref()))
    }

    /// Whether it is switched to something else with the response that is being sent.
    pub(super) fn is_switched(&self) -> bool {
        let tunnel = self.tunnel.take();
        let is_switched = tunnel.is_some();
        self.tunnel.set(tunnel);
        is_switched
    }

    /// Whether the client's connection is TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.listener.tls.is_some()
    }

    /// A request of the connection rests on these.
    pub(super) fn hold(&self, token: Option<&Arc<VerifiedToken>>, key: Option<&Arc<ApiKey>>) -> Option<Held> {
        Held::new(&self.mark, token, key)
    }

    /// The peer has proved who it is, by what `held` rests on. Only the first proof is told.
    pub(super) fn verified_by(&self, held: &Held, identity: impl FnOnce() -> Identity) {
        if self.standing.get() == Standing::Unknown {
            self.mark.rests.identified_by(held);
            self.verified(identity);
        }
    }

    fn verified(&self, identity: impl FnOnce() -> Identity) {
        if self.standing.get() == Standing::Unknown {
            self.standing.set(Standing::Verified);
            let identity = identity();
            self.mark.identify(&identity);
            self.worker.admission.verified.saw(self.client.ip());
            self.class
                .set(self.worker.observer.verified(self.flow, &identity));
        }
    }

    /// Keeps the source of a verified connection among those that come first, at intervals.
    fn still_verified(&self) {
        let now = clock::now();
        if self.standing.get() == Standing::Verified && now >= self.seen.get() + SEEN {
            self.seen.set(now);
            self.worker.admission.verified.saw(self.client.ip());
        }
    }

    fn closed(&self) {
        if self.standing.replace(Standing::Closed) == Standing::Verified {
            self.worker.admission.verified.saw(self.client.ip());
            self.worker.observer.closed(self.flow);
        }
    }
}

/// Tells the observer when the connection's task ends, however it ends. Requests that hold the
/// connection may outlive it by a little.
struct Ending<'a>(&'a Connection);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl UnderWay {
    pub(super) fn new(connection: &Rc<Connection>) -> Self {
        connection.activity.request_begins();
        connection.mark.begun();
        connection.worker.request_begins();
        Self {
            connection: Rc::clone(connection),
            _held: None,
        }
    }

    /// The request has been admitted by these proofs, which it rests on.
    pub(super) fn rests_on(&mut self, held: Option<Held>) {
        self._held = held;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.connection.worker.request_ended();
        self.connection.activity.request_ended(clock::now());
        self.connection.mark.ended();
        self.connection.still_verified();
    }
}

impl<F: Future + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(clock::in_moments(future));
    }
}

async fn converse<T>(connection: Rc<Connection>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _ending = Ending(&connection);
    let io = TokioIo::new(Watched::new(stream, Rc::clone(&connection.activity)));
    let shared = Rc::clone(&connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Rc::clone(&shared);
        // On the heap for as long as the request lasts: an idle connection does not keep its place.
        let answer = Box::pin(request::answer(connection, request));
        answer.map(Ok::<Response<ResponseBody<UnderWay>>, Infallible>)
    });
    let result = if connection.http2 {
        let serving = http2::Builder::new(OnThisWorker)
            .timer(FrameTimer)
            .max_concurrent_streams(MAX_STREAMS)
            .enable_connect_protocol()
            .max_header_list_size(MAX_HEAD as u32)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_BUFFER)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(io, service);
        drive(&connection, serving, http2::Connection::graceful_shutdown)
            .await
            .map(|_| ())
    } else {
        let mut serving = http1::Builder::new()
            .half_close(false)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(io, service);
        let driven = drive(&connection, &mut serving, |serving| {
            Pin::new(&mut **serving.get_mut()).graceful_shutdown();
        });
        match driven.await {
            Ok(Driven::ToTheEnd) if let Some(tunnel) = connection.tunnel.take() => {
                // hyper ends a connection that is switched without closing it.
                let parts = serving.into_parts();
                let under_way = UnderWay::new(&connection);
                tokio::select! {
                    () = tunnel.run(parts.io.into_inner().into_inner(), parts.read_buf) => {}
                    () = connection.mark.lapses() => {}
                }
                drop(under_way);
                Ok(())
            }
            driven => driven.map(|_| ()),
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %connection.client, error = &error as &dyn Error, "a connection broke");
    }
}

/// An IPv4 address for an IPv4 peer of an IPv6 socket.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
