//! Sockets that accept connections: one for each worker at the same address (`SO_REUSEPORT`), so
//! that the kernel spreads connections and workers share no queue.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{
    config::{ProxyProtocol, Timeouts},
    sources::Budgets,
};
use enforcer_model::Name;
use enforcer_tls::ListenerTls;

/// Connections that the kernel has completed and a worker has not accepted yet.
const BACKLOG: i32 = 4096;
/// Waits between attempts to accept while the process has no file descriptor or memory left.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Pausing is logged this often, by all workers together.
const SAID_EVERY: Duration = Duration::from_secs(10);
static SAID: Mutex<Option<Instant>> = Mutex::new(None);

/// What the workers' sockets of one listener have in common.
#[derive(Debug)]
pub(super) struct ListenerContext {
    pub(super) name: Name,
    pub(super) tls: Option<Arc<ListenerTls>>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    /// TLS handshakes that each worker has under way at most.
    pub(super) handshakes: usize,
    /// TLS handshakes that each source may begin: the listener's own, or what listeners share.
    pub(super) budgets: Option<Arc<Budgets>>,
    pub(super) timeouts: Timeouts,
    pub(super) connections: prometheus::IntGauge,
    /// It is no longer listened to: its connections finish what is under way and end.
    pub(super) retired: AtomicBool,
}

impl ListenerContext {
    /// Whether its connections are to end after what is under way.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether a connection of `peer` begins with a header that says whose it is.
    pub(super) fn is_proxied(&self, peer: IpAddr) -> bool {
        let proxy_protocol = self.proxy_protocol.as_ref();
        proxy_protocol.is_some_and(|proxy_protocol| proxy_protocol.trusts(peer))
    }
}

/// `count` sockets at `address`, which no other process listens on. `is_ours`: sockets of this process have the port, and
/// it is shared with them.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) fn bind(address: SocketAddr, count: usize, is_ours: bool) -> io::Result<Vec<StdListener>> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for number in 0..count {
        let listener = bind_one(address, number > 0 || is_ours)?;
        // The first socket decides where port 0 is.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// What to do where another process listens already.
pub fn port_taken(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; `ss -ltnp` names who has the port",
        _ => "",
    }
}

/// Without `is_shared`, the socket shares its port only once it has it: Linux refuses it where another process has the
/// port, even one that would share it.
fn bind_one(address: SocketAddr, is_shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts, and waits ever longer while the process is out of what a connection needs.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    pause: Duration,
}

impl Acceptor {
    /// Accepts from `listener`, on the runtime that this is called in.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub(super) fn new(listener: StdListener) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            pause: FIRST_PAUSE,
        })
    }

    /// The next connection.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = FIRST_PAUSE;
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if is_due(
                        &mut SAID.lock().unwrap_or_else(PoisonError::into_inner),
                        Instant::now(),
                    ) {
                        tracing::warn!(%error, pause = ?self.pause, "cannot accept connections: pausing");
                    }
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A connection that is waiting already.
    pub(super) fn accept_waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        use std::{
            pin::pin,
            task::{Context, Poll, Waker},
        };
        let accept = pin!(self.listener.accept());
        match accept.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => accepted.ok(),
            Poll::Pending => None,
        }
    }
}

/// Whether the connection is gone before it was accepted (accept(2), "Error handling").
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Whether it is time to say something again, which was said at `last`.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.duration_since(last) >= SAID_EVERY);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a second agent would: with the same options.
    #[test]
    fn f9_a_port_that_another_listens_on_is_not_shared() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2, false).unwrap();
        let address = first[0].local_addr().unwrap();
        let taken = |address| bind(address, 2, false).map_err(|error| error.kind()).unwrap_err();
        assert_eq!(taken(address), io::ErrorKind::AddrInUse);
        assert_eq!(
            taken(SocketAddr::from(([0, 0, 0, 0], address.port()))),
            io::ErrorKind::AddrInUse
        );
        let more = bind(address, 2, true).unwrap();
        drop((first, more));
        bind(address, 2, false).unwrap();
    }

    /// Every socket of a listener gets its share.
    #[test]
    fn the_sockets_of_a_listener_share_its_connections() {
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2, false).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let accepted = sockets
            .iter()
            .map(|socket| std::iter::from_fn(|| socket.accept().ok()).count());
        let accepted: Vec<_> = accepted.collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(!accepted.contains(&0), "{accepted:?}");
    }

    #[test]
    fn pausing_is_said_once_in_a_while() {
        let (mut last, start) = (None, Instant::now());
        assert!(is_due(&mut last, start));
        assert!(!is_due(&mut last, start + SAID_EVERY / 2));
        assert!(is_due(&mut last, start + SAID_EVERY));
        assert!(!is_due(&mut last, start + SAID_EVERY));
    }
}
