//! The work: what is asked of each proxy, and how long it takes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{sync::Barrier, task::JoinSet, time::Instant};

use super::{ground::Ground, process::Process, proxy::Proxy};
use crate::client::{Ask, Client, Connection, Protocol};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    Http1,
    Http2,
    /// A connection for each request, with a whole handshake.
    Handshake,
    /// A connection for each request, resumed where the proxy gives tickets.
    Resumed,
    Down64K,
    Down1M,
    Up64K,
    Up1M,
    /// Each request has a token that was never seen.
    ColdToken,
}

/// What a case is made of.
struct Shape {
    protocol: Protocol,
    connections: usize,
    /// Requests at a time on each connection.
    streams: usize,
    requests: u64,
    keep: bool,
    path: &'static str,
    upload: usize,
}

/// What was measured once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Processor time of the proxy per request, in microseconds.
    pub(super) microseconds: f64,
    pub(super) requests_per_second: f64,
    /// Latencies in microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Case {
    pub(super) const ALL: [Self; 9] = [
        Self::Http1,
        Self::Http2,
        Self::Handshake,
        Self::Resumed,
        Self::Down64K,
        Self::Down1M,
        Self::Up64K,
        Self::Up1M,
        Self::ColdToken,
    ];

    /// Those named; all if none is.
    pub(super) fn chosen(names: &[String]) -> Result<Vec<Self>> {
        for name in names {
            if !Self::ALL.iter().any(|case| case.key() == name) {
                let keys = Self::ALL.map(Self::key).join(", ");
                bail!("there is no case `{name}`: the cases are {keys}");
            }
        }
        let chosen = |case: &Self| names.is_empty() || names.iter().any(|name| name == case.key());
        Ok(Self::ALL.into_iter().filter(chosen).collect())
    }

    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::Down64K => "down_64k",
            Self::Down1M => "down_1m",
            Self::Up64K => "up_64k",
            Self::Up1M => "up_1m",
            Self::ColdToken => "cold_token",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::Down64K => "64 KiB down",
            Self::Down1M => "1 MiB down",
            Self::Up64K => "64 KiB up",
            Self::Up1M => "1 MiB up",
            Self::ColdToken => "new token",
        }
    }

    /// Whether the proxy does what the case is about.
    pub(super) const fn is_about(self, proxy: Proxy) -> bool {
        !matches!(self, Self::ColdToken) || proxy.reads_tokens()
    }

    const fn shape(self) -> Shape {
        let small = Shape {
            protocol: Protocol::Http1,
            connections: 64,
            streams: 1,
            // A second or so: the first requests of each connection, which cost more, are few of them.
            requests: 65_536,
            keep: true,
            path: "/small",
            upload: 0,
        };
        match self {
            Self::Http1 => small,
            Self::Http2 => Shape {
                protocol: Protocol::Http2,
                connections: 16,
                streams: 4,
                ..small
            },
            Self::Handshake | Self::Resumed => Shape {
                connections: 16,
                requests: 1_024,
                keep: false,
                ..small
            },
            Self::Down64K => Shape {
                connections: 16,
                requests: 2_048,
                path: "/65536",
                ..small
            },
            Self::Down1M => Shape {
                connections: 16,
                requests: 192,
                path: "/1048576",
                ..small
            },
            Self::Up64K => Shape {
                connections: 16,
                requests: 2_048,
                upload: 64 << 10,
                ..small
            },
            Self::Up1M => Shape {
                connections: 16,
                requests: 192,
                upload: 1 << 20,
                ..small
            },
            Self::ColdToken => Shape {
                requests: 2_048,
                ..small
            },
        }
    }
}

/// Requests to come: the same over and over, or each with a token of its own.
struct Queue {
    left: AtomicU64,
    each: Ask,
    tokens: Mutex<VecDeque<String>>,
}

