//! How much time a smaller body is worth: that of the link that it is for.
//!
//! Owns the figures by which a search is held against the link. Reads no clock and counts no cores: the same content, level and rate
//! give the same body on every machine. Four searches are made one after the other, each if it pays:
//!
//! | search | if nothing is known of the link | if its rate is known |
//! |---|---|---|
//! | quick, with the base as prefix | no | yes |
//! | for differences | yes | the link takes longer for what it may spare than the search does |
//! | fast | yes | the same |
//! | thorough | more than [`LITTLE_BYTES`] are left | the same |
//!
//! What a search may spare is a part of what is left, and its time is that of going through content and bases. Both are rough: taken on
//! Debian's packages (`benches/README.md`), in CPU time of a Xeon of 2023, one pair after the other.
//!
//! | pair | differences spare | then fast | then thorough |
//! |---|---|---|---|
//! | `ejabberd-beams` | 0.07 | 0.05 | 0.26 |
//! | `p1-25-beams` | 0.05 | 0.06 | 0.25 |
//! | `otp-27-beams` | 0.35 | 0.03 | 0.13 |
//! | `otp-27-native` | 0.80 | 0.06 | 0.06 |
//! | `elixir-beams` | 0.03 | 0.27 | 0.04 |
//! | `tsung-beams` | 0 | 0.25 | 0.08 |
//!
//! Differences go through 60 to 95 MB a second, a fast search through 50 to 65, a thorough one through 12 to 14 between modules of one
//! compiler and 5 between those of two. Without bases, zstd's level 19 spares 0.03 to 0.08 of what level 9 leaves, and goes through 5 MB.

use super::{BEST_LEVEL, Options};

/// Whatever the link, this is little: a slow one then takes longer for what a thorough search spares than that search does.
const LITTLE_BYTES: usize = 4 << 10;
/// Up to this length of bases and content, a thorough search takes no time worth mentioning, whatever the link.
pub(super) const SHORT_BYTES: usize = 96 << 10;
/// zstd's level where a link is too fast for more.
pub(super) const FAST_LEVEL: i32 = 9;
/// Differences, held against a quick search.
const DIFFERENCES: Search = Search {
    gain: 4,
    bytes_per_s: 80_000_000,
};
/// A fast search with bases, held against a quick one.
const FAST: Search = Search {
    gain: 4,
    bytes_per_s: 50_000_000,
};
/// A thorough search with bases, held against a fast one.
const THOROUGH: Search = Search {
    gain: 5,
    bytes_per_s: 10_000_000,
};
/// The same without bases.
const ALONE: Search = Search {
    gain: 16,
    bytes_per_s: 5_000_000,
};

/// What a search achieves.
struct Search {
    /// It spares about this part of what is left.
    gain: u128,
    /// It goes through so much content, bases included, in a second of CPU time.
    bytes_per_s: u128,
}

/// How long may be searched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    level: i32,
    link_bytes_per_s: Option<u64>,
}

impl Effort {
    /// Returns what so much content and bases are worth.
    pub(super) fn of(options: &Options, searched_bytes: usize) -> Self {
        // A lower level says by itself that time counts.
        let is_limited = options.level >= BEST_LEVEL && searched_bytes > SHORT_BYTES;
        Self {
            level: options.level,
            link_bytes_per_s: options.link_bytes_per_s.filter(|_| is_limited),
        }
    }

    /// Says whether time counts as well as size.
    pub(super) fn is_limited(self) -> bool {
        self.link_bytes_per_s.is_some()
    }

    /// Says whether a thorough search through `searched_bytes` of bases and content pays where `left_bytes` are left.
    pub(super) fn thorough_pays(self, left_bytes: usize, searched_bytes: usize) -> bool {
        match self.link_bytes_per_s {
            None => left_bytes > LITTLE_BYTES,
            Some(rate) => THOROUGH.pays(left_bytes, searched_bytes, rate),
        }
    }

    /// The same of differences and a quick search of the rest, held against a quick search of all.
    pub(super) fn differences_pay(self, left_bytes: usize, searched_bytes: usize) -> bool {
        self.link_bytes_per_s
            .is_none_or(|rate| DIFFERENCES.pays(left_bytes, searched_bytes, rate))
    }

