//! Who keeps failing to authenticate: a source over the configured rate is to be denied for a while.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use enforcer_common::limiter::{Algorithm, Params, ParamsError};

use crate::{gateway::limit::sketch::Sketch, kernel::client_prefix, policy::leaf::Rate};

/// Lines of the sketch: 64 KiB, whatever the number of sources.
const LINES: usize = 1_024;

/// Failures of authentication by source, in constant memory.
#[derive(Debug)]
pub struct Failures {
    sketch: Sketch,
    /// Secret, so that nobody can aim failures at somebody else's cells.
    hasher: RandomState,
}

impl Failures {
    /// A source may fail as often as `rate` says.
    ///
    /// # Errors
    /// No limiter keeps that rate.
    pub fn new(rate: Rate) -> Result<Self, ParamsError> {
        let period_ns = u64::try_from(rate.period().as_nanos()).unwrap_or(u64::MAX);
        let amount = rate.amount().get();
        let params = Params::new(Algorithm::TokenBucket, amount, period_ns, amount)?;
        Ok(Self {
            sketch: Sketch::new(params, LINES),
            hasher: RandomState::new(),
        })
    }

    /// Counts a failure of `source`; whether that is one too many.
    #[must_use]
    pub fn record(&self, source: IpAddr, now_ns: u64) -> bool {
        let key = self.hasher.hash_one(client_prefix(source));
        !self.sketch.charge(key, now_ns, 1).admitted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn failures() -> Failures {
        Failures::new("10/m".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_eleventh_failure_in_a_minute_is_one_too_many() {
        let failures = failures();
        let source = IpAddr::from([192, 0, 2, 1]);
        for second in 0..10 {
            assert!(!failures.record(source, (1_000 + second / 5) * SECOND));
        }
        assert!(failures.record(source, 1_002 * SECOND));
        assert!(
            !failures.record(IpAddr::from([192, 0, 2, 2]), 1_002 * SECOND),
            "another source"
        );
        assert!(!failures.record(source, 1_100 * SECOND), "after a while");
    }

    #[test]
    fn a_client_cannot_hide_in_its_own_prefix() {
        let failures = failures();
        let over = (0..11u16).map(|n| {
            let source = IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, n]);
            failures.record(source, 1_000 * SECOND)
        });
        assert_eq!(over.filter(|over| *over).count(), 1);
    }
}
