//! The algorithms once more, in exact rational arithmetic, with states of any size.
//!
//! Times are multiplied by the amount, and costs by the period, so that nothing is ever rounded.

/// A bucket by its content, not by arrival times: it drains with time, and takes what fits.
pub(crate) struct Bucket {
    amount: u128,
    period: u128,
    capacity: u128,
    content: u128,
    at_ns: u64,
}

impl Bucket {
    pub(crate) fn new(amount: u128, period: u128, burst: u64) -> Self {
        Self {
            amount,
            period,
            capacity: u128::from(burst) * period,
            content: 0,
            at_ns: 0,
        }
    }

    pub(crate) fn charge(&mut self, now_ns: u64, cost: u64) -> bool {
        let drained = u128::from(now_ns - self.at_ns) * self.amount;
        self.content = self.content.saturating_sub(drained);
        self.at_ns = now_ns;
        let content = self.content + u128::from(cost) * self.period;
        if content > self.capacity {
            return false;
        }
        self.content = content;
        true
    }
}

/// What was admitted in each window since the beginning of time.
pub(crate) struct Windows {
    amount: u128,
    period: u64,
    sliding: bool,
    used: std::collections::BTreeMap<u64, u128>,
}

impl Windows {
    pub(crate) fn new(amount: u64, period: u64, sliding: bool) -> Self {
        Self {
            amount: u128::from(amount),
            period,
            sliding,
            used: std::collections::BTreeMap::new(),
        }
    }

    fn used(&self, window: u64) -> u128 {
        self.used.get(&window).copied().unwrap_or(0)
    }

    pub(crate) fn charge(&mut self, now_ns: u64, cost: u64) -> bool {
        let window = now_ns / self.period;
        let period = u128::from(self.period);
        let left = period - u128::from(now_ns % self.period);
        let current = self.used(window) + u128::from(cost);
        let previous = match window.checked_sub(1) {
            Some(previous) if self.sliding => self.used(previous),
            _ => 0,
        };
        if current * period + previous * left > self.amount * period {
            return false;
        }
        self.used.insert(window, current);
        true
    }
}

/// Who never sends more than `amount` in any `period`, from the whole log of what was sent.
pub(crate) struct Log {
    amount: u128,
    period: u64,
    sent: Vec<(u64, u128)>,
}

impl Log {
    pub(crate) fn new(amount: u64, period: u64) -> Self {
        Self {
            amount: u128::from(amount),
            period,
            sent: Vec::new(),
        }
    }

    pub(crate) fn charge(&mut self, now_ns: u64, cost: u64) -> bool {
        let counts = |at: u64| now_ns - at < self.period;
        let recent: u128 = self.sent.iter().filter(|s| counts(s.0)).map(|s| s.1).sum();
        if recent + u128::from(cost) > self.amount {
            return false;
        }
        self.sent.push((now_ns, u128::from(cost)));
        true
    }
}
