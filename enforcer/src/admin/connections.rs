//! Accepts connections and answers what comes over them, each within its time.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION},
    response::IntoResponse as _,
};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
};

use super::{
    guard::Caller,
    places::{Places, Seat, Stage},
};

/// The largest head of a request, in bytes.
const LARGEST_HEAD: usize = 16 << 10;
/// How long to wait when nothing can be accepted, as without file descriptors.
const RESPITE: Duration = Duration::from_millis(100);
/// When the kernel asks a silent peer whether it is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Io>, Caller)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A peer that has gone without a word would else be a reader of events for ever.
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok((Box::new(stream), Caller::default()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Box::new(stream), Caller::of(uid)))
            }
        }
    }
}

/// Accepts connections and has `router` answer, without an end.
pub(super) async fn serve(listener: Listener, places: Arc<Places>, router: Router) {
    loop {
        match listener.accept().await {
            Ok((stream, caller)) => {
                let seat = places.take().await;
                let io = Watched {
                    stream,
                    seat: Arc::clone(&seat),
                };
                tokio::spawn(converse(io, seat, caller, router.clone()));
                // What has been sent already is read before another can have the place.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::debug!(%error, "the admin address accepts nothing");
                tokio::time::sleep(RESPITE).await;
            }
        }
    }
}

/// Answers what comes over a connection until it ends, has had its time, or its place is wanted.
async fn converse(io: Watched, seat: Arc<Seat>, caller: Caller, router: Router) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let (seat, router) = (Arc::clone(&seat), router.clone());
        async move { Ok::<_, Infallible>(answer(request, seat, caller, router).await) }
    });
    // Times are the place's: hyper's own for heads goes on while a connection is idle.
    let connection = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .half_close(false)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the admin address ended");
        },
        () = seat.over() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    seat: Arc<Seat>,
    caller: Caller,
    router: TowerToHyperService<Router>,
) -> Response<Body> {
    let stage = match request.uri().path() {
        "/healthz" | "/readyz" => Stage::Probe,
        _ => Stage::Request,
    };
    if seat.begin(stage).is_err() {
        seat.refuse();
        let text = "too many requests are under way here: ask again in a moment\n";
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        return response.map(|body| Body::new(Counted { body, seat }));
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(Arc::clone(&seat));
    let response = match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    response.map(|body| Body::new(Counted { body, seat }))
}

/// The body of an answer. Dropping it ends the answer.
struct Counted {
    body: Body,
    seat: Arc<Seat>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.seat.finished();
    }
}

/// A connection that tells its place what goes over it.
struct Watched {
    stream: Box<dyn Io>,
    seat: Arc<Seat>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.seat.heard();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.seat.taken(polled.is_ready());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
