//! Sizes, rates and durations, as people write and read them.
//!
//! Pure. Rates are written as rsync's `--bwlimit` wants them; durations as a number and a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// The longest duration that is accepted, so that no arithmetic on it overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a text is not a rate, a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    /// Not a rate.
    #[error("{text:?} is not a rate: write a number and k, M or G, like 11k or 2M")]
    Rate {
        /// The text.
        text: String,
    },
    /// Not a size.
    #[error("{text:?} is not a size: write a number and B, k, M or G, like 500M or 2G")]
    Size {
        /// The text.
        text: String,
    },
    /// Not a duration.
    #[error("{text:?} is not a duration: write a number and ms, s, m or h, like 60s or 2m")]
    Duration {
        /// The text.
        text: String,
    },
}

/// Bytes per second.
///
/// Written as for rsync: a number, perhaps with a fraction, and a suffix. `k`, `M` and `G` (also
/// `KiB`, …) count in 1024, `kB`, `MB` and `GB` in 1000, and `b` is a byte. A bare number counts KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Rate(pub(crate) u64);

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Rate {
            text: text.to_owned(),
        };
        let (number, suffix) = split_number(text);
        let unit = match suffix {
            "" => Some(1 << 10),
            suffix => byte_unit(suffix),
        };
        unit.and_then(|unit| scaled(number, unit))
            .map(Self)
            .ok_or_else(error)
    }
}

/// The bytes that a suffix of rsync stands for.
fn byte_unit(suffix: &str) -> Option<u64> {
    Some(match suffix.to_ascii_lowercase().as_str() {
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    })
}

/// A number of bytes, with the suffixes of a [`Rate`]; a bare number counts in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, suffix) = split_number(text);
        let unit = match suffix {
            "" => Some(1),
            suffix => byte_unit(suffix),
        };
        unit.and_then(|unit| scaled(number, unit))
            .map(Self)
            .ok_or_else(|| UnitError::Size {
                text: text.to_owned(),
            })
    }
}

impl TryFrom<String> for Size {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl TryFrom<String> for Rate {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

/// A length of time: a number and `ms`, `s`, `m`, `h` or `d`; seconds without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// The whole milliseconds of a span; `None` for zero, which stands for "no limit".
    pub(crate) fn limit_ms(self) -> Option<u64> {
        u64::try_from(self.0.as_millis()).ok().filter(|ms| *ms > 0)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Duration {
            text: text.to_owned(),
        };
        let (number, suffix) = split_number(text);
        let unit_ms = match suffix {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        let milliseconds = scaled(number, unit_ms).ok_or_else(error)?;
        let span = Duration::from_millis(milliseconds);
        if span > LONGEST {
            return Err(error());
        }
        Ok(Self(span))
    }
}

impl TryFrom<String> for Span {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A decimal number, with at most three digits after the point, times `unit`.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 3 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let thousandths = if fraction.is_empty() {
        0
    } else {
        format!("{fraction:0<3}").parse::<u64>().ok()?
    };
    whole.checked_add(thousandths * unit / 1000)
}

/// Shows a number of bytes with three digits: `17 B`, `1.23 kB`, `45.6 MB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        // Thousandths of the unit, so that no float is needed.
        let mut thousandths = self.0;
        let mut unit = 0;
        while thousandths >= 1_000_000 && unit + 1 < UNITS.len() {
            thousandths /= 1000;
            unit += 1;
        }
        let (whole, rest) = (thousandths / 1000, thousandths % 1000);
        match whole {
            0..10 => write!(f, "{whole}.{:02} {}", rest / 10, UNITS[unit]),
            10..100 => write!(f, "{whole}.{} {}", rest / 100, UNITS[unit]),
            _ => write!(f, "{whole} {}", UNITS[unit]),
        }
    }
}

/// Shows how many there are of something: `1 entry`, `3 entries`, `2 snapshots`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count<N>(pub(crate) N, pub(crate) &'static str);

impl<N: fmt::Display> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.to_string();
        match (self.1, self.1.strip_suffix('y')) {
            (noun, _) if count == "1" => write!(f, "{count} {noun}"),
            (_, Some(stem)) => write!(f, "{count} {stem}ies"),
            (noun, None) => write!(f, "{count} {noun}s"),
        }
    }
}

/// Shows a duration in the unit that suits it: `12 ms`, `3.4 s`, `2 min 5 s`, `1 h 20 min`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{seconds}.{} s", self.0.subsec_millis() / 100),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Shows a moment, given in seconds since 1970, as date and time in UTC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    /// The civil calendar from a count of days, after H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_english() {
        let table = [
            (Count(1, "entry"), "1 entry"),
            (Count(0, "entry"), "0 entries"),
            (Count(12, "snapshot"), "12 snapshots"),
            (Count(1, "snapshot"), "1 snapshot"),
        ];
        for (count, text) in table {
            assert_eq!(count.to_string(), text);
        }
    }

    #[test]
    fn rates_are_those_of_rsync() {
        let table: &[(&str, Option<u64>)] = &[
            ("11k", Some(11 * 1024)),
            ("11K", Some(11 * 1024)),
            ("2M", Some(2 << 20)),
            ("1.5m", Some(3 << 19)),
            ("1g", Some(1 << 30)),
            ("100", Some(100 * 1024)),
            ("100kB", Some(100_000)),
            ("1MB", Some(1_000_000)),
            ("1MiB", Some(1 << 20)),
            ("300b", Some(300)),
            ("0", Some(0)),
            ("", None),
            ("k", None),
            (".5k", None),
            ("-1k", None),
            ("1.2345k", None),
            ("1 k", None),
            ("1.2.3k", None),
            ("11x", None),
            ("99999999999999999999g", None),
            ("18446744073709551615g", None),
        ];
        for (text, expected) in table {
            let rate = text.parse::<Rate>().ok().map(|rate| rate.0);
            assert_eq!(rate, *expected, "{text:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        let table: &[(&str, Option<u64>)] = &[
            ("60s", Some(60_000)),
            ("60", Some(60_000)),
            ("2m", Some(120_000)),
            ("2min", Some(120_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1d", Some(86_400_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1y", None),
            ("999999999h", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in table {
            let span = text.parse::<Span>().ok().map(|span| span.0.as_millis());
            assert_eq!(span, expected.map(u128::from), "{text:?}");
        }
        assert_eq!(Span(Duration::ZERO).limit_ms(), None);
        assert_eq!(Span(Duration::from_secs(2)).limit_ms(), Some(2000));
    }

    #[test]
    fn bytes_have_three_digits() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1234, "1.23 kB"),
            (45_678, "45.6 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.00 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18446 PB"),
        ];
        for (bytes, text) in table {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn durations_show_in_a_fitting_unit() {
        let table = [
            (12, "12 ms"),
            (3456, "3.4 s"),
            (125_000, "2 min 5 s"),
            (4_800_000, "1 h 20 min"),
        ];
        for (milliseconds, text) in table {
            let shown = Elapsed(Duration::from_millis(milliseconds)).to_string();
            assert_eq!(shown, text);
        }
    }

    #[test]
    fn moments_show_as_civil_time() {
        let table = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
        ];
        for (seconds, text) in table {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }
}
