//! Pointers: what in native executables refers to other places of the file, and changes as these move.
//!
//! When a function grows, all that stands behind it moves, and with it the operands of calls, jumps and loads across that place,
//! relocations, unwind tables. Executables are not taken apart: a word that looks like a pointer is one, and [`Moves`] says how far what
//! it points to has moved. A wrong guess costs a difference, as the lack of one did.
//!
//! Two forms are known, both little-endian: distances of 32 bits from the pointer's own place (x86-64, and the tables of all
//! machines), and addresses of 64 bits from the beginning of the file.
//!
//! Source: the idea is that of Courgette (Stephen Adams, 2009), without its disassembler.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed, put_varint};

/// What addresses lie in: above the numbers that are everywhere, and below the size of the largest executables.
const ADDRESSES: Range<u64> = 1 << 16..1 << 24;
/// Small numbers are no distances.
const NEAR: Range<i32> = -128..128;
/// No distance reaches further beyond what there is of the base.
const MAX_REACH: usize = 1 << 24;
/// How far something may have moved.
const SHIFTS: Range<i32> = -(1 << 24)..1 << 24;
/// What stands within 2^10 bytes moves together.
const BUCKET_LOG: u32 = 10;
/// There are no more buckets than this: a frame's memory and twice the reach have fewer.
const BUCKETS: u32 = 1 << 16;
/// That a bucket moved otherwise than the one before is worth an entry if it makes so many more pointers right.
const MIN_GAIN: u32 = 4;

/// How far the targets of pointers have moved.
#[derive(Debug)]
pub(super) struct Moves {
    /// How far beyond either end of the base, which may be a part of a file, distances may point, in bytes.
    reach: usize,
    /// All that distances may point to, as offsets in the base.
    targets: Range<i64>,
    distances: Shifts,
    addresses: Shifts,
}

/// First buckets of parts that moved alike, ascending, and how far, in bytes. What stands in front of the first has not moved.
#[derive(Debug, Default)]
struct Shifts(Vec<(u32, i32)>);

/// A part of the new content that is like one of the base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match<'b> {
    /// The bytes of the base.
    pub(super) base: &'b [u8],
    /// Where they stand in the base.
    pub(super) base_at: usize,
    /// Where they stand in the new content.
    pub(super) new_at: usize,
}

impl Match<'_> {
    /// Returns how far the match itself has moved.
    fn moved(&self) -> i64 {
        len_i64(self.new_at) - len_i64(self.base_at)
    }
}

/// A word that looks like a pointer.
struct Pointer {
    /// Where it stands in the match.
    at: usize,
    /// The bucket of what it points to.
    target: u32,
    is_distance: bool,
}

impl Moves {
    fn none(base: &[u8], reach: usize) -> Self {
        Self {
            reach,
            targets: -len_i64(reach)..len_i64(base.len() + reach),
            distances: Shifts::default(),
            addresses: Shifts::default(),
        }
    }

