//! A connection of HTTP/1.1 to an endpoint.
//!
//! hyper has one half that takes requests and one that reads and writes, which somebody has to poll. While a request is
//! on the connection that is the request's own task: it writes what it has just handed over, and is woken by what the
//! endpoint answers, without another task in between. Otherwise it is a task that watches: it notices when the endpoint
//! closes a connection that is idle, and ends what a request has left unfinished.

use std::{
    cell::{Cell, OnceCell},
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{
        TrySendError,
        http1::{Builder, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop::unconstrained,
};

use super::pool::Slot;
use crate::body::RequestBody;

/// The most that is read at once of what an endpoint answers, and the longest head of an answer. Without it the buffer of a
/// connection that has carried large answers stays at 400 KiB.
const MAX_BUFFER: usize = 64 * 1024;
/// How often one turn of a request's task lets the connection move. What is left then is done in the next turn.
const MOVES: usize = 3;

/// A connection that carries one request after the other.
#[derive(Debug)]
pub(crate) struct Carrier {
    sender: SendRequest<RequestBody>,
    motion: Rc<Motion>,
}

/// The half that reads and writes, and who polls it.
struct Motion {
    /// `None` once it has ended.
    half: Cell<Option<Half>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    ringer: Waker,
    /// A request's task polls it; else the one that watches.
    taken: Cell<bool>,
    watcher: OnceCell<Waker>,
}

type Half = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// What the connection's half is polled with. It outlasts those who poll, and wakes whoever does at the time.
struct Bell {
    /// Since the half was last polled.
    rung: AtomicBool,
    wakes: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.wakes.wake();
    }
}

impl Bell {
    fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Takes back what a body has rung that has come to its end: hyper tells a connection of pieces that were taken, and
    /// of bodies that went, also where it has nothing to do with them any more. That is so once it waits for a request.
    fn recall(&self, had_rung: bool) {
        self.rung.store(had_rung, Ordering::Release);
    }
}

impl Carrier {
    /// HTTP/1.1 over `stream`; `slot` lives at least as long as the connection.
    ///
    /// # Errors
    /// None that is known of: nothing is sent yet.
    pub(super) async fn over<S>(stream: S, slot: Rc<Slot>) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        let motion = Rc::new(Motion::new(Box::pin(connection.with_upgrades())));
        let watched = Rc::clone(&motion);
        tokio::task::spawn_local(async move {
            poll_fn(|context| watched.watch(context)).await;
            drop(slot);
        });
        Ok(Self { sender, motion })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it waits for a request, with nothing left to write or to read.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until it takes a request.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        let Self { sender, motion } = self;
        motion.taken.set(true);
        poll_fn(|context| motion.poll(context, |context| sender.poll_ready(context))).await
    }

    /// Sends a request. From then on the connection moves only when the response's head, and its body by
    /// [`frame`](Self::frame), are polled for, until it is [left](Self::leave).
    ///
    /// # Errors
    /// With the request, if the endpoint has seen nothing of it.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
    ) -> Result<Response<Incoming>, Box<TrySendError<Request<RequestBody>>>> {
        self.motion.taken.set(true);
        // Who is on watch need not know of the request.
        self.motion.bell.wakes.take();
        // Polled without a waker, it must not be put off because its task has done much.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(*request)));
        poll_fn(|context| {
            self.motion
                .poll(context, |context| answer.as_mut().poll(context).map_err(Box::new))
        })
        .await
    }

    /// The next piece of the response that has come on it.
    pub(super) fn frame(
        &self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.motion.poll(context, |context| {
            let had_rung = self.motion.bell.has_rung();
            let frame = Pin::new(&mut *body).poll_frame(context);
            if body.is_end_stream() && self.is_ready() {
                self.motion.bell.recall(had_rung);
            }
            frame
        })
    }

    /// The response is complete, and its `body` goes.
    pub(super) fn complete(&self, body: Option<Incoming>) {
        let bell = &self.motion.bell;
        let had_rung = bell.has_rung();
        bell.wakes.take();
        drop(body);
        if self.is_ready() {
            bell.recall(had_rung);
        }
        self.motion.leave();
    }

    /// Whoever holds it polls it no more: the task on watch does.
    pub(super) fn leave(&self) {
        self.motion.leave();
    }
}

impl Drop for Carrier {
    /// Before the half that takes requests goes, which ends the other.
    fn drop(&mut self) {
        self.motion.leave();
    }
}

impl Motion {
    fn new(half: Half) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            wakes: AtomicWaker::new(),
        });
        Self {
            half: Cell::new(Some(half)),
            ringer: Waker::from(Arc::clone(&bell)),
            bell,
            taken: Cell::new(false),
            watcher: OnceCell::new(),
        }
    }

    /// Polls what only the half's moving can make ready, and lets it move as often as there is something to do.
    #[inline]
    fn poll<T>(&self, context: &mut Context<'_>, mut on: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.taken.get() {
            return on(context);
        }
        let bell = &self.bell;
        for _ in 0..MOVES {
            // What is done here is looked at here, and wakes nobody.
            bell.wakes.take();
            if bell.has_rung() {
                self.step();
            }
            if let Poll::Ready(done) = on(&mut Context::from_waker(Waker::noop())) {
                return Poll::Ready(done);
            }
            bell.wakes.register(context.waker());
            if !bell.has_rung() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(&self) {
        self.bell.rung.store(false, Ordering::Release);
        let Some(mut half) = self.half.take() else { return };
        match half.as_mut().poll(&mut Context::from_waker(&self.ringer)) {
            Poll::Pending => self.half.set(Some(half)),
            Poll::Ready(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to an endpoint broke");
                }
                if let Some(watcher) = self.watcher.get() {
                    watcher.wake_by_ref();
                }
            }
        }
    }

    /// Polls the half while nobody else does, until it has ended.
    fn watch(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watcher.get_or_init(|| context.waker().clone());
        if !self.taken.get() {
            self.bell.wakes.register(context.waker());
            self.step();
        }
        if self.has_ended() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn has_ended(&self) -> bool {
        let half = self.half.take();
        let has_ended = half.is_none();
        self.half.set(half);
        has_ended
    }

    fn leave(&self) {
        self.taken.set(false);
        // One that has not run yet looks at everything when it does.
        if let Some(watcher) = self.watcher.get() {
            self.bell.wakes.register(watcher);
            // It has ended without a ring if polling it panicked.
            if self.bell.has_rung() || self.has_ended() {
                self.bell.wakes.wake();
            }
        }
    }
}

impl fmt::Debug for Motion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Motion")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
