//! Byte-wise differences, for content that keeps its shape while numbers in it change. Examples are
//! native executables, and the streams of modules that were compiled again.
//!
//! Where the base matches approximately (see [`super::steps`]), this module writes the values to
//! add to the base's bytes. Most of them are zero and are left out. zstd then compresses the
//! result.
//!
//! Source: Colin Percival, "Naïve differences of executable code", 2003 (bsdiff).

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed};
use super::pointers::{Match, Moves};
use super::steps::{Step, Steps, common_len};
use crate::delta::zstd_frame::{self, Search};

/// The number of differing bytes below which it is not worth looking for pointers.
const MANY_VALUES: usize = 256;
/// The size of a base that may be a part of a file.
const PART_BYTES: usize = 4 << 20;
/// The distances beyond a base that pointers may reach. The first is for bases that are whole
/// files.
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
    /// Finds the differences of `new` from `base`. Returns `None` as soon as they exceed `limit`
    /// bytes before compression.
    pub(super) fn between(base: &[u8], new: &[u8], limit: usize) -> Option<Self> {
        let mut writer = Writer::default();
        let mut steps = Vec::new();
        for step in Steps::new(base, new) {
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

    /// Returns the remaining differences after moving the base's pointers; `None` if no pointer
    /// moved.
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

    /// Estimates the compressed size in bytes.
    fn compressed_len(&self) -> usize {
        let mut bytes = Vec::with_capacity(self.len());
        self.put(&mut bytes);
        zstd_frame::compress_bare(b"", &bytes, Search::Fast).len()
    }

    /// Returns the size in bytes, before compression.
    fn len(&self) -> usize {
        self.sections().iter().map(|section| section.len()).sum()
    }

    /// Appends the differences.
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

/// Makes `len` bytes from the base and the differences at `cursor`.
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

/// A run of equal bytes, followed by differing ones.
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

    /// Returns the value to add to the next byte.
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

/// A writer of differences. It counts the equal bytes, and then the differing ones.
#[derive(Default)]
struct Writer {
    differences: Differences,
    equal: usize,
    differing: usize,
}

impl Writer {
    /// Writes a step. `base` holds the bytes of its match.
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
