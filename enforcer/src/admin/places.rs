//! The places of an address: how many connections there are at once, and which of them goes when all are taken.
//!
//! Whoever is silent or idle gives way to whoever comes, the longest waiting first. Requests take a share of the
//! places and no more, so that a probe, which takes none of that share, always finds one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long the head of a request may take, from the first byte, or from when the connection was accepted.
const HEAD: Duration = Duration::from_secs(2);
/// How long a connection may be without a request after an answer.
const IDLE: Duration = Duration::from_secs(10);
/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(5);
/// How long a request may take, from its head until its answer is written.
const EXCHANGE: Duration = Duration::from_secs(30);
/// How long a client may take no byte of an answer.
const STALL: Duration = Duration::from_secs(10);

/// How many connections an address has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// At once.
    pub(super) connections: usize,
    /// Of them: with a request that is neither a probe nor a stream of events.
    pub(super) requests: usize,
}

/// The connections of an address.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    seats: Mutex<Seats>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    stage: Stage,
    since: Instant,
    /// Since when the client takes no byte.
    stalled: Option<Instant>,
    close: Arc<Notify>,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A head is awaited.
    Head,
    /// It has had an answer.
    Idle,
    /// A probe is answered, or a refusal.
    Probe,
    /// A request is answered.
    Request,
    /// Events are sent as they come.
    Stream,
}

/// A connection's place. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seat {
    id: u64,
    places: Arc<Places>,
    close: Arc<Notify>,
}

