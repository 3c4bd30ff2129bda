//! Byte-wise differences, for content that keeps its shape while numbers in it change: native executables, and the streams of
//! modules that were compiled anew.
//!
//! Finds approximate matches in the base by exact ones that are extended as long as most bytes agree, and writes what
//! to add to the base's bytes, most of which is zero and left out. Nothing here compresses; zstd does that to the result.
//!
//! Exact matches are looked for where the last one would go on, and else in a hash table of the base's strings: linear in time,
//! and as good in what it finds as a suffix array that takes ten times as long.
//!
//! Source: Colin Percival, "Naïve differences of executable code", 2003 (bsdiff).

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed};
use super::pointers::{Match, Moves};
use crate::zstd_frame::{self, Search};

/// How many more bytes than the match that goes on anyway a match must have to be worth a seek.
const MIN_GAIN: usize = 8;
/// While the last match goes on for this many bytes, no other is looked for.
const GOES_ON: usize = 32;
/// Fewer differing bytes than this are not worth a look for pointers.
const MANY_VALUES: usize = 256;
/// A base of this many bytes may be a part of a file.
const PART_BYTES: usize = 4 << 20;
/// How far beyond a base pointers may reach; the first is for bases that are whole files.
const REACHES: [usize; 3] = [0, 4 << 20, 16 << 20];

/// The differences between two contents.
#[derive(Debug, Default)]
pub(super) struct Differences {
    control: Vec<u8>,
    gaps: Vec<u8>,
    values: Vec<u8>,
    extra: Vec<u8>,
    moves: Vec<u8>,
}

impl Differences {
    /// Finds the differences of `new` from `base`; `None` as soon as they are more than `limit` bytes before compression.
    pub(super) fn between(base: &[u8], new: &[u8], limit: usize) -> Option<Self> {
        let mut writer = Writer::default();
        let mut index = Index::new(base);
        let mut steps = Vec::new();
        let mut last = (0, 0);
        let mut scan = 0;
        while scan < new.len() {
            let step = next_step(&mut index, new, &mut last, &mut scan);
            writer.push(step.matched(base).base, new, &step);
            steps.push(step);
            if writer.differences.len() > limit {
                return None;
            }
        }
        let plain = writer.differences;
        if plain.values.len() < MANY_VALUES {
            return Some(plain);
        }
        let reaches = if base.len() < PART_BYTES {
            &REACHES[..1]
        } else {
            &REACHES
        };
        let moved = reaches
            .iter()
            .filter_map(|reach| Self::moved(base, new, &steps, *reach));
        std::iter::once(plain)
            .chain(moved)
            .min_by_key(Self::compressed_len)
    }

    /// Returns the differences that are left where the base's pointers are moved; `None` if none has.
    fn moved(base: &[u8], new: &[u8], steps: &[Step], reach: usize) -> Option<Self> {
        let matches = steps.iter().map(|step| step.matched(base));
        let moves = Moves::learn(base, new, matches, reach);
        if moves.is_empty() {
            return None;
        }
        let mut writer = Writer::default();
        for step in steps {
            writer.push(&moves.applied(step.matched(base)), new, step);
        }
        moves.put(&mut writer.differences.moves);
        Some(writer.differences)
    }

    /// Estimates their length in bytes, compressed.
    fn compressed_len(&self) -> usize {
        let mut bytes = Vec::with_capacity(self.len());
        self.put(&mut bytes);
        zstd_frame::compress_bare(b"", &bytes, Search::Fast).len()
    }

    /// Returns their length in bytes, before compression.
    fn len(&self) -> usize {
        self.sections().iter().map(|section| section.len()).sum()
    }

    /// Appends them.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for section in self.sections() {
            put_len(out, section.len());
            out.extend_from_slice(section);
        }
    }

    fn sections(&self) -> [&[u8]; 5] {
        let Self {
            control,
            gaps,
            values,
            extra,
            moves,
        } = self;
        [control, gaps, values, extra, moves]
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
    let moves = Moves::take(section()?.rest(), base)?;
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
        let matched = moves.applied(Match {
            base: matched,
            base_at: at,
            new_at: out.len(),
        });
        for byte in matched.iter() {
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

impl Step {
    fn matched<'b>(&self, base: &'b [u8]) -> Match<'b> {
        Match {
            base: &base[self.base_at..self.base_at + self.copied],
            base_at: self.base_at,
            new_at: self.new_at,
        }
    }
}

