//! Amounts, sizes and durations as people write them: `40k`, `64KiB`, `1m30s`.
//!
//! Whole numbers only: what a limiter runs with is never a rounded fraction.

use std::{fmt, time::Duration};

/// Units of a duration and their lengths in milliseconds, longest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Units of a size in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("", 1),
];

/// Multiples of a plain amount.
const COUNT_UNITS: [(&str, u64); 4] = [("", 1), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];

/// Splits digits (with `_` between them) from the unit that follows.
///
/// # Errors
/// When there is no whole number in front.
pub(super) fn number_and_unit(text: &str) -> Result<(u64, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if text.starts_with('-') {
        return Err(format!("`{text}` is negative: write a whole number above zero"));
    }
    if unit.starts_with('.') {
        return Err(format!(
            "`{text}` has a fraction: write a whole number, with a smaller unit if need be"
        ));
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() {
        return Err(format!("`{text}` does not begin with a number"));
    }
    let number = digits
        .parse()
        .map_err(|_| format!("`{text}` is too large: at most {} fits", u64::MAX))?;
    Ok((number, unit.trim_start()))
}

fn scaled(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text.trim())?;
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("`{text}` has the unknown unit `{unit}`: write it like {example}"))?;
    number
        .checked_mul(*factor)
        .ok_or_else(|| format!("`{text}` is too large: at most {} fits", u64::MAX))
}

/// A size in bytes: `64KiB`, `10MB`, `512`.
///
/// # Errors
/// A sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS, "512, 64KiB or 10MB")
}

/// An amount: `40000`, `40k`, `2M`; or, of bytes, a size.
///
/// # Errors
/// A sentence.
pub fn parse_count(text: &str) -> Result<u64, String> {
    scaled(text, &COUNT_UNITS, "40000, 40k or 2M")
}

/// A duration of one or more parts, longest first: `200ms`, `10s`, `1m30s`. At most 10,000 days.
///
/// # Errors
/// A sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("an empty text is no duration: write it like 200ms, 10s or 1m30s".to_owned());
    }
    let mut milliseconds = 0_u64;
    let mut shortest = u64::MAX;
    while !rest.is_empty() {
        let (number, tail) = number_and_unit(rest).map_err(|_| not_a_duration(text))?;
        let end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        if unit.is_empty() {
            return Err(format!("`{text}` has no unit: write it like 200ms, 10s or 1m30s"));
        }
        let length = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, length)| *length)
            .filter(|length| *length < shortest)
            .ok_or_else(|| not_a_duration(text))?;
        shortest = length;
        milliseconds = number
            .checked_mul(length)
            .and_then(|part| milliseconds.checked_add(part))
            .filter(|sum| *sum <= 10_000 * 86_400_000)
            .ok_or_else(|| format!("`{text}` is too long: at most 10000d"))?;
        rest = after;
    }
    Ok(Duration::from_millis(milliseconds))
}

fn not_a_duration(text: &str) -> String {
    format!("`{text}` is no duration: write it like 200ms, 10s or 1m30s (units d, h, m, s, ms)")
}

/// Shows a duration so that [`parse_duration`] reads it again, to the millisecond.
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in DURATION_UNITS {
            if rest >= length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "1s1m",
            "1s1s",
            "10 parsecs",
            "99999999999999999999s",
            "20000d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("10MB"), Ok(10_000_000));
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_count("40k"), Ok(40_000));
        assert_eq!(parse_count("40_000"), Ok(40_000));
        for bad in ["64kb", "1.5MB", "", "MB", "-1", "18446744073709551615k"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn shown_durations_are_read_back(milliseconds in 0_u64..10_000 * 86_400_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&Shown(duration).to_string()), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (parse_duration(&text), parse_size(&text), parse_count(&text));
        }
    }
}
