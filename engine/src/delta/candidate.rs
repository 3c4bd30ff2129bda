//! The coding of a group's streams: which coder makes them smallest, and how much time that is
//! worth.
//!
//! | what | coder | search | when |
//! |---|---|---|---|
//! | kinds that are long, or not taken apart, and mostly as in the base | differences | thorough | they are shorter than what they code |
//! | all kinds | prefix | fast | there are no such long kinds, or next to nothing is left |
//! | all kinds | prefix | thorough | more than [`LITTLE_BYTES`] are left |
//! | content that is not taken apart | differences | thorough | the same |
//!
//! Below [`BEST_LEVEL`], the searches are zstd's own of that level.
//!
//! Measured on modules compiled again by the same compiler: a thorough search of the prefix spends
//! nearly all its time on debug information and code. All but a thousandth of these are in the
//! base. As differences, they need no search.
//!
//! If many modules changed, differences are shorter too. For a changed path in each of 31 modules
//! they took 1,039 bytes instead of 1,552, and for a changed record 2,013 instead of 2,217. In a
//! single module, each kind coded this way costs 10 to 20 bytes more (130 instead of 98 for a
//! changed line). Between compilers, differences are worse by half (426 kB instead of 281 kB).
//!
//! If the modules themselves changed (a security revision of OTP), a thorough search saves a fifth:
//! 13.2 kB instead of 16.2 kB, in four times the time.

use super::bsdiff::Differences;
use super::decode::prefix;
use super::encode::Prepared;
use super::frame::{self, Head, Mode, Transform};
use super::streams::{KINDS, Kind, Streams};
use super::{BEST_LEVEL, Coder, Encoded, Options, PieceExplanation};
use crate::delta::cursor::len_u64;
use crate::delta::zstd_frame::{self, Search};

/// The length above which differences of streams are faster to find than a search. Shorter streams
/// are coded with the prefix.
const LONG_STREAMS_BYTES: usize = 32 << 10;
/// The length of bases and content up to which a thorough search takes hardly any time.
const SHORT_BYTES: usize = 96 << 10;
/// The size of a result up to which a thorough search is not worth its time.
const LITTLE_BYTES: usize = 4 << 10;
/// The divisor that defines "mostly as in the base": the differences are at most this part of the
/// streams.
const MOSTLY: usize = 8;
/// The size of differences up to which their form may cost more than it saves.
const NEXT_TO_NOTHING_BYTES: usize = 512;
/// The divisor of the gain that a thorough search can bring over a fast one, at most.
const THOROUGH_GAIN: usize = 3;
/// The length of streams below which a byte-wise difference is never worth it.
const MIN_DIFFERENCE_BYTES: usize = 64;

/// The differences that code each kind; `None` for a kind whose base streams are part of the
/// prefix.
type Choice = [Option<Differences>; KINDS];

/// The pieces of a group, each transformed in one way.
pub(super) struct Candidate<'p> {
    head: Head,
    bases: Vec<&'p Streams>,
    new: Vec<&'p Streams>,
    level: i32,
}

impl<'p> Candidate<'p> {
    pub(super) fn new(prepared: &'p [Prepared], options: &Options) -> Self {
        let mut deflate_check: Option<crc32fast::Hasher> = None;
        for deflated in prepared
            .iter()
            .filter_map(|prepared| prepared.deflated.as_ref())
        {
            deflate_check.get_or_insert_default().combine(deflated);
        }
        Self {
            head: Head {
                leave_compressed: !options.reflate,
                modes: prepared.iter().map(|prepared| prepared.mode).collect(),
                deflate_check: deflate_check.map(crc32fast::Hasher::finalize),
                differences: [false; KINDS],
                compressed_len: None,
            },
            bases: prepared.iter().map(|prepared| &prepared.base).collect(),
            new: prepared.iter().map(|prepared| &prepared.new).collect(),
            level: options.level,
        }
    }

