//! Byte-wise differences, for content that keeps its shape while addresses in it change: native executables.
//!
//! Finds approximate matches in the base by exact ones that are extended as long as most bytes agree, and writes what
//! to add to the base's bytes, most of which is zero and left out. Nothing here compresses; zstd does that to the result.
//!
//! Source: Colin Percival, "Naïve differences of executable code", 2003 (bsdiff).

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed};
use super::suffix_array::suffix_array;

/// How many more bytes than the match that goes on anyway a match must have to be worth a seek.
const MIN_GAIN: usize = 8;

/// Appends the differences between two contents.
pub(super) fn put(out: &mut Vec<u8>, base: &[u8], new: &[u8]) {
    let mut sections = Sections::default();
    for step in steps(base, new) {
        sections.push(base, new, &step);
    }
    for section in [
        &sections.control,
        &sections.gaps,
        &sections.values,
        &sections.extra,
    ] {
        put_len(out, section.len());
        out.extend_from_slice(section);
    }
}

/// Makes `len` bytes from the base and the differences in front of `cursor`.
pub(super) fn apply(
    base: &[u8],
    cursor: &mut Cursor<'_>,
    len: usize,
) -> Result<Vec<u8>, Malformed> {
    let mut section = || {
        let length = cursor.varint_len()?;
        cursor.take(length).map(Cursor::new)
    };
    let (mut control, mut gaps, mut values, mut extra) =
        (section()?, section()?, section()?, section()?);
    let mut out = Vec::new();
    let mut at = 0_usize;
    let mut run = Run::next(&mut gaps)?;
    while !control.is_empty() {
        let copied = control.varint_len()?;
        let inserted = control.varint_len()?;
        let seek = control.signed()?;
        let end = at.checked_add(copied).ok_or(Malformed)?;
        let matched = base.get(at..end).ok_or(Malformed)?;
        if copied + inserted > len - out.len() {
            return Err(Malformed);
        }
        for byte in matched {
            out.push(byte.wrapping_add(run.difference(&mut gaps, &mut values)?));
        }
        out.extend_from_slice(extra.take(inserted)?);
        at = len_i64(end)
            .checked_add(seek)
            .and_then(|at| usize::try_from(at).ok())
            .ok_or(Malformed)?;
    }
    let all_used = run.is_end() && values.is_empty() && extra.is_empty() && out.len() == len;
    if all_used { Ok(out) } else { Err(Malformed) }
}

/// Equal bytes, then differing ones.
struct Run {
    equal: Option<u64>,
    differing: u64,
}

impl Run {
    fn next(gaps: &mut Cursor<'_>) -> Result<Self, Malformed> {
        if gaps.is_empty() {
            return Ok(Self {
                equal: None,
                differing: 0,
            });
        }
        let run = Self {
            equal: Some(gaps.varint()?),
            differing: gaps.varint()?,
        };
        if run.differing == 0 {
            Err(Malformed)
        } else {
            Ok(run)
        }
    }

    fn is_end(&self) -> bool {
        self.equal.is_none()
    }

    /// Returns what to add to the next byte.
    fn difference(
        &mut self,
        gaps: &mut Cursor<'_>,
        values: &mut Cursor<'_>,
    ) -> Result<u8, Malformed> {
        match &mut self.equal {
            None => Ok(0),
            Some(equal @ 1..) => {
                *equal -= 1;
                Ok(0)
            }
            Some(0) => {
                self.differing -= 1;
                if self.differing == 0 {
                    *self = Self::next(gaps)?;
                }
                values.byte()
            }
        }
    }
}

/// A match, and the new bytes behind it.
struct Step {
    base_at: usize,
    new_at: usize,
    copied: usize,
    inserted: usize,
    /// Where the next match starts in the base.
    next_base_at: usize,
}

#[derive(Default)]
struct Sections {
    control: Vec<u8>,
    gaps: Vec<u8>,
    values: Vec<u8>,
    extra: Vec<u8>,
    equal: usize,
    differing: usize,
}