/// Writes differences, counting how many bytes had none, and then had some.
#[derive(Default)]
struct Writer {
    differences: Differences,
    equal: usize,
    differing: usize,
}

impl Writer {
    /// Writes a step whose match stands for these bytes.
    fn push(&mut self, mut base: &[u8], new: &[u8], step: &Step) {
        let to = &mut self.differences;
        put_len(&mut to.control, step.copied);
        put_len(&mut to.control, step.inserted);
        put_signed(
            &mut to.control,
            len_i64(step.next_base_at) - len_i64(step.base_at + step.copied),
        );
        let new_end = step.new_at + step.copied;
        to.extra
            .extend_from_slice(&new[new_end..new_end + step.inserted]);
        let mut new = &new[step.new_at..new_end];
        while !new.is_empty() {
            let equal = common_len(base, new);
            if equal > 0 {
                self.end_run();
                self.equal += equal;
                (base, new) = (&base[equal..], &new[equal..]);
            }
            let differing = base.iter().zip(new).take_while(|(base, new)| base != new);
            let values = differing.map(|(base, new)| new.wrapping_sub(*base));
            let before = self.differences.values.len();
            self.differences.values.extend(values);
            let differing = self.differences.values.len() - before;
            self.differing += differing;
            (base, new) = (&base[differing..], &new[differing..]);
        }
        self.end_run();
    }

    fn end_run(&mut self) {
        if self.differing > 0 {
            put_len(&mut self.differences.gaps, self.equal);
            put_len(&mut self.differences.gaps, self.differing);
            (self.equal, self.differing) = (0, 0);
        }
    }
}

/// Returns the step from the last match, at `last` in `new` and in the base, to the next one, and moves on to that.
fn next_step(
    index: &mut Index<'_>,
    new: &[u8],
    last: &mut (usize, usize),
    scan: &mut usize,
) -> Step {
    let base = index.base;
    let (last_new, last_base) = *last;
    let (at, found) = next_match(index, new, *last, *scan);
    let forward = extend_forward(&base[last_base..], &new[last_new..at]);
    let backward = if at < new.len() {
        extend_backward(&base[..found], &new[last_new..at])
    } else {
        0
    };
    let gap = Gap {
        last_base,
        last_new,
        found,
        scan: at,
    };
    let (forward, backward) = resolve_overlap(base, new, &gap, forward, backward);
    let next_base_at = if at < new.len() {
        found - backward
    } else {
        last_base + forward
    };
    *scan = at;
    *last = (at - backward, next_base_at);
    Step {
        base_at: last_base,
        new_at: last_new,
        copied: forward,
        inserted: at - backward - last_new - forward,
        next_base_at,
    }
}

/// Returns where in `new` the next match begins that is worth a seek, and where in the base; the end of `new` if there is none.
///
/// `last` says where the last match began, in `new` and in the base; what is before `scan` belongs to it or to none.
fn next_match(
    index: &mut Index<'_>,
    new: &[u8],
    last: (usize, usize),
    mut scan: usize,
) -> (usize, usize) {
    let base = index.base;
    let goes_on = |at: usize| base.get(last.1 + at - last.0) == Some(&new[at]);
    // How many of the bytes from `scan` to `scored` agree with the base if the last match goes on.
    let (mut agreeing, mut scored) = (0, scan);
    while scan < new.len() {
        let rest = base.get(last.1 + scan - last.0..).unwrap_or_default();
        let on = common_len(&rest[..rest.len().min(GOES_ON)], &new[scan..]);
        if on == GOES_ON {
            scan += common_len(rest, &new[scan..]);
            (agreeing, scored) = (0, scan);
            continue;
        }
        let (found, length) = index.longest_match(&new[scan..], last.1 + scan - last.0);
        while scored < scan + length.max(1) {
            agreeing += usize::from(goes_on(scored));
            scored += 1;
        }
        if length > agreeing + MIN_GAIN {
            return index.longer_match(new, scan, found, length, last.1.wrapping_sub(last.0));
        }
        if length > 0 && length == agreeing {
            scan += length;
            (agreeing, scored) = (0, scan);
        } else {
            agreeing -= usize::from(goes_on(scan));
            scan += 1;
        }
    }
    (new.len(), 0)
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
    gap: &Gap,
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

/// Strings of this many bytes are found by their hash.
const KEY_BYTES: usize = 8;
/// In a base of more than this many bytes, only strings at every fourth place are in the table.
const DENSE_BYTES: usize = 256 << 10;
const SPARSE_STRIDE: usize = 4;
/// Of the strings with one hash, so many on either side of where the last match would go on are compared.
const NEIGHBOURS: usize = 32;

/// Finds strings in the base; the table is made when it is first needed.
struct Index<'b> {
    base: &'b [u8],
    stride: usize,
    /// For each hash where its places begin; at the end their number. Empty at first.
    starts: Vec<u32>,
    /// Where strings are, in strides, by their hash and then ascending.
    places: Vec<u32>,
}