    /// Returns the smallest of the codings that are worth trying. A thorough coding is left out if
    /// it cannot be below `limit` bytes.
    pub(super) fn smallest(&self, limit: usize) -> Coded {
        let prefix_only = Choice::default();
        let aligned = self.aligned();
        let has_content = aligned[Kind::Content.index()].is_some();
        let mut best = if aligned.iter().any(Option::is_some) {
            let aligned = self.coded(&aligned, self.thorough());
            let prefix_may_win = has_content || aligned.len() <= NEXT_TO_NOTHING_BYTES;
            aligned.smaller_of(prefix_may_win, |_| {
                Some(self.coded(&prefix_only, self.fast()))
            })
        } else {
            self.coded(&prefix_only, self.fast())
        };
        let has_more = self.fast() != self.thorough() || best.has_differences();
        let may_do = best.len() / THOROUGH_GAIN < limit / (THOROUGH_GAIN - 1);
        if has_more && may_do && best.len() > LITTLE_BYTES {
            best = best.smaller_of(true, |limit| {
                self.coded_within(&prefix_only, self.thorough(), limit)
            });
            if let Some(differences) = self.content_differences() {
                best = best.smaller_of(true, |limit| {
                    self.coded_within(&differences, self.thorough(), limit)
                });
            }
        }
        best
    }

    /// Estimates the length of the coded streams. The estimate is at worst a few times too large.
    pub(super) fn estimate(&self) -> usize {
        self.compressed(&Choice::default(), Search::Quick).len()
    }

    /// Codes the streams without the base, as plain zstd does, in less than `limit` bytes. Returns
    /// `None` if that is impossible.
    pub(super) fn solid(&self, limit: usize) -> Option<Coded> {
        self.coded_within(&Choice::default(), Search::Level(self.level), limit)
    }

    /// Estimates the result of [`Candidate::solid`].
    pub(super) fn estimate_solid(&self) -> usize {
        self.compressed(&Choice::default(), Search::Level(1)).len()
    }

    fn thorough(&self) -> Search {
        if self.level < BEST_LEVEL || self.base_len() == 0 {
            Search::Level(self.level)
        } else {
            Search::Deep
        }
    }

    fn fast(&self) -> Search {
        if self.level < BEST_LEVEL || self.searched_len() <= SHORT_BYTES {
            self.thorough()
        } else {
            Search::Fast
        }
    }

    /// Returns the differences of the long kinds that are mostly as in the base.
    fn aligned(&self) -> Choice {
        std::array::from_fn(|kind| {
            let kind = Kind::ALL[kind];
            let min_bytes = match kind {
                Kind::Content => MIN_DIFFERENCE_BYTES,
                _ => LONG_STREAMS_BYTES,
            };
            self.differences(kind, min_bytes, MOSTLY)
        })
    }

    /// Returns the differences of the content that is not taken apart.
    fn content_differences(&self) -> Option<Choice> {
        let differences = self.differences(Kind::Content, MIN_DIFFERENCE_BYTES, 1)?;
        let mut choice = Choice::default();
        choice[Kind::Content.index()] = Some(differences);
        Some(choice)
    }

    /// Returns the differences of a kind, if its streams have at least `min_bytes` and the
    /// differences are at most the given part of them.
    fn differences(&self, kind: Kind, min_bytes: usize, part: usize) -> Option<Differences> {
        let len = |streams: &[&Streams]| streams.iter().map(|s| s[kind].len()).sum::<usize>();
        if len(&self.bases).min(len(&self.new)) < min_bytes {
            return None;
        }
        let _span = tracing::trace_span!("differences").entered();
        let base = frame::side_by_side(&self.bases, kind);
        let new = frame::side_by_side(&self.new, kind);
        Differences::between(&base, &new, new.len() / part)
    }

    fn coded(&self, differences: &Choice, search: Search) -> Coded {
        self.with(differences, self.compressed(differences, search))
    }

    fn compressed(&self, differences: &Choice, search: Search) -> Vec<u8> {
        let (prefix, content) = self.prefix_and_content(differences);
        zstd_frame::compress_bare(&prefix, &content, search)
    }

