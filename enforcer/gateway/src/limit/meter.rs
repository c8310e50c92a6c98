//! Takes the bytes of a response from the limits that count them, as they are sent.

use std::time::Instant;

use super::bound::Limiter;

/// So many bytes are taken together, which a limit may therefore not know of yet.
const TOGETHER: u64 = 64 * 1024;

/// One response's bytes. What has not been taken yet is when it is dropped.
#[derive(Debug)]
pub struct Meter {
    /// Each with the key of its state.
    charged: Box<[(Limiter, u64)]>,
    /// Sent, and not taken yet.
    sent: u64,
    /// Where the clock of the limiters begins.
    start: Instant,
}

impl Meter {
    pub(super) fn new(charged: Box<[(Limiter, u64)]>, start: Instant) -> Self {
        Self {
            charged,
            sent: 0,
            start,
        }
    }

    /// Counts what is sent now.
    pub fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.sent >= TOGETHER {
            self.take();
        }
    }

    fn take(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        // 584 years.
        let now_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for (limiter, key) in &self.charged {
            limiter.debit(*key, now_ns, sent);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.take();
        }
    }
}