impl Sections {
    fn push(&mut self, base: &[u8], new: &[u8], step: &Step) {
        put_len(&mut self.control, step.copied);
        put_len(&mut self.control, step.inserted);
        put_signed(
            &mut self.control,
            len_i64(step.next_base_at) - len_i64(step.base_at + step.copied),
        );
        let new_end = step.new_at + step.copied;
        for (base, new) in base[step.base_at..].iter().zip(&new[step.new_at..new_end]) {
            let difference = new.wrapping_sub(*base);
            if difference != 0 {
                self.values.push(difference);
                self.differing += 1;
            } else {
                self.end_run();
                self.equal += 1;
            }
        }
        self.extra
            .extend_from_slice(&new[new_end..new_end + step.inserted]);
        self.end_run();
    }

    fn end_run(&mut self) {
        if self.differing > 0 {
            put_len(&mut self.gaps, self.equal);
            put_len(&mut self.gaps, self.differing);
            (self.equal, self.differing) = (0, 0);
        }
    }
}

/// Finds the matches.
fn steps(base: &[u8], new: &[u8]) -> Vec<Step> {
    let index = Index::new(base);
    let mut steps = Vec::new();
    let (mut last_new, mut last_base) = (0, 0);
    let (mut scan, mut length) = (0, 0);
    let mut found = 0;
    while scan < new.len() {
        scan += length;
        // How many bytes of the coming match agree with the base if the last match goes on.
        let mut agreeing = 0;
        let mut scored = scan;
        length = 0;
        while scan < new.len() {
            (found, length) = index.longest_match(&new[scan..]);
            while scored < scan + length {
                agreeing += usize::from(goes_on(base, new, last_base, last_new, scored));
                scored += 1;
            }
            if length == agreeing && length != 0 || length > agreeing + MIN_GAIN {
                break;
            }
            agreeing -= usize::from(goes_on(base, new, last_base, last_new, scan));
            scan += 1;
        }
        if length == agreeing && scan < new.len() {
            continue;
        }
        let forward = extend_forward(&base[last_base..], &new[last_new..scan]);
        let backward = if scan < new.len() {
            extend_backward(&base[..found], &new[last_new..scan])
        } else {
            0
        };
        let (forward, backward) = resolve_overlap(
            base,
            new,
            Gap {
                last_base,
                last_new,
                found,
                scan,
            },
            forward,
            backward,
        );
        let next_base = if scan < new.len() {
            found - backward
        } else {
            last_base + forward
        };
        steps.push(Step {
            base_at: last_base,
            new_at: last_new,
            copied: forward,
            inserted: scan - backward - last_new - forward,
            next_base_at: next_base,
        });
        (last_new, last_base) = (scan - backward, next_base);
    }
    steps
}

/// Says whether the byte at `at` is the base's if the last match goes on.
fn goes_on(base: &[u8], new: &[u8], last_base: usize, last_new: usize, at: usize) -> bool {
    base.get(last_base + at - last_new) == Some(&new[at])
}

/// Returns how far a match extends to the right as long as more than half of its bytes agree.
fn extend_forward(base: &[u8], new: &[u8]) -> usize {
    best_extension(base.iter().zip(new))
}

/// Like [`extend_forward`], to the left.
fn extend_backward(base: &[u8], new: &[u8]) -> usize {
    best_extension(base.iter().rev().zip(new.iter().rev()))
}

fn best_extension<'b>(pairs: impl Iterator<Item = (&'b u8, &'b u8)>) -> usize {
    let (mut score, mut best_score, mut best) = (0_i64, 0_i64, 0);
    for (length, (base, new)) in (1..).zip(pairs) {
        score += if base == new { 1 } else { -1 };
        if score > best_score {
            (best_score, best) = (score, length);
        }
    }
    best
}

/// Where the last match started and where the next one was found.
struct Gap {
    last_base: usize,
    last_new: usize,
    found: usize,
    scan: usize,
}

/// Shortens two extensions that overlap, at the place where the most bytes agree.
fn resolve_overlap(
    base: &[u8],
    new: &[u8],
    gap: Gap,
    forward: usize,
    backward: usize,
) -> (usize, usize) {
    let overlap = (gap.last_new + forward).saturating_sub(gap.scan - backward);
    if overlap == 0 {
        return (forward, backward);
    }
    let (left, right) = (forward - overlap, gap.found - backward);
    let (mut score, mut best_score, mut split) = (0_i64, 0_i64, 0);
    for at in 0..overlap {
        let byte = new[gap.last_new + left + at];
        score += i64::from(byte == base[gap.last_base + left + at]);
        score -= i64::from(byte == base[right + at]);
        if score > best_score {
            (best_score, split) = (score, at + 1);
        }
    }
    (left + split, backward - split)
}

