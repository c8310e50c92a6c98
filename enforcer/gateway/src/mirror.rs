//! Copies of requests, sent to another service whose answers nobody gets.
//!
//! A copy is sent once the service has been handed the whole request, in a task of its own: it delays nothing,
//! and what becomes of it is only counted. It lasts for the rule's `timeout` at most.

use std::{
    cell::Cell, collections::HashMap, future::poll_fn, net::IpAddr, rc::Rc, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use hyper::body::Incoming;
use prometheus::local::LocalIntCounter;

use super::{
    body::RequestBody,
    metrics::GatewayMetrics,
    policies::Generation,
    upstream::send::{Sender, Upstream},
    worker::WorkerPolicy,
};
use enforcer_routing::router::RuleIndex;

/// The largest body that is copied, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Copies that one worker has under way; further requests have none. They hold 4 MiB of bodies at most.
const MAX_UNDER_WAY: usize = 64;
/// How much of its service's bound of requests copies may fill, in percent: they come after all requests.
const ROOM: u8 = 60;
/// How much of an answer is read, in bytes. The connection of one that is longer is closed.
const MAX_ANSWER: usize = 1 << 20;

/// What has become of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mirrored {
    Answered,
    /// There was no whole answer in time.
    Failed,
    /// Not sent: the body is larger than [`MAX_BODY`], or its length is not known.
    TooLarge,
    /// Not sent: the request's body did not come to its end.
    Unfinished,
    /// Not sent: there are as many under way as may be.
    Saturated,
}

/// All of them, with their names in metrics.
pub(super) const MIRRORED: [(Mirrored, &str); 5] = [
    (Mirrored::Answered, "answered"),
    (Mirrored::Failed, "failed"),
    (Mirrored::TooLarge, "too_large"),
    (Mirrored::Unfinished, "unfinished"),
    (Mirrored::Saturated, "saturated"),
];

/// One worker's counters of the copies of one rule's requests.
#[derive(Debug)]
pub(super) struct MirrorCells([LocalIntCounter; MIRRORED.len()]);

impl MirrorCells {
    /// Those of all rules of `generation` whose requests are copied.
    pub(super) fn of(generation: &Generation, metrics: &GatewayMetrics) -> HashMap<RuleIndex, Rc<Self>> {
        let mut all = HashMap::new();
        for (route, each) in generation.set.routes.iter().enumerate() {
            for (rule, mirror) in each.rules.iter().enumerate() {
                let Some(mirror) = &mirror.routing.mirror else {
                    continue;
                };
                let counter = |(_, result): (Mirrored, &str)| {
                    let labels = [each.name.as_str(), mirror.service.as_str(), result];
                    metrics.mirrored.with_label_values(&labels).local()
                };
                all.insert(RuleIndex { route, rule }, Rc::new(Self(MIRRORED.map(counter))));
            }
        }
        all
    }

    fn count(&self, result: Mirrored) {
        for ((each, _), counter) in MIRRORED.iter().zip(&self.0) {
            if *each == result {
                counter.inc();
            }
        }
    }

    /// Adds what has been counted to the shared counters.
    pub(super) fn flush(&self) {
        self.0.iter().for_each(LocalIntCounter::flush);
    }
}

/// A copy may outlive the policy whose worker flushes.
impl Drop for MirrorCells {
    fn drop(&mut self) {
        self.flush();
    }
}

/// How many copies a worker has under way.
#[derive(Debug, Default)]
pub(super) struct Mirrors(Cell<usize>);

/// A place among them, until it is dropped.
#[derive(Debug)]
struct Place(Rc<Mirrors>);