    fn coded_within(&self, differences: &Choice, search: Search, limit: usize) -> Option<Coded> {
        let (prefix, content) = self.prefix_and_content(differences);
        zstd_frame::compress_bare_within(&prefix, &content, search, limit)
            .map(|compressed| self.with(differences, compressed))
    }

    fn prefix_and_content(&self, differences: &Choice) -> (Vec<u8>, Vec<u8>) {
        let mut content = Vec::new();
        frame::put_lengths(&mut content, &self.head.modes, &self.bases, &self.new);
        for kind in Kind::ALL {
            match &differences[kind.index()] {
                Some(differences) => differences.put(&mut content),
                None => content.extend_from_slice(&frame::side_by_side(&self.new, kind)),
            }
        }
        let chosen = std::array::from_fn(|kind| differences[kind].is_some());
        (prefix(&self.bases, &chosen), content)
    }

    fn with(&self, differences: &Choice, compressed: Vec<u8>) -> Coded {
        Coded {
            head: Head {
                differences: std::array::from_fn(|kind| differences[kind].is_some()),
                ..self.head.clone()
            },
            compressed,
        }
    }

    fn searched_len(&self) -> usize {
        self.base_len() + self.content_len()
    }

    fn base_len(&self) -> usize {
        self.bases.iter().map(|base| base.total_len()).sum()
    }

    fn content_len(&self) -> usize {
        self.new.iter().map(|new| new.total_len()).sum()
    }
}

/// A coded group.
pub(super) struct Coded {
    head: Head,
    compressed: Vec<u8>,
}

impl Coded {
    /// Returns the length in bytes, without the few bytes before the compressed streams.
    pub(super) fn len(&self) -> usize {
        self.compressed.len()
    }

    /// Makes the other coding if `condition` holds, with a limit. Returns the smaller of the two.
    pub(super) fn smaller_of(
        self,
        condition: bool,
        other: impl FnOnce(usize) -> Option<Self>,
    ) -> Self {
        let limit = self.len();
        let other = condition.then(|| other(limit)).flatten();
        other.filter(|other| other.len() < limit).unwrap_or(self)
    }

    /// Returns whether this is the contents compressed by plain zstd.
    pub(super) fn is_solid(&self) -> bool {
        let modes = &mut self.head.modes.iter();
        modes.all(|mode| mode.transform == Transform::Plain && !mode.has_base)
    }

    fn has_differences(&self) -> bool {
        self.head.differences.contains(&true)
    }

    /// Returns the mode of each piece.
    pub(super) fn modes(&self) -> &[Mode] {
        &self.head.modes
    }

    /// Appends the group to the body. `weights` give the approximate cost of each piece beside the
    /// others.
    pub(super) fn append(
        mut self,
        weights: &[usize],
        another_follows: bool,
        encoded: &mut Encoded,
    ) {
        // The bytes before the first group count as the first group's, so that the parts add up to
        // the body.
        let start = if encoded.explain.is_empty() {
            0
        } else {
            encoded.bytes.len()
        };
        self.head.compressed_len = another_follows.then_some(self.compressed.len());
        self.head.put(&mut encoded.bytes);
        encoded.bytes.extend_from_slice(&self.compressed);
        let bytes = len_u64(encoded.bytes.len() - start);
        let all = len_u64(weights.iter().sum::<usize>()).max(1);
        let (mut passed, mut given) = (0, 0);
        for (mode, weight) in self.head.modes.iter().zip(weights) {
            let by_difference = Kind::ALL
                .into_iter()
                .any(|kind| mode.transform.has(kind) && self.head.differences[kind.index()]);
            passed += len_u64(*weight);
            let part = bytes * passed / all - given;
            given += part;
            encoded.explain.push(PieceExplanation {
                transform: mode.transform,
                coder: if by_difference {
                    Coder::Differences
                } else {
                    Coder::Prefix
                },
                has_base: mode.has_base,
                bytes: part,
            });
        }
    }
}
