//! Rates: how much in how long.

use std::{fmt, num::NonZeroU64, str::FromStr, time::Duration};

use super::quantity;

/// Nanoseconds of a day: nothing slower than one a day is a limit.
const DAY: u128 = 86_400_000_000_000;

/// The most events a second.
const MOST_EVENTS: u128 = 1_000_000_000;

/// The most bytes a second: 100 Gbit/s.
const MOST_BYTES: u128 = 12_500_000_000;

/// Units of an amount: the name, what it counts, and (in bits when it counts bytes) how much it is.
const UNITS: [(&str, Unit, u64); 18] = [
    ("", Unit::Events, 1),
    ("k", Unit::Events, 1000),
    ("M", Unit::Events, 1_000_000),
    ("G", Unit::Events, 1_000_000_000),
    ("B", Unit::Bytes, 8),
    ("kB", Unit::Bytes, 8000),
    ("KB", Unit::Bytes, 8000),
    ("MB", Unit::Bytes, 8_000_000),
    ("GB", Unit::Bytes, 8_000_000_000),
    ("KiB", Unit::Bytes, 8 << 10),
    ("MiB", Unit::Bytes, 8 << 20),
    ("GiB", Unit::Bytes, 8 << 30),
    ("bit", Unit::Bytes, 1),
    ("kbit", Unit::Bytes, 1000),
    ("Kbit", Unit::Bytes, 1000),
    ("Mbit", Unit::Bytes, 1_000_000),
    ("Gbit", Unit::Bytes, 1_000_000_000),
    ("Tbit", Unit::Bytes, 1_000_000_000_000),
];

/// What a rate was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No unit, or a multiple: `20000/s`, `20k/s`.
    Events,
    /// Bytes or bits: `10Mbit/s`, `500KiB/s`.
    Bytes,
}

/// An amount in a period: `20000/s`, `100/m`, `10Mbit/s` (in bytes: 1250000 in a second).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: NonZeroU64,
    period: Duration,
}

impl Rate {
    /// How much, in one [`Self::period`].
    #[must_use]
    pub fn amount(self) -> NonZeroU64 {
        self.amount
    }

    /// In how long.
    #[must_use]
    pub fn period(self) -> Duration {
        self.period
    }

    /// As an amount per second, for comparing.
    #[must_use]
    pub fn per_second(self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "for comparing and showing, not for limiting"
        )]
        let amount = self.amount.get() as f64;
        amount / self.period.as_secs_f64()
    }

    /// `amount` in one `period`, which is not zero.
    #[must_use]
    pub fn new(amount: NonZeroU64, period: Duration) -> Option<Self> {
        (!period.is_zero()).then_some(Self { amount, period })
    }
}

impl Rate {
    /// Reads a rate and what it was written in.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<(Self, Unit), String> {
        let Some((amount, period)) = text.split_once('/') else {
            return Err(format!(
                "`{text}` is no rate: write an amount and a period, like 100/s, 20k/m or 10Mbit/s"
            ));
        };
        let (amount, unit) = parse_amount(amount.trim())?;
        let period = parse_period(period.trim())?;
        let Some(amount) = NonZeroU64::new(amount) else {
            return Err("zero is never unlimited: leave the limit out, or deny the sources".to_owned());
        };
        let rate = Self::new(amount, period).ok_or_else(|| format!("`{text}` has a period of zero"))?;
        rate.check_bounds(text, unit)?;
        Ok((rate, unit))
    }

    /// Whether this is faster than `other`, without rounding.
    #[must_use]
    pub fn exceeds(self, other: Self) -> bool {
        let left = u128::from(self.amount.get()) * other.period.as_nanos();
        let right = u128::from(other.amount.get()) * self.period.as_nanos();
        left > right
    }

    /// What comes in one second, rounded up: at least one.
    #[must_use]
    pub fn in_one_second(self) -> NonZeroU64 {
        let amount = (u128::from(self.amount.get()) * 1_000_000_000).div_ceil(self.period.as_nanos());
        u64::try_from(amount)
            .ok()
            .and_then(NonZeroU64::new)
            .unwrap_or(NonZeroU64::MAX)
    }

    fn check_bounds(self, text: &str, unit: Unit) -> Result<(), String> {
        let amount = u128::from(self.amount.get());
        let period = self.period.as_nanos();
        let (most, most_shown) = match unit {
            Unit::Events => (MOST_EVENTS, "1G/s"),
            Unit::Bytes => (MOST_BYTES, "100Gbit/s"),
        };
        if amount * 1_000_000_000 > most * period {
            return Err(format!(
                "`{text}` is faster than any limiter counts: at most {most_shown}, or leave the limit out"
            ));
        }
        if amount * DAY < period || period > DAY {
            return Err(format!(
                "`{text}` is too slow: at least 1/d, and a period of at most a day"
            ));
        }
        Ok(())
    }
}

