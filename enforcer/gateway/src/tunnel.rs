//! Bytes that are handed on unread, between a client and a service.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    activity::Touched,
    hold::Held,
    upstream::{line::Line, pool::Lease},
};

/// What hyper and sockets hold for each direction is little; this much is on its way besides, in bytes.
const BUFFER: usize = 8 * 1024;

/// How often the wall clock is looked at again, which may be set.
const LOOK: Duration = Duration::from_secs(10);

/// The service's side of a switched connection.
#[derive(Debug)]
pub(super) struct Tunnel {
    service: Far,
    idle: Duration,
    /// What the request that asked for it rests on.
    held: Option<Held>,
}

/// What leads to the service.
#[derive(Debug)]
enum Far {
    /// The connection on which it has switched.
    Switched(OnUpgrade, Lease),
    Line(Line),
}

impl Tunnel {
    /// The connection on which the service has answered 101; it is ended when nothing moves on it for `idle`.
    pub(super) fn new(service: OnUpgrade, lease: Lease, idle: Duration, held: Option<Held>) -> Self {
        Self {
            service: Far::Switched(service, lease),
            idle,
            held,
        }
    }

    /// A connection of its own to the service.
    pub(super) fn open(line: Line, idle: Duration, held: Option<Held>) -> Self {
        Self {
            service: Far::Line(line),
            idle,
            held,
        }
    }

    /// Hands bytes on until both sides are closed, one breaks, nothing moves for too long, or what the request
    /// rests on holds no more. `ahead` is what the client has sent already.
    pub(super) async fn run<C>(self, client: C, ahead: Bytes)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let ends = self.held.as_ref().and_then(Held::ends);
        let joined = async {
            match self.service {
                Far::Switched(service, _lease) => {
                    if let Ok(service) = service.await {
                        join(client, ahead, TokioIo::new(service), self.idle).await;
                    }
                }
                Far::Line(line) => join(client, ahead, line, self.idle).await,
            }
        };
        tokio::select! {
            () = joined => {}
            () = reached(ends) => tracing::debug!("what a switched connection rests on has expired"),
        }
    }
}

/// Hands bytes on in both directions until both are closed, one breaks, or nothing moves for `idle`. A half that is
/// closed is closed on the other side, and the other goes on; who does not read is not read for either. `ahead` is
/// what the client has sent already.
pub(super) async fn join<C, S>(client: C, ahead: Bytes, mut service: S, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let last = Cell::new(tokio::time::Instant::now());
    let mut client = Touched::new(client, ahead, &last);
    let copying = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER, BUFFER);
    let silent = async {
        while last.get().elapsed() < idle {
            tokio::time::sleep_until(last.get() + idle).await;
        }
    };
    tokio::select! {
        biased;
        copied = copying => match copied {
            Ok((up, down)) => tracing::debug!(up, down, "a switched connection has ended"),
            Err(error) => tracing::debug!(%error, "a switched connection broke"),
        },
        () = silent => tracing::debug!("a switched connection was silent for too long"),
    }
}

/// Waits until `end`, if there is one.
async fn reached(end: Option<SystemTime>) {
    let Some(end) = end else {
        return std::future::pending().await;
    };
    while let Ok(left) = end.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
