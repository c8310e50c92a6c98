//! What a handful of ratios says of their median.

use std::fmt;

/// The most that a row may cost beside the other revision.
const TOLERATED: f64 = 1.02;

/// The median of ratios and its 95 % confidence interval.
///
/// The interval is that of the sign test: it runs between two of the sorted ratios, and assumes nothing about how they
/// are spread (Conover, Practical Nonparametric Statistics, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

/// What follows from an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is above what is tolerated.
    Slower,
    /// All of it is below one.
    Faster,
    Same,
}

impl Interval {
    /// With fewer ratios even the interval of all of them is not certain enough.
    pub(super) const LEAST: usize = 6;

    /// `None`: there are fewer than [`Self::LEAST`].
    pub(super) fn of(ratios: &[f64]) -> Option<Self> {
        let count = ratios.len();
        if count < Self::LEAST {
            return None;
        }
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let skip = skipped(count);
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        Some(Self {
            low: sorted[skip],
            median,
            high: sorted[count - 1 - skip],
        })
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.low > TOLERATED {
            Outcome::Slower
        } else if self.high < 1.0 {
            Outcome::Faster
        } else {
            Outcome::Same
        }
    }
}

/// How many ratios can be left out at either end, so that the median lies between the others with a probability of
/// 95 % at least: as many tosses of a coin as there are ratios seldom show fewer heads.
fn skipped(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for heads in 0..count {
        sum += probability;
        if sum > 0.025 {
            return heads.saturating_sub(1);
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of runs")]
        let next = (count - heads) as f64 / (heads + 1) as f64;
        probability *= next;
    }
    0
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Same => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_ratios_leave_out_three_at_each_end() {
        // As tables of the sign test have it: the interval is the 4th to the 12th, at 96.5 %.
        let ratios: Vec<f64> = (1..=15).map(f64::from).collect();
        let interval = Interval::of(&ratios).unwrap();
        assert_eq!((interval.low, interval.median, interval.high), (4.0, 8.0, 12.0));
        let ratios: Vec<f64> = (1..=6).map(f64::from).collect();
        let interval = Interval::of(&ratios).unwrap();
        assert_eq!((interval.low, interval.median, interval.high), (1.0, 3.5, 6.0));
        assert_eq!(Interval::of(&ratios[..5]), None);
    }

    #[test]
    fn a_row_is_slower_when_all_of_its_interval_is() {
        let outcome = |low, high| {
            Interval {
                low,
                median: f64::midpoint(low, high),
                high,
            }
            .outcome()
        };
        assert_eq!(outcome(1.021, 1.1), Outcome::Slower);
        assert_eq!(outcome(1.019, 1.1), Outcome::Same);
        assert_eq!(outcome(0.9, 0.99), Outcome::Faster);
        assert_eq!(outcome(0.9, 1.0), Outcome::Same);
    }
}