/// Too many requests are under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            seats: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Gives a place, if need be that of the connection that has waited longest. Waits only while all of them
    /// answer requests and their clients take the answers, which has an end.
    pub(super) async fn take(self: &Arc<Self>) -> Arc<Seat> {
        loop {
            let freed = self.freed.notified();
            if let Some(seat) = self.try_take() {
                return seat;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut seats = self.seats();
        if seats.taken.len() >= self.bounds.connections {
            let given_up = seats.to_give_up()?;
            seats.give_up(given_up);
        }
        let id = seats.next;
        seats.next += 1;
        let close = Arc::new(Notify::new());
        seats.taken.insert(
            id,
            Taken {
                stage: Stage::Head,
                since: Instant::now(),
                stalled: None,
                close: Arc::clone(&close),
            },
        );
        Some(Arc::new(Seat {
            id,
            places: Arc::clone(self),
            close,
        }))
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.seats().taken.len()
    }
}

impl Seats {
    /// Who has waited longest; if nobody waits, whose client has taken nothing for longest.
    fn to_give_up(&self) -> Option<u64> {
        let waiting = self
            .taken
            .iter()
            .filter(|(_, taken)| matches!(taken.stage, Stage::Head | Stage::Idle));
        let longest = waiting.min_by_key(|(_, taken)| taken.since);
        let stalled = || {
            let stalled = self
                .taken
                .iter()
                .filter_map(|(id, taken)| taken.stalled.map(|since| (since, *id)));
            stalled.min().map(|(_, id)| id)
        };
        longest.map(|(id, _)| *id).or_else(stalled)
    }

    fn give_up(&mut self, id: u64) {
        if let Some(taken) = self.taken.remove(&id) {
            taken.close.notify_one();
        }
    }
}

impl Seat {
    /// A request has come. Without a place for it, it is to be refused.
    pub(super) fn begin(&self, stage: Stage) -> Result<(), Full> {
        let mut seats = self.places.seats();
        if stage == Stage::Request {
            let under_way = |seats: &Seats| {
                let requests = seats.taken.values().filter(|taken| taken.stage == Stage::Request);
                requests.count()
            };
            if under_way(&seats) >= self.places.bounds.requests {
                let stalled = seats
                    .taken
                    .iter()
                    .filter(|(_, taken)| taken.stage == Stage::Request)
                    .filter_map(|(id, taken)| taken.stalled.map(|since| (since, *id)));
                let Some((_, id)) = stalled.min() else {
                    return Err(Full);
                };
                seats.give_up(id);
            }
        }
        set(&mut seats, self.id, stage);
        Ok(())
    }

    /// A refusal is sent instead of an answer.
    pub(super) fn refuse(&self) {
        set(&mut self.places.seats(), self.id, Stage::Probe);
    }

    /// The answer has been handed over.
    pub(super) fn finished(&self) {
        let mut seats = self.places.seats();
        set(&mut seats, self.id, Stage::Idle);
    }

    /// Bytes have come.
    pub(super) fn heard(&self) {
        let mut seats = self.places.seats();
        if seats.taken.get(&self.id).map(|taken| taken.stage) == Some(Stage::Idle) {
            set(&mut seats, self.id, Stage::Head);
        }
    }

    /// Whether the client takes what is written.
    pub(super) fn taken(&self, taken: bool) {
        if let Some(own) = self.places.seats().taken.get_mut(&self.id) {
            own.stalled = match (taken, own.stalled) {
                (true, _) => None,
                (false, None) => Some(Instant::now()),
                (false, since) => since,
            };
        }
    }

    /// The place goes to somebody else.
    pub(super) fn give_up(&self) {
        self.places.seats().give_up(self.id);
    }

    /// When the connection is to be closed, as things stand. `None`: not for its time.
    fn deadline(&self) -> Option<Instant> {
        let seats = self.places.seats();
        let taken = seats.taken.get(&self.id)?;
        let stall = taken.stalled.map(|since| since + STALL);
        let time = match taken.stage {
            Stage::Head => HEAD,
            Stage::Idle => IDLE,
            Stage::Probe => PROBE,
            Stage::Request => EXCHANGE,
            Stage::Stream => return stall,
        };
        let end = taken.since + time;
        Some(stall.map_or(end, |stall| stall.min(end)))
    }

    /// Waits until the connection has had its time, or its place is wanted.
    pub(super) async fn over(&self) {
        /// Deadlines move in both directions; none is missed for longer.
        const LOOK: Duration = Duration::from_millis(250);
        loop {
            let now = Instant::now();
            let next = match self.deadline() {
                Some(end) if end <= now => return,
                Some(end) => end.min(now + LOOK),
                None => now + LOOK,
            };
            tokio::select! {
                () = self.close.notified() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }
}

fn set(seats: &mut Seats, id: u64, stage: Stage) {
    if let Some(taken) = seats.taken.get_mut(&id) {
        taken.stage = stage;
        taken.since = Instant::now();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.seats().taken.remove(&self.id);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    const BOUNDS: Bounds = Bounds {
        connections: 4,
        requests: 2,
    };

    fn is_over(seat: &Seat) -> bool {
        let mut over = Box::pin(seat.over());
        over.as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn m3_the_longest_waiting_gives_way_when_all_places_are_taken() {
        let places = Places::new(BOUNDS);
        let mut seats = Vec::new();
        for _ in 0..4 {
            seats.push(places.take().await);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        seats[0].begin(Stage::Request).unwrap();
        seats[1].finished();
        let newest = places.take().await;
        assert_eq!(places.count(), 4);
        assert!(is_over(&seats[2]), "it had waited longest without a request");
        for kept in [&seats[0], &seats[1], &seats[3], &newest] {
            assert!(!is_over(kept));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn m3_requests_take_a_share_and_probes_none_of_it() {
        let places = Places::new(BOUNDS);
        let (first, second) = (places.take().await, places.take().await);
        first.begin(Stage::Request).unwrap();
        second.begin(Stage::Request).unwrap();
        let third = places.take().await;
        assert!(third.begin(Stage::Request).is_err());
        third.begin(Stage::Probe).unwrap();
        // Whoever does not read gives way to whoever asks.
        first.taken(false);
        third.finished();
        third.begin(Stage::Request).unwrap();
        assert!(is_over(&first));
        assert!(!is_over(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn m3_each_stage_has_its_time() {
        let places = Places::new(BOUNDS);
        let seat = places.take().await;
        let mut over = Box::pin(async {
            let begun = Instant::now();
            seat.over().await;
            begun.elapsed()
        });
        assert_eq!((&mut over).await, HEAD);
        for (stage, time) in [
            (Stage::Idle, IDLE),
            (Stage::Probe, PROBE),
            (Stage::Request, EXCHANGE),
        ] {
            seat.begin(stage).unwrap();
            let begun = Instant::now();
            seat.over().await;
            assert_eq!(begun.elapsed(), time, "{stage:?}");
        }
        seat.begin(Stage::Stream).unwrap();
        tokio::time::advance(EXCHANGE * 10).await;
        assert!(!is_over(&seat), "a stream has no end while its reader takes it");
        seat.taken(false);
        let begun = Instant::now();
        seat.over().await;
        assert_eq!(begun.elapsed(), STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn m3_a_request_after_idle_has_the_time_of_a_head() {
        let places = Places::new(BOUNDS);
        let seat = places.take().await;
        seat.finished();
        tokio::time::advance(IDLE / 2).await;
        seat.heard();
        let begun = Instant::now();
        seat.over().await;
        assert_eq!(begun.elapsed(), HEAD);
    }

    #[tokio::test]
    async fn m3_when_all_answer_the_next_waits_for_the_first_to_end() {
        let places = Places::new(Bounds {
            connections: 1,
            requests: 1,
        });
        let only = places.take().await;
        only.begin(Stage::Request).unwrap();
        let mut next = Box::pin(places.take());
        let mut context = Context::from_waker(Waker::noop());
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(only);
        next.await;
    }
}
