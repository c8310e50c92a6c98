//! What a connection's task does beside serving: it ends the connection when it is idle or slow, when its client's
//! certificate has expired, and when the gateway drains.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep},
};

use super::{activity::Judgement, clock::Moment, connection::Connection};

/// How long an idle HTTP/1.1 connection is left open when the gateway drains. A request that has been
/// sent already is answered then, with `connection: close`, instead of being reset.
const LINGER: Duration = Duration::from_millis(500);

/// How a connection came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    ToTheEnd,
    Cut,
}

/// Why a connection's task has something to do.
enum Event {
    Ended(hyper::Result<()>),
    Drains,
    Lapses,
    Due,
}

/// What the task has seen already.
#[derive(Clone, Copy)]
struct Known {
    draining: bool,
    lapsed: bool,
}

/// A timer that is looked at much more often than it is set.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// Whom it will wake.
    task: Option<Waker>,
}

impl Alarm<'_> {
    fn set(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.task = None;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_known = |task: &Waker| task.will_wake(context.waker());
        if self.task.as_ref().is_some_and(is_known) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.task = Some(context.waker().clone());
        // A task that has done much would be put off before the timer knows whom to wake.
        pin!(unconstrained(self.sleep.as_mut())).poll(context)
    }
}

/// Lets `serving` do what it can, and looks at what else there is.
fn happens<S>(
    connection: &Connection,
    known: Known,
    serving: Pin<&mut S>,
    alarm: &mut Alarm<'_>,
    context: &mut Context<'_>,
) -> Poll<Event>
where
    S: Future<Output = hyper::Result<()>>,
{
    let _moment = Moment::begin();
    if let Poll::Ready(result) = serving.poll(context) {
        return Poll::Ready(Event::Ended(result));
    }
    connection.mark.listen(context);
    if !known.draining && connection.ends_soon() {
        return Poll::Ready(Event::Drains);
    }
    if !known.lapsed && connection.mark.has_lapsed() {
        return Poll::Ready(Event::Lapses);
    }
    alarm.poll(context).map(|()| Event::Due)
}

/// Lets `serving` run until it ends, the connection is idle or slow, or the gateway drains.
pub(super) async fn drive<S>(
    connection: &Connection,
    serving: S,
    finish: fn(Pin<&mut S>),
) -> hyper::Result<Driven>
where
    S: Future<Output = hyper::Result<()>>,
{
    let timeouts = &connection.listener.timeouts;
    let mut serving = pin!(serving);
    let mut alarm = Alarm {
        sleep: pin!(sleep(timeouts.header.min(timeouts.idle))),
        task: None,
    };
    let mut draining = false;
    let mut finishing = false;
    let mut lapsed = false;
    loop {
        let known = Known { draining, lapsed };
        let event = poll_fn(|context| happens(connection, known, serving.as_mut(), &mut alarm, context));
        match event.await {
            Event::Ended(result) => return result.map(|()| Driven::ToTheEnd),
            Event::Drains => {
                draining = true;
                if lapsed {
                    // It is finishing already.
                } else if connection.http2 {
                    finish(serving.as_mut());
                } else {
                    alarm.set(Instant::now() + LINGER);
                }
            }
            Event::Lapses => {
                lapsed = true;
                finishing = true;
                finish(serving.as_mut());
                alarm.set(Instant::now() + timeouts.header);
            }
            Event::Due if lapsed => return Ok(Driven::Cut),
            Event::Due => {
                if draining && !finishing && !connection.http2 {
                    finishing = true;
                    finish(serving.as_mut());
                }
                match connection.activity.judge(Instant::now(), timeouts) {
                    Judgement::Wait(until) => alarm.set(until),
                    Judgement::Finish if !finishing => {
                        finishing = true;
                        finish(serving.as_mut());
                        alarm.set(Instant::now() + timeouts.header);
                    }
                    Judgement::Finish | Judgement::Cut => return Ok(Driven::Cut),
                }
            }
        }
    }
}
