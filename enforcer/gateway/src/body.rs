//! Bodies on their way through. They stream in both directions; nothing is collected.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    activity::{Activity, Handed},
    clock, headers,
    limit::Meter,
    mirror::Copied,
    upstream::pool::Lease,
    worker::WorkerPolicy,
};
use enforcer_routing::router::RuleIndex;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request's body is larger than its rule admits")]
    TooLarge,
    #[error("the client's body broke off")]
    Client(#[source] hyper::Error),
    #[error("the service's body broke off")]
    Upstream(#[source] hyper::Error),
    #[error("no piece of the service's body came for too long")]
    Idle,
}

/// How far a request's body has come: shared with whoever waits for the response.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the last piece was handed on; before the first one, when forwarding began.
    handed: Cell<Instant>,
    /// The service's side wants a piece that the client has not sent yet.
    pub(super) owed: Cell<bool>,
    /// All of it has been handed on.
    pub(super) ended: Cell<bool>,
    /// Some of it may have been handed on.
    pub(super) begun: Cell<bool>,
    pub(super) failure: Cell<Option<Failure>>,
    /// The service took too long.
    pub(super) overdue: Cell<bool>,
    began: Instant,
}

impl Progress {
    pub(super) fn new(ended: bool) -> Self {
        let began = clock::now();
        Self {
            handed: Cell::new(began),
            overdue: Cell::new(false),
            began,
            owed: Cell::new(false),
            ended: Cell::new(ended),
            begun: Cell::new(false),
            failure: Cell::new(None),
        }
    }

    /// When forwarding began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Since when only the service can be waited for; `None` if the client still owes something.
    pub(super) fn with_service_since(&self) -> Option<Instant> {
        (!self.owed.get()).then(|| self.handed.get())
    }
}

/// Whose fault it is that a request's body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    TooLarge,
    Client,
}

/// A request's body, cut at its rule's size.
#[derive(Debug)]
pub(super) struct RequestBody {
    content: Content,
    remaining: u64,
    progress: Rc<Progress>,
    /// On the heap, so that other requests do not carry its size.
    onlookers: Option<Box<Onlookers>>,
}

/// Who else looks at a body that is handed on.
#[derive(Debug, Default)]
struct Onlookers {
    /// Gets what is handed on.
    copied: Option<Box<Copied>>,
    /// The rule whose route's fields trailers may not have.
    rule: Option<(Rc<WorkerPolicy>, RuleIndex)>,
}

/// What a request's body is.
#[derive(Debug)]
enum Content {
    /// What the client sends.
    Client(Incoming),
    /// What it has sent.
    Kept(Bytes),
    Nothing,
}

impl RequestBody {
    /// At most `limit` bytes of `inner`, which may have `ended` already. To ask it takes a lock with HTTP/2.
    #[must_use]
    pub(super) fn new(inner: Incoming, ended: bool, limit: u64) -> Self {
        Self {
            content: Content::Client(inner),
            remaining: limit,
            progress: Rc::new(Progress::new(ended)),
            onlookers: None,
        }
    }

    /// Keeps out of its trailers the fields that the rule's route mentions.
    #[must_use]
    pub(super) fn under(mut self, policy: &Rc<WorkerPolicy>, rule: RuleIndex) -> Self {
        self.onlookers.get_or_insert_default().rule = Some((Rc::clone(policy), rule));
        self
    }

    /// The same, of which `copied` gets the pieces too.
    #[must_use]
    pub(super) fn copied_to(mut self, copied: Option<Box<Copied>>) -> Self {
        if copied.is_some() {
            self.onlookers.get_or_insert_default().copied = copied;
        }
        self
    }

    /// A body that is there already.
    #[must_use]
    pub(super) fn kept(content: Bytes) -> Self {
        Self {
            remaining: content.len() as u64,
            progress: Rc::new(Progress::new(content.is_empty())),
            content: if content.is_empty() {
                Content::Nothing
            } else {
                Content::Kept(content)
            },
            onlookers: None,
        }
    }

    /// A body without content, for a request that is sent again.
    #[must_use]
    pub(super) fn empty(progress: Rc<Progress>) -> Self {
        Self {
            content: Content::Nothing,
            remaining: 0,
            progress,
            onlookers: None,
        }
    }

    /// Where the body stands, also after it has been given away.
    #[must_use]
    pub(super) fn progress(&self) -> Rc<Progress> {
        Rc::clone(&self.progress)
    }