impl Queue {
    fn next(&self) -> Option<Ask> {
        let more = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        more.ok()?;
        let token = self
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        match token {
            None => Some(self.each.clone()),
            Some(token) => {
                let mut ask = self.each.clone();
                ask.headers.clear();
                ask.with_token(&token).ok()
            }
        }
    }
}

/// Does a case's work once.
pub(super) fn measure(case: Case, proxy: &super::Standing, ground: &Ground) -> Result<Sample> {
    let shape = case.shape();
    let mut client = ground.client(proxy.address(), shape.protocol)?;
    if case == Case::Handshake {
        client = client.without_resumption();
    }
    let mut each = Ask::get(shape.path).with_token(&ground.token()?)?;
    if shape.upload > 0 {
        each.method = Method::POST;
        each.body = Bytes::from(vec![b'x'; shape.upload]);
    }
    let mut tokens = VecDeque::new();
    if case == Case::ColdToken {
        for _ in 0..shape.requests {
            tokens.push_back(ground.token()?);
        }
    }
    let queue = Queue {
        left: AtomicU64::new(shape.requests),
        each,
        tokens: Mutex::new(tokens),
    };
    ground
        .load
        .wait(drive(client, shape, Arc::new(queue), proxy.process))?
}

async fn drive(client: Client, shape: Shape, queue: Arc<Queue>, proxy: Process) -> Result<Sample> {
    let lanes = shape.connections * shape.streams;
    let barrier = Arc::new(Barrier::new(lanes + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..shape.connections {
        let mut first = None;
        for stream in 0..shape.streams {
            let connection = match &first {
                Some(connection) => Connection::shared(connection),
                None => Some(open(&client, &queue.each).await?),
            };
            if stream == 0 {
                first = connection.as_ref().and_then(Connection::shared);
            }
            let lane = Lane {
                client: client.clone(),
                connection: connection.filter(|_| shape.keep),
                queue: Arc::clone(&queue),
            };
            let barrier = Arc::clone(&barrier);
            drop(tasks.spawn(async move {
                barrier.wait().await;
                lane.run().await
            }));
        }
    }
    let (time, began) = (proxy.time_ns()?, Instant::now());
    barrier.wait().await;
    let mut latencies: Vec<u64> = Vec::new();
    while let Some(lane) = tasks.join_next().await {
        latencies.extend(lane.context("a client panicked")??);
    }
    let (took, time) = (began.elapsed(), proxy.time_ns()? - time);
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |percent: usize| latencies.get((count * percent / 100).min(count.saturating_sub(1)));
    let microseconds = |ns: Option<&u64>| ns.map_or(0.0, |&ns| ns as f64 / 1e3);
    Ok(Sample {
        microseconds: time as f64 / 1e3 / count as f64,
        requests_per_second: count as f64 / took.as_secs_f64(),
        p50: microseconds(at(50)),
        p99: microseconds(at(99)),
    })
}

/// A connection that has served a request.
pub(super) async fn open(client: &Client, ask: &Ask) -> Result<Connection> {
    let mut connection = client.connect().await?;
    send(&mut connection, ask).await?;
    Ok(connection)
}

async fn send(connection: &mut Connection, ask: &Ask) -> Result<()> {
    let answer = connection.send(ask).await?;
    if answer.status != StatusCode::OK {
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        bail!("the proxy answers {}: {body}", answer.status);
    }
    Ok(())
}

/// One request after the other.
struct Lane {
    client: Client,
    /// `None`: each request has its own.
    connection: Option<Connection>,
    queue: Arc<Queue>,
}

impl Lane {
    /// Latencies in nanoseconds.
    async fn run(mut self) -> Result<Vec<u64>> {
        let mut latencies = Vec::new();
        while let Some(ask) = self.queue.next() {
            let began = Instant::now();
            match &mut self.connection {
                Some(connection) => send(connection, &ask).await?,
                None => drop(open(&self.client, &ask).await?),
            }
            latencies.push(u64::try_from(began.elapsed().as_nanos())?);
        }
        Ok(latencies)
    }
}
