//! A crowd beside a busy client: connections that have served a request and say no more, and slow ones that say a byte
//! a second or read next to nothing. One that the proxy cuts comes again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
};

use super::{
    ground::Ground,
    proxy::{Proxy, Standing},
    work::{self, Case, Sample},
};
use crate::{
    bench::median,
    client::{Ask, Client, Connection, Protocol},
    demo::policies::HOST,
};

/// How often a slow connection says or reads something.
const DRIP: Duration = Duration::from_secs(1);
/// What a slow reader takes at a time, and what its socket takes in.
const SIP: usize = 1024;
const CUP: u32 = 4096;
/// What it asks for: more than the sockets on the way hold (`tcp_wmem` and `tcp_rmem` of Linux end at 4 and 6 MiB).
const RIVER: &str = "GET /33554432";
/// Time for slow connections to come in.
const GATHERING: Duration = Duration::from_secs(6);
/// A TLS record of a ClientHello begins like this (RFC 8446 sections 4.1.2 and 5.1), and the rest is never sent.
const HELLO: [u8; 6] = [22, 3, 1, 2, 0, 1];

/// How many there are.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Size {
    pub idle: usize,
    pub slow: usize,
}

/// What a busy client felt; medians over the rounds, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Felt {
    pub(super) proxy: &'static str,
    pub(super) alone: Latency,
    pub(super) beside: Latency,
    /// Times that the proxy ended a slow connection meanwhile.
    pub(super) cut: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// What is slow about a connection.
#[derive(Clone, Copy)]
enum Slow {
    Handshake,
    Head,
    Body,
    Reading,
}

impl Slow {
    const ALL: [Self; 4] = [Self::Handshake, Self::Head, Self::Body, Self::Reading];
}

impl Latency {
    fn of(samples: &[Sample]) -> Self {
        let of = |figure: fn(&Sample) -> f64| median(&samples.iter().map(figure).collect::<Vec<_>>());
        Self {
            p50: of(|sample| sample.p50),
            p99: of(|sample| sample.p99),
        }
    }
}

/// Measures a busy client alone, in the crowd, and alone again, `rounds` times each.
pub(super) fn felt(standing: &Standing, size: Size, rounds: usize, ground: &Ground) -> Result<Felt> {
    let busy = || -> Result<Vec<Sample>> {
        (0..rounds)
            .map(|_| standing.measure(Case::Http1, ground))
            .collect()
    };
    let mut alone = busy()?;
    let client = ground.client(standing.address(), Protocol::Http1)?;
    let token = ground.token()?;
    let ask = Ask::get("/small").with_token(&token)?;
    let (idle, slow) = (client.clone(), client.with_receive_buffer(CUP));
    let open = ground
        .crowd
        .wait(async move { gather(&idle, &ask, size.idle).await })??;
    let cut = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&cut);
    let tasks = ground.crowd.wait(async move {
        let mut tasks = JoinSet::new();
        for number in 0..size.slow {
            let kind = Slow::ALL[number % Slow::ALL.len()];
            let begins = DRIP.mul_f64(number as f64 / size.slow as f64);
            let (client, token, cut) = (slow.clone(), token.clone(), Arc::clone(&counting));
            drop(tasks.spawn(async move {
                tokio::time::sleep(begins).await;
                loop {
                    // How it ends is the proxy's affair; that it has begun and ended is what counts.
                    let _ended = linger(kind, &client, &token, &cut).await;
                    tokio::time::sleep(DRIP).await;
                }
            }));
        }
        tokio::time::sleep(GATHERING).await;
        tasks
    })?;
    let before = cut.load(Ordering::Relaxed);
    let beside = busy()?;
    let cut = cut.load(Ordering::Relaxed) - before;
    drop(tasks);
    drop(open);
    alone.extend(busy()?);
    Ok(Felt {
        proxy: standing.proxy.key(),
        alone: Latency::of(&alone),
        beside: Latency::of(&beside),
        cut,
    })
}

/// Opens connections and has each serve a request.
pub(super) async fn gather(client: &Client, ask: &Ask, count: usize) -> Result<Vec<Connection>> {
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let connection = work::open(client, ask).await;
        open.push(connection.with_context(|| format!("connection {number}"))?);
    }
    Ok(open)
}

/// Goes on until the proxy ends it.
async fn linger(kind: Slow, client: &Client, token: &str, ends: &AtomicU64) -> Result<()> {
    let ended = if matches!(kind, Slow::Handshake) {
        let mut stream = client.connect_tcp().await?;
        stream.write_all(&HELLO).await?;
        drip(stream, 0).await
    } else {
        let stream = client.connect_raw().await?.context("the client has no TLS")?;
        dawdle(kind, stream, token).await
    };
    ends.fetch_add(1, Ordering::Relaxed);
    ended.map_err(Into::into)
}

/// A request that takes its time.
async fn dawdle(kind: Slow, mut stream: impl AsyncRead + AsyncWrite + Unpin, token: &str) -> io::Result<()> {
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n");
    match kind {
        Slow::Handshake | Slow::Head => {
            stream
                .write_all((head("GET /small") + "x-slow: ").as_bytes())
                .await?;
            drip(stream, b'x').await?;
        }
        Slow::Body => {
            let head = head("POST /small") + "content-length: 1000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            drip(stream, b'x').await?;
        }
        Slow::Reading => {
            stream.write_all((head(RIVER) + "\r\n").as_bytes()).await?;
            let mut sip = [0; SIP];
            while stream.read(&mut sip).await? > 0 {
                tokio::time::sleep(DRIP).await;
            }
        }
    }
    Ok(())
}

/// Says a byte a second until the proxy answers or ends the connection.
async fn drip(stream: impl AsyncRead + AsyncWrite, byte: u8) -> io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut answer = [0; SIP];
    let saying = async {
        loop {
            tokio::time::sleep(DRIP).await;
            writing.write_all(&[byte]).await?;
            writing.flush().await?;
        }
    };
    tokio::select! {
        ended = saying => ended,
        answered = reading.read(&mut answer) => answered.map(drop),
    }
}

/// Prints what was felt.
pub(super) fn print(felt: &[Felt], size: Size) {
    println!(
        "\nA busy client (HTTP/1.1) beside {} idle and {} slow connections, milliseconds\n",
        size.idle, size.slow
    );
    println!(
        "{:36}{:>10}{:>12}{:>10}{:>12}{:>8}{:>12}",
        "", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "ratio", "slow cut"
    );
    for felt in felt {
        let title = Proxy::ALL.into_iter().find(|proxy| proxy.key() == felt.proxy);
        let [p50, beside50, p99, beside99] =
            [felt.alone.p50, felt.beside.p50, felt.alone.p99, felt.beside.p99]
                .map(|microseconds| microseconds / 1000.0);
        println!(
            "{:36}{p50:>10.2}{beside50:>12.2}{p99:>10.2}{beside99:>12.2}{:>8.2}{:>12}",
            title.map_or(felt.proxy, Proxy::title),
            beside99 / p99,
            felt.cut
        );
    }
}