impl<'b> Index<'b> {
    fn new(base: &'b [u8]) -> Self {
        let stride = if base.len() > DENSE_BYTES {
            SPARSE_STRIDE
        } else {
            1
        };
        Self {
            base,
            stride,
            starts: Vec::new(),
            places: Vec::new(),
        }
    }

    fn fill(&mut self) {
        let count = (self.base.len() + 1)
            .saturating_sub(KEY_BYTES)
            .div_ceil(self.stride);
        let hashes = count.next_power_of_two();
        let hash_at = |place: u32| hash(&self.base[index(place) * self.stride..], hashes);
        let all = 0..u32::try_from(count).unwrap_or(0);
        // Counts, then ends, which become beginnings as places are put in from behind.
        let mut starts = vec![0_u32; hashes + 1];
        for hash in all.clone().filter_map(hash_at) {
            starts[hash] += 1;
        }
        let mut end = 0;
        for start in &mut starts {
            end += *start;
            *start = end;
        }
        let mut places = vec![0; count];
        for place in all.rev() {
            if let Some(hash) = hash_at(place) {
                starts[hash] -= 1;
                places[index(starts[hash])] = place;
            }
        }
        self.starts = starts;
        self.places = places;
    }

    /// Returns a match that was found, or a longer one that begins at one of the next strings.
    fn longer_match(
        &mut self,
        new: &[u8],
        scan: usize,
        found: usize,
        length: usize,
        distance: usize,
    ) -> (usize, usize) {
        let mut best = (scan, found);
        let mut longest = length;
        for scan in scan + 1..new.len().min(scan + self.stride) {
            let (found, length) = self.longest_match(&new[scan..], scan.wrapping_add(distance));
            if length > longest {
                (best, longest) = ((scan, found), length);
            }
        }
        best
    }

    /// Returns position and length of the longest match found of the start of `text`, near `expected` if there are many; its
    /// length is zero if there is none.
    fn longest_match(&mut self, text: &[u8], expected: usize) -> (usize, usize) {
        if self.starts.is_empty() {
            self.fill();
        }
        let mut longest = (0, 0);
        let Some(hash) = hash(text, self.starts.len() - 1) else {
            return longest;
        };
        let alike = &self.places[index(self.starts[hash])..index(self.starts[hash + 1])];
        let expected = expected / self.stride;
        let behind = alike.partition_point(|place| index(*place) < expected);
        let near = behind.saturating_sub(NEIGHBOURS)..alike.len().min(behind + NEIGHBOURS);
        for place in &alike[near] {
            let at = index(*place) * self.stride;
            let length = common_len(&self.base[at..], text);
            if length > longest.1 {
                longest = (at, length);
            }
        }
        longest
    }
}

/// Frames are far below 4 GiB.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the hash of the first [`KEY_BYTES`] bytes, less than `limit`, a power of two.
fn hash(text: &[u8], limit: usize) -> Option<usize> {
    let key = u64::from_le_bytes(*text.first_chunk::<KEY_BYTES>()?);
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).ok().map(|mixed| mixed & (limit - 1))
}

/// Returns how many bytes two texts begin with in common.
fn common_len(one: &[u8], other: &[u8]) -> usize {
    let words = one
        .as_chunks::<KEY_BYTES>()
        .0
        .iter()
        .zip(other.as_chunks::<KEY_BYTES>().0)
        .take_while(|(one, other)| one == other)
        .count();
    let done = words * KEY_BYTES;
    let bytes = one[done..].iter().zip(&other[done..]);
    done + bytes.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn differences(base: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let found = Differences::between(base, new, usize::MAX).expect("no limit");
        found.put(&mut out);
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