    /// The same of a fast search, held against a quick one.
    pub(super) fn fast_pays(self, left_bytes: usize, searched_bytes: usize) -> bool {
        self.link_bytes_per_s
            .is_none_or(|rate| FAST.pays(left_bytes, searched_bytes, rate))
    }

    /// Returns the level for so much content without a base, of which about `left_bytes` are left.
    pub(super) fn level_alone(self, left_bytes: usize, content_bytes: usize) -> i32 {
        match self.link_bytes_per_s {
            Some(rate) if !ALONE.pays(left_bytes, content_bytes, rate) => {
                self.level.min(FAST_LEVEL)
            }
            _ => self.level,
        }
    }
}

impl Search {
    fn pays(&self, left_bytes: usize, searched_bytes: usize, link_bytes_per_s: u64) -> bool {
        let bytes = |bytes: usize| u128::try_from(bytes).unwrap_or(u128::MAX);
        // What is spared, divided by the link's rate, against what is searched, divided by the search's.
        bytes(left_bytes).saturating_mul(self.bytes_per_s)
            > bytes(searched_bytes)
                .saturating_mul(self.gain)
                .saturating_mul(link_bytes_per_s.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the effort for a frame's content and bases.
    fn over(link_bytes_per_s: Option<u64>, level: i32) -> Effort {
        let options = Options {
            level,
            link_bytes_per_s,
            ..Options::default()
        };
        Effort::of(&options, 6_700_000)
    }

    #[test]
    fn a_thorough_search_pays_where_the_link_takes_longer() {
        // A frame of modules by the same compiler, years apart: 58 kB are left of 6.7 MB.
        let frame = (58_000, 6_700_000);
        for (rate, (left, searched), pays) in [
            (None, frame, true),
            (Some(11_500), frame, true),
            (Some(50_000), frame, false),
            (Some(10_000_000), frame, false),
            (None, (LITTLE_BYTES, 200_000), false),
            (Some(11_500), (LITTLE_BYTES, 200_000), true),
            (Some(0), (1, 6_700_000), true),
            (Some(u64::MAX), (1 << 20, 1 << 20), false),
            (Some(u64::MAX), (usize::MAX, usize::MAX), false),
            (Some(1), (usize::MAX, usize::MAX), true),
        ] {
            let effort = over(rate, BEST_LEVEL);
            assert_eq!(
                effort.thorough_pays(left, searched),
                pays,
                "{rate:?} {left} {searched}"
            );
        }
    }

    #[test]
    fn the_faster_the_link_the_less_is_searched() {
        let searches = |rate| {
            let effort = over(rate, BEST_LEVEL);
            [
                effort.differences_pay(100_000, 1_000_000),
                effort.fast_pays(100_000, 1_000_000),
                effort.thorough_pays(100_000, 1_000_000),
            ]
        };
        for (rate, expected) in [
            (None, [true, true, true]),
            (Some(100_000), [true, true, true]),
            (Some(1_000_000), [true, true, false]),
            (Some(1_500_000), [true, false, false]),
            (Some(10_000_000), [false, false, false]),
        ] {
            assert_eq!(searches(rate), expected, "{rate:?}");
        }
    }

    #[test]
    fn the_level_is_lower_for_a_fast_link_only() {
        for (rate, level, expected) in [
            (None, BEST_LEVEL, BEST_LEVEL),
            (Some(11_500), BEST_LEVEL, BEST_LEVEL),
            (Some(10_000_000), BEST_LEVEL, FAST_LEVEL),
            (Some(10_000_000), 3, 3),
            (Some(10_000_000), 12, 12),
        ] {
            let found = over(rate, level).level_alone(400_000, 1_000_000);
            assert_eq!(found, expected, "{rate:?} {level}");
        }
    }

    #[test]
    fn a_short_group_is_searched_thoroughly_over_any_link() {
        let options = Options {
            link_bytes_per_s: Some(u64::MAX),
            ..Options::default()
        };
        assert!(!Effort::of(&options, SHORT_BYTES).is_limited());
        assert!(Effort::of(&options, SHORT_BYTES + 1).is_limited());
    }
}
