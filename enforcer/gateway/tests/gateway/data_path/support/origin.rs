//! An upstream that says what it got.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

/// An upstream on loopback.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    task: JoinHandle<()>,
}

pub(crate) struct State {
    /// The heads of requests, in order.
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) requests: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    pub(crate) healthy: AtomicBool,
    /// Requests to `/held` wait for a permit.
    pub(crate) gate: Semaphore,
    /// Four requests at a time to `/narrow` are worked on.
    narrow: Semaphore,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

type Answer = Response<Either<Full<Bytes>, Incoming>>;

impl Origin {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// At an address where one may have been before.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            gate: Semaphore::new(0),
            narrow: Semaphore::new(4),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // They end with the origin.
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Cuts its connections and listens no longer.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // It says that it was aborted.
        drop((&mut self.task).await);
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The last request's head.
    pub(crate) fn last(&self) -> Seen {
        self.state.seen.lock().unwrap().last().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    // A client that goes away is no matter.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

async fn answer(state: &State, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        let healthy = state.healthy.load(Ordering::SeqCst);
        let status = if healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        return plain(status, "");
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    state.seen.lock().unwrap().push(Seen {
        target: request.uri().to_string(),
        headers: request.headers().clone(),
    });
    match path.as_str() {
        "/echo" => Response::new(Either::Right(request.into_body())),
        "/held" => {
            state.gate.acquire().await.unwrap().forget();
            plain(StatusCode::OK, "released")
        }
        "/narrow" => {
            let _place = state.narrow.acquire().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            plain(StatusCode::OK, "narrow")
        }
        "/large" => plain(StatusCode::OK, vec![b'x'; 64 << 20]),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            plain(StatusCode::OK, "slow")
        }
        "/length" => match request.into_body().collect().await {
            Ok(body) => plain(StatusCode::OK, body.to_bytes().len().to_string()),
            Err(error) => plain(StatusCode::BAD_REQUEST, error.to_string()),
        },
        "/hop" => {
            let mut response = plain(StatusCode::OK, "hop");
            let fields = response.headers_mut();
            fields.insert("connection", "x-internal".parse().unwrap());
            fields.insert("x-internal", "1".parse().unwrap());
            fields.insert("keep-alive", "timeout=5".parse().unwrap());
            fields.insert("x-kept", "1".parse().unwrap());
            response
        }
        _ => plain(StatusCode::OK, "ok"),
    }
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response
}
