//! Approximate matches of new content in a base: exact matches, extended as long as most bytes
//! agree.
//!
//! Exact matches are looked for where the last one would continue, and otherwise in a hash table of
//! the base's strings. That takes linear time. Its results are as good as those of a suffix array
//! that takes ten times as long.
//!
//! Source: Colin Percival, "Naïve differences of executable code", 2003 (bsdiff).

use super::pointers::Match;

/// The number of bytes by which a match must be longer than the continued one to be worth a seek.
const MIN_GAIN: usize = 8;
/// The number of bytes for which the last match must continue so that no other match is looked for.
const GOES_ON: usize = 32;

/// A match, and the new bytes after it.
pub(super) struct Step {
    pub(super) base_at: usize,
    pub(super) new_at: usize,
    pub(super) copied: usize,
    pub(super) inserted: usize,
    /// The offset of the next match in the base.
    pub(super) next_base_at: usize,
}

impl Step {
    /// Returns the match.
    pub(super) fn matched<'b>(&self, base: &'b [u8]) -> Match<'b> {
        Match {
            base: &base[self.base_at..self.base_at + self.copied],
            base_at: self.base_at,
            new_at: self.new_at,
        }
    }
}

/// The steps that make the new content from the base, in order.
pub(super) struct Steps<'b> {
    index: Index<'b>,
    new: &'b [u8],
    /// The start of the last match, in the new content and in the base.
    last: (usize, usize),
    /// The end of the part of the new content that belongs to that match or to none.
    scan: usize,
}

impl<'b> Steps<'b> {
    pub(super) fn new(base: &'b [u8], new: &'b [u8]) -> Self {
        Self {
            index: Index::new(base),
            new,
            last: (0, 0),
            scan: 0,
        }
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (base, new) = (self.index.base, self.new);
        if self.scan >= new.len() {
            return None;
        }
        let (last_new, last_base) = self.last;
        let (at, found) = next_match(&mut self.index, new, self.last, self.scan);
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
        self.scan = at;
        self.last = (at - backward, next_base_at);
        Some(Step {
            base_at: last_base,
            new_at: last_new,
            copied: forward,
            inserted: at - backward - last_new - forward,
            next_base_at,
        })
    }
}

/// Finds the next match that is worth a seek. Returns its offset in `new` and in the base, or the
/// end of `new` if there is none.
///
/// `last` is the start of the last match, in `new` and in the base. The bytes before `scan` belong
/// to that match or to none.
fn next_match(
    index: &mut Index<'_>,
    new: &[u8],
    last: (usize, usize),
    mut scan: usize,
) -> (usize, usize) {
    let base = index.base;
    let goes_on = |at: usize| base.get(last.1 + at - last.0) == Some(&new[at]);
    // The number of bytes from `scan` to `scored` that agree with the base if the last match
    // continues.
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

/// Returns the length by which a match extends to the right while more than half of its bytes
/// agree.
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

/// The start of the last match, and the place where the next one was found.
struct Gap {
    last_base: usize,
    last_new: usize,
    found: usize,
    scan: usize,
}

/// Shortens two extensions that overlap. It cuts at the place where most bytes agree.
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

/// The length of strings that are found by their hash.
const KEY_BYTES: usize = 8;
/// The size of a base above which only strings at every fourth place are in the table.
const DENSE_BYTES: usize = 256 << 10;
const SPARSE_STRIDE: usize = 4;
/// The number of strings with one hash that are compared on either side of where the last match
/// would continue.
const NEIGHBOURS: usize = 32;

/// An index of strings in the base. The table is made when it is first needed.
struct Index<'b> {
    base: &'b [u8],
    stride: usize,
    /// For each hash, the start of its places; at the end, the number of places. Empty at first.
    starts: Vec<u32>,
    /// The places of strings, in strides, ordered by hash and then ascending.
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
        // Counts first, then ends. The ends become starts as places are inserted from the back.
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

    /// Returns the match that was found, or a longer one that starts at one of the next strings.
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

    /// Returns position and length of the longest match for the start of `text`. If there are many,
    /// it looks near `expected`. The length is zero if there is no match.
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
            // A place that differs after the length of the longest match cannot be longer.
            if self.base.get(at + longest.1) != text.get(longest.1) {
                continue;
            }
            let length = common_len(&self.base[at..], text);
            if length > longest.1 {
                longest = (at, length);
            }
        }
        longest
    }
}

/// Converts a number to an index. Frames are far below 4 GiB.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the hash of the first [`KEY_BYTES`] bytes. It is less than `limit`, which is a power of
/// two.
fn hash(text: &[u8], limit: usize) -> Option<usize> {
    let key = u64::from_le_bytes(*text.first_chunk::<KEY_BYTES>()?);
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).ok().map(|mixed| mixed & (limit - 1))
}

/// Returns the number of bytes that two texts have in common at their start.
pub(super) fn common_len(one: &[u8], other: &[u8]) -> usize {
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