    /// Learns from the matches of `new` how far the targets of their pointers have moved.
    pub(super) fn learn<'b>(
        base: &[u8],
        new: &[u8],
        matches: impl Iterator<Item = Match<'b>>,
        reach: usize,
    ) -> Self {
        let none = Self::none(base, reach);
        let (mut distances, mut addresses) = (Votes::default(), Votes::default());
        for found in matches {
            let new = &new[found.new_at..];
            for pointer in pointers(found, &none.targets) {
                let change =
                    i64::from(word(new, pointer.at)) - i64::from(word(found.base, pointer.at));
                if pointer.is_distance {
                    distances.cast(pointer.target, change + found.moved());
                } else {
                    addresses.cast(pointer.target, change);
                }
            }
        }
        Self {
            distances: distances.count(),
            addresses: addresses.count(),
            ..none
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
        for pointer in pointers(to, &self.targets) {
            let change = if pointer.is_distance {
                i64::from(self.distances.of(pointer.target)) - to.moved()
            } else {
                i64::from(self.addresses.of(pointer.target))
            };
            if change != 0 {
                let moved = i64::from(word(to.base, pointer.at)) + change;
                bytes.to_mut()[pointer.at..pointer.at + 4]
                    .copy_from_slice(&moved.to_le_bytes()[..4]);
            }
        }
        bytes
    }

    /// Appends the moves: the reach, those of distances, counted, and those of addresses.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_len(out, self.reach);
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

    /// Reads moves to the end of `bytes`; there are none in no bytes.
    pub(super) fn take(bytes: &[u8], base: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.is_empty() {
            return Ok(Self::none(base, 0));
        }
        let reach = cursor.varint_len()?;
        if reach > MAX_REACH {
            return Err(Malformed);
        }
        let mut moves = Self::none(base, reach);
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

/// How often the pointers into a bucket say that it has moved so far.
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
            // The same for the same content: of two with as many votes, the smaller shift.
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

/// Returns what looks like a pointer in the bytes of a match, from left to right and without overlaps.
fn pointers<'p>(of: Match<'p>, targets: &'p Range<i64>) -> impl Iterator<Item = Pointer> + 'p {
    let mut next = 0;
    std::iter::from_fn(move || {
        loop {
            let at = next;
            let rest = &of.base[at..];
            let distance = i32::from_le_bytes(*rest.first_chunk()?);
            if let Some(address) = rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
                && ADDRESSES.contains(&address)
            {
                next += 8;
                return Some(Pointer {
                    at,
                    target: bucket(address),
                    is_distance: false,
                });
            }
            let target = len_i64(of.base_at + at) + i64::from(distance);
            if targets.contains(&target) && !NEAR.contains(&distance) {
                next += 4;
                return Some(Pointer {
                    at,
                    target: bucket((target - targets.start).unsigned_abs()),
                    is_distance: true,
                });
            }
            next += 1;
        }
    })
}

fn bucket(target: u64) -> u32 {
    u32::try_from(target >> BUCKET_LOG).unwrap_or(u32::MAX)
}

/// Returns the 32 bits at an offset; zero behind the end.
fn word(bytes: &[u8], at: usize) -> i32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| i32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::golden_tests::golden_dir;

    /// Code with 625 calls and a table of 200 addresses, before and after 48 bytes were put in.
    fn executables() -> [Vec<u8>; 2] {
        ["0.base", "0.new"].map(|name| {
            std::fs::read(golden_dir("delta").join("pointers").join(name)).expect("a golden file")
        })
    }

    const INSERTED_AT: usize = 5008;
    const INSERTED: usize = 48;

    fn matches(base: &[u8]) -> [Match<'_>; 2] {
        let (before, behind) = base.split_at(INSERTED_AT);
        [
            Match {
                base: before,
                base_at: 0,
                new_at: 0,
            },
            Match {
                base: behind,
                base_at: INSERTED_AT,
                new_at: INSERTED_AT + INSERTED,
            },
        ]
    }

    fn differing(one: &[u8], other: &[u8]) -> usize {
        one.iter()
            .zip(other)
            .filter(|(one, other)| one != other)
            .count()
    }

    fn written(moves: &Moves) -> Vec<u8> {
        let mut bytes = Vec::new();
        moves.put(&mut bytes);
        bytes
    }

    #[test]
    fn pointers_across_a_new_function_are_moved() {
        let [base, new] = executables();
        let moves = Moves::learn(&base, &new, matches(&base).into_iter(), 0);
        let (mut before, mut after) = (0, 0);
        for found in matches(&base) {
            let new = &new[found.new_at..];
            before += differing(found.base, new);
            after += differing(&moves.applied(found), new);
        }
        assert!(before > 350, "{before} bytes differ");
        assert!(after < before / 10, "{after} of {before} bytes are left");
        let bytes = written(&moves);
        assert!(bytes.len() < 20, "{} bytes", bytes.len());
    }

    #[test]
    fn wrong_moves_are_refused() {
        let [base, new] = executables();
        let good = written(&Moves::learn(&base, &new, matches(&base).into_iter(), 7));
        let wrong = [
            &good[..good.len() - 1],
            // Neither of distances nor of addresses.
            &[0, 0],
            // A reach of 2^24 and one.
            &[0x81, 0x80, 0x80, 8, 1, 1, 2],
            // Two parts that begin with the same bucket.
            &[0, 0, 5, 2, 0, 4],
            // More parts than there are bytes.
            &[0, 100, 5, 2],
            // A bucket of 2^16, a second one of 2^16, and a shift of 2^31.
            &[0, 1, 0x80, 0x80, 4, 2],
            &[0, 0, 1, 2, 0xff, 0xff, 3, 2],
            &[0, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x10],
        ];
        for bytes in wrong {
            assert!(Moves::take(bytes, &base).is_err(), "{bytes:?}");
        }
        assert!(Moves::take(b"", &base).expect("no moves").is_empty());
    }

    proptest! {
        #[test]
        fn what_was_learnt_comes_back(words in prop::collection::vec(-3000_i32..70_000, 1..200), moved in -50_i32..50, base_at in 0_usize..5000, reach in 0_usize..100_000) {
            let base: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let new: Vec<u8> = words.iter().flat_map(|word| (word + moved).to_le_bytes()).collect();
            let found = Match { base: &base, base_at, new_at: 0 };
            let moves = Moves::learn(&base, &new, [found].into_iter(), reach);
            let bytes = written(&moves);
            if moves.is_empty() {
                prop_assert_eq!(bytes.len(), 2 + usize::from(reach > 127) + usize::from(reach > 16_383));
            } else {
                let read = Moves::take(&bytes, &base).expect("moves");
                prop_assert_eq!(read.applied(found), moves.applied(found));
            }
        }
    }
}
