//! One of two upstreams is lost, and returns.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::ground::Ground;
use crate::data_path::support::{eventually, in_time};

/// How an upstream is lost.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// Its connections break, whatever is under way.
    Killed,
    /// It says good-bye on each connection, and answers what is under way.
    Drained,
}

/// How often each is lost.
pub(super) const TIMES: usize = 5;

pub(super) const WAYS: [Way; 2] = [Way::Killed, Way::Drained];

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Drained => "drained",
        })
    }
}

/// An upstream that speaks HTTP/1.1 and, by prior knowledge, HTTP/2.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    served: Arc<AtomicUsize>,
    drain: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(super) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, draining) = watch::channel(false);
        let served = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, draining, Arc::clone(&served)));
        Self {
            address,
            served,
            drain,
            task,
        }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    async fn end(mut self, way: Way) {
        match way {
            Way::Killed => self.task.abort(),
            Way::Drained => self.drain.send(true).unwrap(),
        }
        // A task that was aborted says so.
        drop(in_time("the upstream ends", &mut self.task).await);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, draining: watch::Receiver<bool>, served: Arc<AtomicUsize>) {
    // They end with the upstream.
    let mut serving = JoinSet::new();
    let mut ends = draining.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                serving.spawn(serve(stream, draining.clone(), Arc::clone(&served)));
            }
            _ = ends.wait_for(|drains| *drains) => break,
        }
    }
    drop(listener);
    while serving.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, mut draining: watch::Receiver<bool>, served: Arc<AtomicUsize>) {
    let service = service_fn(move |_: Request<Incoming>| {
        let served = Arc::clone(&served);
        async move {
            // So that something is under way whenever it is lost.
            tokio::time::sleep(Duration::from_millis(5)).await;
            served.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A client that goes away is no matter.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.wait_for(|drains| *drains) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}

/// Ends an upstream and starts it again where it was, some times, while the other is there; what is running in the end.
pub(super) async fn lose_and_return(ground: &Ground, upstream: Option<Upstream>, way: Way) -> Upstream {
    let mut upstream = upstream.unwrap();
    let other = ground.upstreams.iter().flatten().next().unwrap();
    for _ in 0..TIMES {
        eventually("it is in use", async || upstream.served() > 0).await;
        let address = upstream.address;
        upstream.end(way).await;
        let before = other.served();
        // Whatever was under way has ended: no request meets two losses.
        ground.load.goes_on("one is lost").await;
        assert!(other.served() > before);
        upstream = Upstream::start_at(address).await;
    }
    eventually("it is in use again", async || upstream.served() > 0).await;
    ground.load.goes_on("both are there").await;
    upstream
}
