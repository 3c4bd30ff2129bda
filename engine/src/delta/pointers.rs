//! Pointers: words in native executables that refer to other places of the file, and that change
//! when these places move.
//!
//! When a function grows, everything after it moves. With it change the operands of calls, jumps
//! and loads across that place, relocations and unwind tables. This module does not take
//! executables apart. A word that looks like a pointer counts as one, and [`Moves`] says how far
//! its target has moved. A wrong guess costs one difference, as the missing pointer did.
//!
//! Three forms are known, all little-endian:
//!
//! - distances of 32 bits from the pointer's own place (x86-64, and the tables of all machines);
//! - addresses of 64 bits from the start of the file;
//! - branches of arm64, which are distances of 26 bits in words.
//!
//! Branches are looked for only in content that has many of them. Then only whole words are looked
//! at, because all pointers lie at word boundaries.
//!
//! Source: the idea is that of Courgette (Stephen Adams, 2009), without its disassembler.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed, put_varint};

/// The range of addresses: above the numbers that occur everywhere, and below the size of the
/// largest executables.
const ADDRESSES: Range<u64> = 1 << 16..1 << 24;
/// The range of numbers that are too small to be distances.
const NEAR: Range<i32> = -128..128;
/// The maximum distance that a pointer may reach beyond the available part of the base.
const MAX_REACH: usize = 1 << 24;
/// The number of bits of the reach. The bits above them say where words begin.
const REACH_BITS: u32 = 25;
/// The range of distances that a target may have moved.
const SHIFTS: Range<i32> = -(1 << 24)..1 << 24;
/// The logarithm of a bucket's size. Everything within 2^10 bytes moves together.
const BUCKET_LOG: u32 = 10;
/// The maximum number of buckets. A frame's memory and twice the reach have fewer.
const BUCKETS: u32 = 1 << 16;
/// The number of words per call. In executables of arm64, at least one of this many words is a call
/// into the same file. By chance, it is one of thousands.
const WORDS_A_CALL: usize = 200;
/// The minimum number of calls. Fewer may be there by chance.
const MIN_CALLS: usize = 16;
/// The bits that the arm64 instructions B and BL have in common, and their operand.
const BRANCH: i32 = 0x1400_0000;
const BRANCH_MASK: i32 = 0x7c00_0000;
const BRANCH_OPERAND: i32 = 0x03ff_ffff;
/// The last byte of a BL, without the bits of its operand.
const CALL_HIGH: u8 = 0x94;
const BRANCH_HIGH: u8 = 3;
/// The size of a word in bytes.
const WORD: usize = 4;
/// The minimum gain of an entry. A bucket that moved differently from the one before gets an entry
/// if that makes this many more pointers right.
const MIN_GAIN: u32 = 4;

/// The distances that the targets of pointers have moved.
#[derive(Debug)]
pub(super) struct Moves {
    pattern: Pattern,
    /// The moves of the targets of distances and branches.
    distances: Shifts,
    addresses: Shifts,
}

/// The pattern of words that look like pointers.
#[derive(Debug)]
struct Pattern {
    /// The distance in bytes that pointers may reach beyond either end of the base. The base may be
    /// a part of a file.
    reach: usize,
    /// The possible targets of distances, as offsets in the base.
    targets: Range<i64>,
    /// The place where words begin (their offset in the base, modulo 4), if branches are looked
    /// for.
    words_at: Option<usize>,
}

/// The first buckets of parts that moved alike, ascending, and the distance in bytes. Buckets
/// before the first entry have not moved.
#[derive(Debug, Default)]
struct Shifts(Vec<(u32, i32)>);

/// A part of the new content that resembles a part of the base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match<'b> {
    /// The bytes of the base.
    pub(super) base: &'b [u8],
    /// The offset of these bytes in the base.
    pub(super) base_at: usize,
    /// The offset of these bytes in the new content.
    pub(super) new_at: usize,
}

impl Match<'_> {
    /// Returns the distance that the match itself has moved.
    fn moved(&self) -> i64 {
        len_i64(self.new_at) - len_i64(self.base_at)
    }
}

/// A word that looks like a pointer.
struct Pointer {
    /// The offset in the match.
    at: usize,
    /// The bucket of the target.
    target: u32,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Address,
    Distance,
    Branch,
}

impl Form {
    /// Returns the change of a pointer's target, or of its distance; `None` if it is now another
    /// instruction.
    fn change(self, from: i32, to: i32) -> Option<i64> {
        match self {
            Self::Address | Self::Distance => Some(i64::from(to) - i64::from(from)),
            Self::Branch if (from ^ to) & !BRANCH_OPERAND != 0 => None,
            Self::Branch => Some(branch_distance(to) - branch_distance(from)),
        }
    }