impl Place {
    fn among(mirrors: &Rc<Mirrors>) -> Option<Self> {
        let taken = mirrors.0.get();
        (taken < MAX_UNDER_WAY).then(|| {
            mirrors.0.set(taken + 1);
            Self(Rc::clone(mirrors))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// A copy of a request, while its body comes.
#[derive(Debug)]
pub(super) struct Copied {
    /// Taken when it is sent.
    message: Option<Message>,
    cells: Rc<MirrorCells>,
}

#[derive(Debug)]
struct Message {
    head: Parts,
    body: Vec<u8>,
    length: usize,
    address: IpAddr,
    switches: bool,
    /// The token's issuer and subject.
    subject: Option<(Arc<str>, Arc<str>)>,
    policy: Rc<WorkerPolicy>,
    /// The position of the service.
    service: usize,
    within: Duration,
    _place: Place,
}

/// A copy of the request with that head, if the rule wants one of it and one may be made. It is sent at once if
/// the request has no body; else it is to be given the body's pieces.
pub(super) fn copy(
    policy: &Rc<WorkerPolicy>,
    index: RuleIndex,
    head: &Parts,
    body: &Incoming,
    sender: Sender<'_>,
    mirrors: &Rc<Mirrors>,
) -> Option<Box<Copied>> {
    let (_, rule) = policy.generation.rule(index);
    let mirror = rule.routing.mirror.as_ref()?;
    if fastrand::u8(..100) >= mirror.percent {
        return None;
    }
    let service = policy.generation.mirror_of(index)?;
    let cells = Rc::clone(policy.mirrors.get(&index)?);
    let length = body.size_hint().exact().filter(|&length| length <= MAX_BODY);
    let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else {
        cells.count(Mirrored::TooLarge);
        return None;
    };
    let Some(place) = Place::among(mirrors) else {
        cells.count(Mirrored::Saturated);
        return None;
    };
    let mut copied = Request::new(()).into_parts().0;
    copied.method = head.method.clone();
    copied.uri = head.uri.clone();
    copied.version = head.version;
    copied.headers = head.headers.clone();
    let message = Message {
        head: copied,
        body: Vec::with_capacity(length),
        length,
        address: sender.address,
        switches: sender.switches,
        subject: sender
            .subject
            .map(|(issuer, subject)| (issuer.into(), subject.into())),
        policy: Rc::clone(policy),
        service,
        within: rule.timeout,
        _place: place,
    };
    let mut copied = Copied {
        message: Some(message),
        cells,
    };
    copied.take(&[]);
    copied.message.is_some().then(|| Box::new(copied))
}

impl Copied {
    /// Adds a piece of the body; behind the last one the copy is sent.
    pub(super) fn take(&mut self, piece: &[u8]) {
        let Some(message) = &mut self.message else { return };
        message.body.extend_from_slice(piece);
        if message.body.len() < message.length {
            return;
        }
        let Some(message) = self.message.take() else {
            return;
        };
        let cells = Rc::clone(&self.cells);
        tokio::task::spawn_local(async move {
            let sent = tokio::time::timeout(message.within, message.send()).await;
            cells.count(sent.unwrap_or(Mirrored::Failed));
        });
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if self.message.is_some() {
            self.cells.count(Mirrored::Unfinished);
        }
    }
}

impl Message {
    async fn send(self) -> Mirrored {
        let Some(upstream) = self.policy.service(self.service) else {
            return Mirrored::Failed;
        };
        let subject = self.subject.as_ref();
        let sender = Sender {
            address: self.address,
            switches: self.switches,
            subject: subject.map(|(issuer, subject)| (&**issuer, &**subject)),
            room: ROOM,
        };
        let request = Request::from_parts(self.head, RequestBody::kept(Bytes::from(self.body)));
        exchange(upstream, request, sender)
            .await
            .map_or(Mirrored::Failed, |()| Mirrored::Answered)
    }
}

/// Sends the request, and reads the answer away.
async fn exchange(upstream: &Upstream, request: Request<RequestBody>, sender: Sender<'_>) -> Option<()> {
    let (response, lease) = upstream.send(Box::new(request), sender).await.ok()?;
    let (mut body, mut read) = (response.into_body(), 0);
    while let Some(frame) = poll_fn(|context| lease.frame(&mut body, context)).await {
        read += frame.ok()?.data_ref().map_or(0, Bytes::len);
        if read > MAX_ANSWER {
            return Some(());
        }
    }
    lease.give_back(Some(body));
    Some(())
}
