//! Who listens to events. Readers that have shown no token give way, the oldest first, so that nobody can hold
//! all places for ever.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::places::{Seat, Stage};
use crate::agent::events::READERS;

/// How long a connection that gives way may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The readers of events over all of the agent's sockets.
#[derive(Debug)]
pub(super) struct Readers {
    room: Arc<Semaphore>,
    /// Those without a token, the oldest first. At most [`READERS`].
    strangers: Mutex<VecDeque<Arc<Seat>>>,
}

/// A reader's place.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    readers: Arc<Readers>,
    seat: Arc<Seat>,
}

impl Readers {
    /// One place less than the journal has: `events` without `follow` needs it for a moment.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(READERS - 1)),
            strangers: Mutex::default(),
        })
    }

    /// Makes the connection a stream of events. `None`: all places are held by readers that showed a token.
    pub(super) async fn take(self: Arc<Self>, seat: Arc<Seat>, trusted: bool) -> Option<Place> {
        let room = Arc::clone(&self.room);
        let permit = match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.strangers().pop_front()?.give_up();
                let freed = tokio::time::timeout(PATIENCE, room.acquire_owned());
                freed.await.ok()?.ok()?
            }
        };
        seat.begin(Stage::Stream).ok()?;
        if !trusted {
            self.strangers().push_back(Arc::clone(&seat));
        }
        Some(Place {
            _permit: permit,
            readers: self,
            seat,
        })
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<Arc<Seat>>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.readers
            .strangers()
            .retain(|stranger| !Arc::ptr_eq(stranger, &self.seat));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::places::{Bounds, Places},
        *,
    };

    #[tokio::test]
    async fn m3_strangers_among_readers_give_way_and_token_holders_do_not() {
        let places = Places::new(Bounds {
            connections: 64,
            requests: 8,
        });
        let readers = Readers::new();
        let oldest_seat = places.take().await;
        let oldest = Arc::clone(&readers)
            .take(Arc::clone(&oldest_seat), false)
            .await
            .unwrap();
        let mut trusted = Vec::new();
        for _ in 0..READERS - 2 {
            let seat = places.take().await;
            trusted.push(Arc::clone(&readers).take(seat, true).await.unwrap());
        }
        // Its connection ends when its place is wanted, and with it the reader.
        let ending = tokio::spawn(async move {
            oldest_seat.over().await;
            drop(oldest);
        });
        let seat = places.take().await;
        trusted.push(Arc::clone(&readers).take(seat, true).await.unwrap());
        ending.await.unwrap();
        let seat = places.take().await;
        assert!(Arc::clone(&readers).take(seat, true).await.is_none());
        trusted.pop();
        let seat = places.take().await;
        assert!(Arc::clone(&readers).take(seat, false).await.is_some());
    }
}