/// The base and its suffixes in order.
struct Index<'b> {
    base: &'b [u8],
    sorted: Vec<usize>,
    /// For each pair of bytes, where the suffixes that start with it begin; at the end the number of suffixes.
    starts: Vec<usize>,
}

/// Number of pairs of bytes.
const PAIRS: usize = 1 << 16;

impl<'b> Index<'b> {
    fn new(base: &'b [u8]) -> Self {
        let sorted = suffix_array(base);
        let mut starts = Vec::with_capacity(PAIRS + 1);
        for (rank, at) in sorted.iter().enumerate() {
            // The last suffix, of one byte, stands in front of all others that start with it.
            let pair = pair(&base[*at..]);
            if pair >= starts.len() {
                starts.resize(pair + 1, rank);
            }
        }
        starts.resize(PAIRS + 1, sorted.len());
        Self {
            base,
            sorted,
            starts,
        }
    }

    /// Returns position and length of the longest match of the start of `text`.
    fn longest_match(&self, text: &[u8]) -> (usize, usize) {
        let pair = pair(text);
        let first = self.starts[pair];
        let alike = &self.sorted[first..self.starts[pair + 1]];
        let behind = first + alike.partition_point(|at| self.base[*at..] < *text);
        let neighbours = [behind.checked_sub(1), Some(behind)];
        let suffixes = neighbours
            .into_iter()
            .flatten()
            .filter_map(|index| self.sorted.get(index));
        suffixes
            .map(|at| (*at, common_len(&self.base[*at..], text)))
            .max_by_key(|(_, length)| *length)
            .unwrap_or((0, 0))
    }
}

/// Returns the first two bytes as a number; a missing one counts as zero.
fn pair(text: &[u8]) -> usize {
    let byte = |at| usize::from(text.get(at).copied().unwrap_or(0));
    byte(0) << 8 | byte(1)
}

fn common_len(one: &[u8], other: &[u8]) -> usize {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn differences(base: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, base, new);
        out
    }

    fn applied(base: &[u8], differences: &[u8], len: usize) -> Result<Vec<u8>, Malformed> {
        let mut cursor = Cursor::new(differences);
        let out = apply(base, &mut cursor, len)?;
        if cursor.is_empty() {
            Ok(out)
        } else {
            Err(Malformed)
        }
    }

    #[test]
    fn shifted_addresses_cost_their_differences() {
        let base: Vec<u8> = (0..4000_u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        let mut new = base.clone();
        new.splice(100..100, [1, 2, 3, 4]);
        for at in (200..new.len()).step_by(200) {
            new[at] = new[at].wrapping_add(4);
        }
        let differences = differences(&base, &new);
        assert!(differences.len() < 350, "{} bytes", differences.len());
        assert_eq!(applied(&base, &differences, new.len()), Ok(new));
    }

    #[test]
    fn wrong_differences_are_refused() {
        let (base, new) = (
            b"some bytes of a base".repeat(9),
            b"some bytes of a new base".repeat(9),
        );
        let good = differences(&base, &new);
        for end in 0..good.len() {
            assert_eq!(
                applied(&base, &good[..end], new.len()),
                Err(Malformed),
                "cut at {end}"
            );
        }
        assert_eq!(applied(&base, &good, new.len() - 1), Err(Malformed));
        assert_eq!(applied(&base, &good, new.len() + 1), Err(Malformed));
        assert_eq!(applied(&base[..10], &good, new.len()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn contents_come_back(base in prop::collection::vec(0_u8..6, 0..300), edits in prop::collection::vec((0_usize..300, 0_usize..20, 0_u8..6), 0..8)) {
            let mut new = base.clone();
            for (at, length, byte) in edits {
                let at = at.min(new.len());
                let end = (at + length).min(new.len());
                new.splice(at..end, vec![byte; length / 2]);
            }
            prop_assert_eq!(applied(&base, &differences(&base, &new), new.len()), Ok(new));
        }

        #[test]
        fn anything_is_applied_or_refused(base in prop::collection::vec(any::<u8>(), 0..50), bytes in prop::collection::vec(any::<u8>(), 0..60), len in 0_usize..100) {
            if let Ok(out) = apply(&base, &mut Cursor::new(&bytes), len) {
                prop_assert_eq!(out.len(), len);
            }
        }
    }
}