    /// Returns the pointer with its target, or its distance, increased by `change`.
    fn changed(self, word: i32, change: i64) -> [u8; WORD] {
        let changed = match self {
            Self::Address | Self::Distance => i64::from(word) + change,
            Self::Branch => {
                let operand = (branch_distance(word) + change) >> 2;
                i64::from(word & !BRANCH_OPERAND) | operand & i64::from(BRANCH_OPERAND)
            }
        };
        let [a, b, c, d, ..] = changed.to_le_bytes();
        [a, b, c, d]
    }
}

impl Moves {
    fn none(pattern: Pattern) -> Self {
        Self {
            pattern,
            distances: Shifts::default(),
            addresses: Shifts::default(),
        }
    }

    /// Learns the moves of pointers' targets from the matches of `new`.
    pub(super) fn learn<'b>(
        base: &[u8],
        new: &[u8],
        matches: impl Iterator<Item = Match<'b>>,
        reach: usize,
    ) -> Self {
        let pattern = Pattern::new(base, reach).with_branches(base);
        let (mut distances, mut addresses) = (Votes::default(), Votes::default());
        for found in matches {
            let new = &new[found.new_at..];
            for pointer in pattern.pointers(found) {
                let [from, to] = [found.base, new].map(|bytes| word(bytes, pointer.at));
                match (pointer.form, pointer.form.change(from, to)) {
                    (_, None) => {}
                    (Form::Address, Some(change)) => addresses.cast(pointer.target, change),
                    (_, Some(change)) => distances.cast(pointer.target, change + found.moved()),
                }
            }
        }
        Self {
            pattern,
            distances: distances.count(),
            addresses: addresses.count(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.distances.0.is_empty() && self.addresses.0.is_empty()
    }

    /// Returns the bytes of a match with its pointers moved.
    pub(super) fn applied<'b>(&self, to: Match<'b>) -> Cow<'b, [u8]> {
        let mut bytes = Cow::Borrowed(to.base);
        if self.is_empty() {
            return bytes;
        }
        for pointer in self.pattern.pointers(to) {
            let change = match pointer.form {
                Form::Address => i64::from(self.addresses.of(pointer.target)),
                Form::Distance | Form::Branch => {
                    i64::from(self.distances.of(pointer.target)) - to.moved()
                }
            };
            if change != 0 {
                let moved = pointer.form.changed(word(to.base, pointer.at), change);
                bytes.to_mut()[pointer.at..pointer.at + WORD].copy_from_slice(&moved);
            }
        }
        bytes
    }

    /// Appends the moves: the reach and where words begin, then the moves of distances with their
    /// count, then those of addresses.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let Pattern {
            reach, words_at, ..
        } = self.pattern;
        put_len(out, reach | words_at.map_or(0, |at| at + 1) << REACH_BITS);
        put_len(out, self.distances.0.len());
        for shifts in [&self.distances, &self.addresses] {
            let mut last = 0;
            for (bucket, shift) in &shifts.0 {
                put_varint(out, u64::from(bucket - last));
                put_signed(out, i64::from(*shift));
                last = *bucket;
            }
        }
    }

    /// Reads moves to the end of `bytes`. No bytes mean no moves.
    pub(super) fn take(bytes: &[u8], base: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.is_empty() {
            return Ok(Self::none(Pattern::new(base, 0)));
        }
        let first = cursor.varint_len()?;
        let (reach, words_at) = (first & ((1 << REACH_BITS) - 1), first >> REACH_BITS);
        if reach > MAX_REACH || words_at > WORD {
            return Err(Malformed);
        }
        let mut moves = Self::none(Pattern {
            words_at: words_at.checked_sub(1),
            ..Pattern::new(base, reach)
        });
        let count = cursor.varint_len()?;
        while moves.distances.0.len() < count {
            moves.distances.take_next(&mut cursor)?;
        }
        while !cursor.is_empty() {
            moves.addresses.take_next(&mut cursor)?;
        }
        if moves.is_empty() {
            Err(Malformed)
        } else {
            Ok(moves)
        }
    }
}

impl Shifts {
    fn take_next(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        let more = cursor.varint_u32()?;
        let shift = i32::try_from(cursor.signed()?).map_err(|_| Malformed)?;
        let bucket = match self.0.last() {
            None => more,
            Some(_) if more == 0 => return Err(Malformed),
            Some((last, _)) => last.checked_add(more).ok_or(Malformed)?,
        };
        if bucket >= BUCKETS {
            return Err(Malformed);
        }
        self.0.push((bucket, shift));
        Ok(())
    }

    fn of(&self, bucket: u32) -> i32 {
        let behind = self.0.partition_point(|(first, _)| *first <= bucket);
        self.0[..behind].last().map_or(0, |(_, shift)| *shift)
    }
}

