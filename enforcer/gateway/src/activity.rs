//! What a client's connection is doing, and whether it takes too long for it.
//!
//! hyper's own timers start at a request's head only; this one also ends idle connections, slow
//! handshakes of HTTP/2 and clients that do not read, with one timer for each connection that is
//! set anew only when it fires.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{clock, config::Timeouts, lengths::Lengths};

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    /// Whether bytes between requests are the next request's head. In HTTP/2 they may be pings.
    heads_follow: bool,
    requests: Cell<usize>,
    /// How many requests have begun, all told, and which of them is in doubt, if one is.
    begun: Cell<u64>,
    doubtful: Cell<Option<u64>>,
    idle_since: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    unread_since: Cell<Option<Instant>>,
    /// Of responses that come in several pieces.
    bodies: RefCell<Vec<Weak<Handed>>>,
}

/// Since when a response's body has waited for its client to take the last piece. `None` while it
/// waits for the service. A client of HTTP/2 can leave one response unread and take others.
pub(super) type Handed = Cell<Option<Instant>>;

/// Beyond so many bodies, those that are complete are taken off the list before one is added.
const MANY_BODIES: usize = 128;

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Look again then.
    Wait(Instant),
    /// It is idle: say good-bye.
    Finish,
    /// It takes too long.
    Cut,
}

impl Activity {
    /// A connection that has been set up at `now` and whose first request is awaited.
    #[must_use]
    pub(super) fn new(http2: bool, now: Instant) -> Self {
        Self {
            heads_follow: !http2,
            requests: Cell::new(0),
            begun: Cell::new(0),
            doubtful: Cell::new(None),
            idle_since: Cell::new(now),
            head_since: Cell::new(Some(now)),
            unread_since: Cell::new(None),
            bodies: RefCell::default(),
        }
    }

    /// A request's head is complete.
    pub(super) fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.head_since.set(None);
    }

    /// Whether the request that has begun last says twice how long it is. Never of HTTP/2.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubtful.get() == Some(self.begun.get())
    }

    /// A response is complete.
    pub(super) fn request_ended(&self, now: Instant) {
        self.requests.set(self.requests.get() - 1);
        self.idle_since.set(now);
    }

    /// Watches over a response's body that has more than one piece.
    pub(super) fn watch_body(&self) -> Rc<Handed> {
        let handed = Rc::new(Handed::default());
        let mut bodies = self.bodies.borrow_mut();
        if bodies.len() >= MANY_BODIES {
            bodies.retain(|body| body.strong_count() > 0);
        }
        bodies.push(Rc::downgrade(&handed));
        handed
    }

    /// Whether a response has been left unread for `idle`.
    fn is_neglected(&self, now: Instant, idle: Duration) -> bool {
        let mut bodies = self.bodies.borrow_mut();
        bodies.retain(|body| body.strong_count() > 0);
        let since = |body: &Weak<Handed>| body.upgrade().and_then(|handed| handed.get());
        bodies.iter().filter_map(since).any(|since| now >= since + idle)
    }

    fn received(&self) {
        if self.heads_follow && self.requests.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(clock::now()));
        }
    }

    fn sent(&self, blocked: bool) {
        match (blocked, self.unread_since.get()) {
            (true, None) => self.unread_since.set(Some(clock::now())),
            (false, Some(_)) => self.unread_since.set(None),
            _ => {}
        }
    }

    /// What is to be done at `now`. A head may take up to twice its time until this notices.
    #[must_use]
    pub(super) fn judge(&self, now: Instant, timeouts: &Timeouts) -> Judgement {
        let soon = now + timeouts.header.min(timeouts.idle);
        let blocked = self
            .unread_since
            .get()
            .is_some_and(|since| now >= since + timeouts.idle);
        if blocked || self.is_neglected(now, timeouts.idle) {
            return Judgement::Cut;
        }
        if self.requests.get() > 0 {
            return Judgement::Wait(soon);
        }
        if let Some(since) = self.head_since.get() {
            let end = since + timeouts.header;
            return if now >= end {
                Judgement::Cut
            } else {
                Judgement::Wait(end)
            };
        }
        let end = self.idle_since.get() + timeouts.idle;
        if now >= end {
            Judgement::Finish
        } else {
            Judgement::Wait(end.min(soon))
        }
    }
}