    fn fail(&self, failure: Failure, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.failure.set(Some(failure));
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.content {
            Content::Client(incoming) => Pin::new(incoming).poll_frame(context),
            Content::Kept(content) => {
                let content = std::mem::take(content);
                self.content = Content::Nothing;
                Poll::Ready(Some(Ok(Frame::data(content))))
            }
            Content::Nothing => return Poll::Ready(None),
        };
        self.progress.owed.set(frame.is_pending());
        let frame = ready!(frame);
        self.progress.handed.set(clock::now());
        self.progress.begun.set(true);
        let mut frame = match frame {
            None => {
                self.progress.ended.set(true);
                return Poll::Ready(None);
            }
            Some(Err(error)) => return self.fail(Failure::Client, BodyError::Client(error)),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            match self.remaining.checked_sub(data.len() as u64) {
                Some(left) => self.remaining = left,
                None => return self.fail(Failure::TooLarge, BodyError::TooLarge),
            }
            if let Some(copied) = self
                .onlookers
                .as_mut()
                .and_then(|onlookers| onlookers.copied.as_mut())
            {
                copied.take(data);
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            headers::strip_ours(trailers);
            if let Some((policy, rule)) = self
                .onlookers
                .as_ref()
                .and_then(|onlookers| onlookers.rule.as_ref())
            {
                policy.generation.router.mentioned(rule.route).keep_out(trailers);
            }
        }
        self.progress.ended.set(self.is_end_stream());
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Client(incoming) => incoming.is_end_stream(),
            Content::Kept(_) => false,
            Content::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Client(incoming) => incoming.size_hint(),
            Content::Kept(content) => SizeHint::with_exact(content.len() as u64),
            Content::Nothing => SizeHint::with_exact(0),
        }
    }
}

/// A response's body. What `held` stands for lasts until the body is gone.
#[derive(Debug)]
pub(super) struct ResponseBody<G> {
    source: Source,
    _held: G,
}

#[derive(Debug)]
enum Source {
    /// The gateway's own words.
    Own(Option<Bytes>),
    Upstream(UpstreamBody),
}

/// A body that comes from an endpoint, with the connection that it comes on.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    /// What is yet to come, and the connection that it comes on; `None` once all has come.
    rest: Option<(Incoming, Lease)>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    activity: Rc<Activity>,
    /// Once there has been a piece that is not the last.
    handed: Option<Rc<Handed>>,
    meter: Option<Box<Meter>>,
}

impl<G> ResponseBody<G> {
    /// The gateway's own words.
    pub(super) fn own(content: Bytes, held: G) -> Self {
        let source = Source::Own((!content.is_empty()).then_some(content));
        Self { source, _held: held }
    }

    /// What the endpoint says.
    pub(super) fn upstream(body: UpstreamBody, held: G) -> Self {
        Self {
            source: Source::Upstream(body),
            _held: held,
        }
    }
}

impl UpstreamBody {
    /// `incoming` on the connection of `lease`; it breaks off when no piece comes within `idle`.
    /// `activity` is the client's connection.
    pub(super) fn new(incoming: Incoming, lease: Lease, idle: Duration, activity: Rc<Activity>) -> Self {
        let mut body = Self {
            rest: Some((incoming, lease)),
            idle,
            timer: None,
            activity,
            handed: None,
            meter: None,
        };
        body.settle();
        body
    }

    /// With something that counts its bytes.
    pub(super) fn metered(self, meter: Option<Meter>) -> Self {
        let meter = meter.map(Box::new);
        Self { meter, ..self }
    }

    /// Gives the connection back as soon as the body is complete.
    fn settle(&mut self) {
        if self.is_complete()
            && let Some((incoming, lease)) = self.rest.take()
        {
            lease.give_back(Some(incoming));
        }
    }

    fn is_complete(&self) -> bool {
        self.rest
            .as_ref()
            .is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((incoming, lease)) = &mut self.rest else {
            return Poll::Ready(None);
        };
        match lease.frame(incoming, context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                if let (Some(meter), Some(data)) = (&mut self.meter, frame.data_ref()) {
                    meter.sends(data.len());
                }
                self.settle();
                if self.rest.is_some() {
                    let handed = self.handed.get_or_insert_with(|| self.activity.watch_body());
                    handed.set(Some(clock::now()));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Upstream(error)))),
            Poll::Ready(None) => {
                if let Some((incoming, lease)) = self.rest.take() {
                    lease.give_back(Some(incoming));
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(handed) = &self.handed {
                    handed.set(None);
                }
                let until = || clock::now() + self.idle;
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until())));
                timer.as_mut().poll(context).map(|()| Some(Err(BodyError::Idle)))
            }
        }
    }
}

impl<G: Unpin> Body for ResponseBody<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Own(content) => Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Source::Upstream(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(content) => content.is_none(),
            Source::Upstream(body) => body.is_complete(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(content) => SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(body) => match &body.rest {
                Some((incoming, _)) => incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}