/// The number of pointers into each bucket that agree on a move.
#[derive(Default)]
struct Votes(BTreeMap<u32, HashMap<i32, u32>>);

impl Votes {
    fn cast(&mut self, bucket: u32, shift: i64) {
        if let Ok(shift) = i32::try_from(shift)
            && SHIFTS.contains(&shift)
            && bucket < BUCKETS
        {
            *self.0.entry(bucket).or_default().entry(shift).or_default() += 1;
        }
    }

    fn count(&self) -> Shifts {
        let mut shifts = Shifts::default();
        let mut last = 0;
        for (bucket, votes) in &self.0 {
            // The same content gives the same result: of two shifts with as many votes, the smaller
            // wins.
            let most = votes
                .iter()
                .max_by_key(|(shift, count)| (**count, -**shift));
            if let Some((shift, count)) = most
                && count - votes.get(&last).copied().unwrap_or(0) >= MIN_GAIN
            {
                shifts.0.push((*bucket, *shift));
                last = *shift;
            }
        }
        shifts
    }
}

impl Pattern {
    fn new(base: &[u8], reach: usize) -> Self {
        Self {
            reach,
            targets: -len_i64(reach)..len_i64(base.len() + reach),
            words_at: None,
        }
    }

    /// Adds branches if the base has as many calls into itself as arm64 code has.
    fn with_branches(self, base: &[u8]) -> Self {
        let itself = Self::new(base, 0);
        let all = Match {
            base,
            base_at: 0,
            new_at: 0,
        };
        let mut calls = [0; WORD];
        for (at, bytes) in base.windows(WORD).enumerate() {
            let is_call = bytes[WORD - 1] & !BRANCH_HIGH == CALL_HIGH;
            if is_call && itself.target_of_branch(all, at).is_some() {
                calls[at % WORD] += 1;
            }
        }
        let enough = MIN_CALLS.max(base.len() / WORD / WORDS_A_CALL);
        let most = (0..WORD).max_by_key(|at| calls[*at]);
        Self {
            words_at: most.filter(|at| calls[*at] >= enough),
            ..self
        }
    }

    /// Returns the words of a match that look like pointers, from left to right and without
    /// overlaps.
    fn pointers<'p>(&'p self, of: Match<'p>) -> impl Iterator<Item = Pointer> + 'p {
        let (mut next, step) = match self.words_at {
            Some(at) => ((at + WORD - of.base_at % WORD) % WORD, WORD),
            None => (0, 1),
        };
        std::iter::from_fn(move || {
            while next + WORD <= of.base.len() {
                let at = next;
                if let Some(pointer) = self.pointer(of, at) {
                    let is_address = pointer.form == Form::Address;
                    next += if is_address { 2 * WORD } else { WORD };
                    return Some(pointer);
                }
                next += step;
            }
            None
        })
    }

    fn pointer(&self, of: Match<'_>, at: usize) -> Option<Pointer> {
        let rest = &of.base[at..];
        let pointer = |target, form| {
            Some(Pointer {
                at,
                target: bucket(target),
                form,
            })
        };
        if let Some(address) = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
            && ADDRESSES.contains(&address)
        {
            return pointer(address, Form::Address);
        }
        if self.words_at.is_some()
            && let Some(target) = self.target_of_branch(of, at)
        {
            return pointer(target, Form::Branch);
        }
        let distance = word(of.base, at);
        if NEAR.contains(&distance) {
            return None;
        }
        pointer(self.target(of, at, i64::from(distance))?, Form::Distance)
    }

    /// Returns the target of a branch, counted from the first possible target; `None` if the word
    /// is not a branch.
    fn target_of_branch(&self, of: Match<'_>, at: usize) -> Option<u64> {
        let word = word(of.base, at);
        if word & BRANCH_MASK != BRANCH {
            return None;
        }
        self.target(of, at, branch_distance(word))
    }

    fn target(&self, of: Match<'_>, at: usize, distance: i64) -> Option<u64> {
        let target = len_i64(of.base_at + at) + distance;
        let is_near = self.targets.contains(&target);
        is_near.then(|| (target - self.targets.start).unsigned_abs())
    }
}

/// Returns the distance that a branch points to from its own place, in bytes.
fn branch_distance(word: i32) -> i64 {
    // The operand's sign is its highest bit.
    i64::from(word << 6 >> 6) * 4
}

fn bucket(target: u64) -> u32 {
    u32::try_from(target >> BUCKET_LOG).unwrap_or(u32::MAX)
}

/// Returns the 32 bits at an offset; zero past the end.
fn word(bytes: &[u8], at: usize) -> i32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| i32::from_le_bytes(*word))
}

#[cfg(test)]
#[path = "pointers_tests.rs"]
mod tests;