/// A connection's bytes, which tell its [`Activity`].
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    activity: Rc<Activity>,
    lengths: Lengths,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Rc<Activity>) -> Self {
        let lengths = if activity.heads_follow {
            Lengths::new()
        } else {
            Lengths::unfollowed()
        };
        Self {
            inner,
            activity,
            lengths,
        }
    }

    /// The connection's bytes for what is no HTTP: they tell nothing.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    fn noted(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.sent(result.is_pending());
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(context, buffer);
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            this.activity.received();
            if let Some(request) = this.lengths.follow(received) {
                this.activity.doubtful.set(Some(request));
            }
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.noted(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        self.noted(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(context);
        self.activity.sent(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The client's side of a switched connection. It tells when bytes last moved, either way, and reads first
/// what has been read already.
#[derive(Debug)]
pub(super) struct Touched<'a, T> {
    inner: T,
    ahead: Bytes,
    last: &'a Cell<Instant>,
}

impl<'a, T> Touched<'a, T> {
    pub(super) fn new(inner: T, ahead: Bytes, last: &'a Cell<Instant>) -> Self {
        Self { inner, ahead, last }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Touched<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        if result.is_ready() {
            self.last.set(Instant::now());
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Touched<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        if result.is_ready() {
            self.last.set(Instant::now());
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judgements() {
        let seconds = Duration::from_secs;
        let timeouts = Timeouts {
            handshake: seconds(5),
            header: seconds(10),
            idle: seconds(60),
        };
        let start = Instant::now();
        let judge = |activity: &Activity, after| activity.judge(start + seconds(after), &timeouts);

        let activity = Activity::new(false, start);
        assert_eq!(judge(&activity, 9), Judgement::Wait(start + seconds(10)));
        assert_eq!(
            judge(&activity, 10),
            Judgement::Cut,
            "the first request is awaited as a head is"
        );
        activity.request_begins();
        assert_eq!(
            judge(&activity, 100),
            Judgement::Wait(start + seconds(110)),
            "a request may take long"
        );
        activity.request_ended(start + seconds(100));
        assert_eq!(judge(&activity, 155), Judgement::Wait(start + seconds(160)));
        assert_eq!(judge(&activity, 160), Judgement::Finish);
        activity.head_since.set(Some(start + seconds(150)));
        assert_eq!(judge(&activity, 160), Judgement::Cut);
        activity.request_begins();
        activity.unread_since.set(Some(start + seconds(160)));
        assert_eq!(judge(&activity, 219), Judgement::Wait(start + seconds(229)));
        assert_eq!(judge(&activity, 220), Judgement::Cut, "nobody reads the response");
    }

    #[test]
    fn one_neglected_response_is_enough() {
        let idle = Duration::from_secs(60);
        let timeouts = Timeouts {
            idle,
            ..Timeouts::default()
        };
        let start = Instant::now();
        let activity = Activity::new(true, start);
        activity.request_begins();
        let (neglected, other) = (activity.watch_body(), activity.watch_body());
        neglected.set(Some(start));
        assert_ne!(activity.judge(start + idle / 2, &timeouts), Judgement::Cut);
        assert_eq!(activity.judge(start + idle, &timeouts), Judgement::Cut);
        neglected.set(None);
        other.set(Some(start));
        drop(other);
        assert_ne!(
            activity.judge(start + idle, &timeouts),
            Judgement::Cut,
            "that one is complete"
        );
    }

    #[tokio::test]
    async fn who_is_in_doubt_is_known_by_its_number() {
        let both = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n";
        let sent = [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", &both[..]].concat();
        for http2 in [false, true] {
            let activity = Rc::new(Activity::new(http2, Instant::now()));
            let mut stream = Watched::new(&sent[..], Rc::clone(&activity));
            // Several heads come at once, before the first is answered.
            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                .await
                .unwrap();
            let in_doubt = [(); 3].map(|()| {
                activity.request_begins();
                activity.is_in_doubt()
            });
            assert_eq!(in_doubt, [false, !http2, false]);
        }
    }

    #[test]
    fn pings_are_no_heads() {
        let activity = Activity::new(true, Instant::now());
        activity.request_begins();
        activity.request_ended(Instant::now());
        activity.received();
        assert_eq!(activity.head_since.get(), None);
    }
}