fn parse_amount(text: &str) -> Result<(u64, Unit), String> {
    let (number, name) = quantity::number_and_unit(text)?;
    let (_, unit, factor) = UNITS.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
        format!(
            "`{text}` has the unknown unit `{name}`: write a count like 100 or 20k, or bytes like 500KiB, 1GB or 10Mbit"
        )
    })?;
    let too_large = || format!("`{text}` is too large: at most {} fits", u64::MAX);
    let amount = number.checked_mul(*factor).ok_or_else(too_large)?;
    match unit {
        Unit::Events => Ok((amount, *unit)),
        Unit::Bytes if amount.is_multiple_of(8) => Ok((amount / 8, *unit)),
        Unit::Bytes => Err(format!(
            "`{text}` is no whole number of bytes: write a multiple of 8bit"
        )),
    }
}

/// `s`, `m`, `h`, `d`, `ms` or a duration like `10s`.
fn parse_period(text: &str) -> Result<Duration, String> {
    let duration = if text.starts_with(|c: char| c.is_ascii_digit()) {
        quantity::parse_duration(text)
    } else {
        quantity::parse_duration(&format!("1{text}"))
    };
    match duration {
        Ok(duration) if duration.is_zero() => {
            Err(format!("the period `{text}` is zero: write s, m, h, d or 10s"))
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!(
            "`{text}` is no period: write s, m, h, d, ms or a duration like 10s"
        )),
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = quantity::Shown(self.period).to_string();
        let period = match period.strip_prefix('1') {
            Some(unit) if !unit.contains(|c: char| c.is_ascii_digit()) => unit,
            _ => &period,
        };
        write!(f, "{}/{period}", self.amount)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(rate, _)| rate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn per_second(text: &str) -> (u64, Unit) {
        let (rate, unit) = Rate::parse(text).unwrap();
        assert_eq!(rate.period(), Duration::from_secs(1), "{text}");
        (rate.amount().get(), unit)
    }

    #[test]
    fn units() {
        assert_eq!(per_second("20000/s"), (20_000, Unit::Events));
        assert_eq!(per_second("20k/s"), (20_000, Unit::Events));
        assert_eq!(per_second("2M/1s"), (2_000_000, Unit::Events));
        assert_eq!(per_second("10Mbit/s"), (1_250_000, Unit::Bytes));
        assert_eq!(per_second("1GB/s"), (1_000_000_000, Unit::Bytes));
        assert_eq!(per_second("500KiB/s"), (512_000, Unit::Bytes));
        assert_eq!(per_second("100Gbit/s"), (12_500_000_000, Unit::Bytes));
    }

    #[test]
    fn refusals_say_what_would_be_right() {
        for (text, fragment) in [
            ("100", "write an amount and a period"),
            ("0/s", "zero is never unlimited"),
            ("0bit/s", "zero is never unlimited"),
            ("-1/s", "negative"),
            ("1.5/s", "fraction"),
            ("/s", "does not begin with a number"),
            ("100/", "is no period"),
            ("100/fortnight", "is no period"),
            ("100/0s", "zero"),
            ("100q/s", "unknown unit `q`"),
            ("7bit/s", "multiple of 8bit"),
            ("2G/s", "at most 1G/s"),
            ("101Gbit/s", "at most 100Gbit/s"),
            ("1/2d", "too slow"),
            ("99999999999999999999/s", "too large"),
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn compares_without_rounding() {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        assert!(rate("61/m").exceeds(rate("1/s")));
        assert!(!rate("60/m").exceeds(rate("1/s")));
        assert_eq!(rate("61/m").in_one_second().get(), 2);
        assert_eq!(rate("1/d").in_one_second().get(), 1);
    }

    proptest! {
        #[test]
        fn shown_rates_are_read_back(amount in 1_u64..1_000_000, milliseconds in 1_u64..=86_400_000) {
            let rate = Rate::new(NonZeroU64::new(amount).unwrap(), Duration::from_millis(milliseconds)).unwrap();
            prop_assume!(rate.check_bounds("", Unit::Events).is_ok());
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in "[0-9kMG/smhdbitB. -]*") {
            let _ = Rate::parse(&text);
        }
    }
}
