//! Which handshakes go on when too many are under way.
//!
//! A handshake that waits for its client costs memory, and whoever wants to can have many of them
//! wait. So nobody stands in line behind them: at the bound the one that has taken longest is given
//! up. A worker completes some thousands of handshakes each second; an honest client needs one or two
//! round trips, and is gone from here before as many others have come.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use tokio::sync::Notify;

/// A worker's handshakes that are under way at one listener.
#[derive(Debug)]
pub(super) struct Handshakes {
    capacity: usize,
    next: Cell<u64>,
    /// In order of their beginning.
    under_way: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// A handshake's place.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    given_up: Rc<Notify>,
}

impl Handshakes {
    /// At most `capacity` at a time, which is not zero.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: Cell::new(0),
            under_way: RefCell::default(),
        }
    }

    /// Begins a handshake, at the cost of the oldest if there are too many.
    pub(super) fn begin(&self) -> Seat<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let given_up = Rc::new(Notify::new());
        let mut under_way = self.under_way.borrow_mut();
        if under_way.len() >= self.capacity
            && let Some((_, oldest)) = under_way.pop_first()
        {
            oldest.notify_one();
        }
        under_way.insert(number, Rc::clone(&given_up));
        Seat {
            handshakes: self,
            number,
            given_up,
        }
    }
}

impl Seat<'_> {
    /// Waits until the handshake is to be given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.handshakes.under_way.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    fn is_given_up(seat: &Seat<'_>) -> bool {
        let waiting = pin!(seat.given_up());
        waiting.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_makes_room() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.begin(), handshakes.begin());
        assert!(!is_given_up(&first));
        let third = handshakes.begin();
        assert!(is_given_up(&first) && !is_given_up(&second) && !is_given_up(&third));
        drop(third);
        let fourth = handshakes.begin();
        assert!(!is_given_up(&second), "there was room");
        drop((first, second, fourth));
        assert!(handshakes.under_way.borrow().is_empty());
    }
}
