//! A small fingerprint of a content's beginning, and the resemblance of two contents by it.
//!
//! A sketch consists of the smallest hashes of a content's features. This is bottom-k sampling (A.
//! Broder, "On the resemblance and containment of documents", 1997). The share of hashes that two
//! sketches have in common estimates the share of features that the contents have in common. The
//! features of a compiled module are its atoms. Those of any other content are its windows of
//! [`WINDOW_BYTES`] bytes. A gzip file is inflated first.
//!
//! Measured on OTP's kernel and stdlib: each module of one release was compared with all modules of
//! another. The table counts the modules whose own predecessor was the most alike.
//!
//! | OTP | by atoms | by windows |
//! |---|---|---|
//! | 25 to 29 | 182 of 182 | 153 |
//! | 27 to 29 | 194 of 194 | 179 |
//!
//! Windows do worse because code refers to atoms by number, and the numbers shift. Two unrelated
//! modules share a fifth of their atoms.
//!
//! Hashes are the same on every machine. A person who makes them collide gets a bad base, and
//! nothing worse.

use std::collections::BTreeSet;
use std::io::Read;

use crate::bytes::Reader;
use crate::limits;

/// The size of a window. Windows this long seldom agree by chance, and most of them survive a small
/// edit.
const WINDOW_BYTES: usize = 16;

/// The multiplier of the rolling hash. It is odd, so that no byte of a window is lost.
const ROLL: u64 = 0x9e37_79b9_7f4a_7c15;

/// The sampled features of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sketch {
    /// The hashes in ascending order, at most [`limits::SKETCH_HASHES`].
    hashes: Vec<u64>,
}

impl Sketch {
    /// Makes a sketch of a content from its beginning.
    pub(super) fn new(beginning: &[u8]) -> Self {
        let inflated = inflated(beginning);
        let content = inflated.as_deref().unwrap_or(beginning);
        let mut smallest = Smallest::default();
        match atom_table(content) {
            Some(table) => each_atom(table, &mut |atom| smallest.add(hash(atom))),
            None => each_window(content, &mut |window| smallest.add(window)),
        }
        Self {
            hashes: smallest.0.into_iter().collect(),
        }
    }

    /// Estimates the share of features that both contents have among the features that either has,
    /// in thousandths.
    pub(super) fn resemblance(&self, other: &Self) -> u64 {
        let (mut ours, mut theirs) = (&self.hashes[..], &other.hashes[..]);
        let (mut shared, mut seen) = (0, 0);
        while seen < limits::SKETCH_HASHES as u64 {
            let next = match (ours.first(), theirs.first()) {
                (None, None) => break,
                (Some(hash), None) | (None, Some(hash)) => *hash,
                (Some(a), Some(b)) => *a.min(b),
            };
            let in_ours = skip(&mut ours, next);
            let in_theirs = skip(&mut theirs, next);
            shared += u64::from(in_ours && in_theirs);
            seen += 1;
        }
        shared * 1000 / seen.max(1)
    }
}

/// Steps over `hash` if it comes first.
fn skip(hashes: &mut &[u64], hash: u64) -> bool {
    match hashes.split_first() {
        Some((first, rest)) if *first == hash => {
            *hashes = rest;
            true
        }
        _ => false,
    }
}

/// The smallest hashes seen.
#[derive(Default)]
struct Smallest(BTreeSet<u64>);

impl Smallest {
    fn add(&mut self, hash: u64) {
        let is_full = self.0.len() >= limits::SKETCH_HASHES;
        if is_full && self.0.last().is_some_and(|largest| *largest <= hash) {
            return;
        }
        if self.0.insert(hash) && is_full {
            self.0.pop_last();
        }
    }
}

/// Inflates the beginning of a gzip file as far as possible; returns `None` for any other content.
fn inflated(beginning: &[u8]) -> Option<Vec<u8>> {
    if !beginning.starts_with(&[0x1f, 0x8b]) {
        return None;
    }
    let mut content = Vec::new();
    let limit = limits::SKETCH_INFLATED_BYTES as u64;
    let read = flate2::read::GzDecoder::new(beginning)
        .take(limit)
        .read_to_end(&mut content);
    // The end is usually missing. The bytes inflated so far are valid.
    (read.is_ok() || !content.is_empty()).then_some(content)
}

/// Returns the atoms of a compiled module, as far as they are in `content`. Returns `None` if this
/// is not a module, or if its atoms come too late in the file.
fn atom_table(content: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(content);
    let form: [u8; 4] = reader.array().ok()?;
    let _size = reader.u32().ok()?;
    let kind: [u8; 4] = reader.array().ok()?;
    if (&form, &kind) != (b"FOR1", b"BEAM") {
        return None;
    }
    loop {
        let name: [u8; 4] = reader.array().ok()?;
        let length = usize::try_from(reader.u32().ok()?).ok()?;
        if matches!(&name, b"AtU8" | b"Atom") {
            let rest = reader.rest();
            return Some(&rest[..length.min(rest.len())]);
        }
        reader.bytes(length.checked_next_multiple_of(4)?).ok()?;
    }
}

/// Calls `each` with the atoms of a table. The table may be cut off.
fn each_atom(table: &[u8], each: &mut dyn FnMut(&[u8])) {
    let mut reader = Reader::new(table);
    let Ok(count) = reader.u32() else {
        return;
    };
    // Since OTP 28, a negative count means that lengths are compact terms.
    let is_long = count > u32::MAX / 2;
    while let Some(length) = atom_length(&mut reader, is_long) {
        let Ok(atom) = reader.bytes(length) else {
            return;
        };
        each(atom);
    }
}

fn atom_length(reader: &mut Reader<'_>, is_long: bool) -> Option<usize> {
    let first = reader.u8().ok()?;
    match (is_long, first & 0b1_1111) {
        (false, _) => Some(first.into()),
        (true, low) if low & 0b1111 == 0 => Some(usize::from(first >> 4)),
        (true, 0b0_1000) => {
            let second = reader.u8().ok()?;
            Some(usize::from(first >> 5) << 8 | usize::from(second))
        }
        (true, _) => None,
    }
}

/// Calls `each` with the hash of every window. A content shorter than a window is hashed as a
/// whole.
fn each_window(content: &[u8], each: &mut dyn FnMut(u64)) {
    if content.len() < WINDOW_BYTES {
        if !content.is_empty() {
            each(hash(content));
        }
        return;
    }
    let oldest = (0..WINDOW_BYTES).fold(1_u64, |power, _| power.wrapping_mul(ROLL));
    let roll = |sum: u64, byte: u8| sum.wrapping_mul(ROLL).wrapping_add(u64::from(byte) + 1);
    let (first, rest) = content.split_at(WINDOW_BYTES);
    let mut sum = first.iter().fold(0, |sum, byte| roll(sum, *byte));
    each(mixed(sum));
    for (gone, byte) in content.iter().zip(rest) {
        sum = roll(sum, *byte).wrapping_sub((u64::from(*gone) + 1).wrapping_mul(oldest));
        each(mixed(sum));
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let sum = bytes.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(ROLL).wrapping_add(u64::from(*byte) + 1)
    });
    mixed(sum)
}

/// Spreads a sum over all bits (the finaliser of `SplitMix64`).
fn mixed(sum: u64) -> u64 {
    let sum = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let sum = (sum ^ (sum >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    sum ^ (sum >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Sketch {
        Sketch::new(bytes)
    }

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new_derive_key("sketch test");
        hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn resemblance_is_the_share_in_common() {
        type Row<'r> = (&'r str, &'r [u8], &'r [u8], (u64, u64));
        let (a, b) = (noise(4000, 1), noise(4000, 2));
        let half = [&a[..2000], &b[..2000]].concat();
        let shifted = [b"in front", &a[..]].concat();
        let table: &[Row<'_>] = &[
            ("the same", &a, &a, (1000, 1000)),
            ("nothing", &a, &b, (0, 0)),
            ("half, which is a third of all", &a, &half, (230, 430)),
            ("shifted", &a, &shifted, (980, 1000)),
            ("short", b"short", b"short", (1000, 1000)),
            ("short and other", b"short", b"other", (0, 0)),
            ("empty", b"", b"", (0, 0)),
        ];
        for (what, left, right, (least, most)) in table {
            let (left, right) = (of(left), of(right));
            let alike = left.resemblance(&right);
            assert!((*least..=*most).contains(&alike), "{what}: {alike}");
            assert_eq!(right.resemblance(&left), alike, "{what}");
            assert!(left.hashes.len() <= limits::SKETCH_HASHES, "{what}");
        }
    }

    #[test]
    fn atoms_are_read_in_both_forms_and_cut_off() {
        let old = [&3_u32.to_be_bytes()[..], b"\x01a\x02bc\x05cut"].concat();
        let new = [
            &(-3_i32).to_be_bytes()[..],
            b"\x10a\x20bc\x08\x14abcdefghijklmnopqrst",
        ]
        .concat();
        let table: &[(&[u8], &[&[u8]])] = &[
            (&old, &[b"a", b"bc"]),
            (&new, &[b"a", b"bc", b"abcdefghijklmnopqrst"]),
            (b"\xff\xff", &[]),
            (b"\xff\xff\xff\xff\x1f", &[]),
        ];
        for (bytes, expected) in table {
            let mut found = Vec::new();
            each_atom(bytes, &mut |atom| found.push(atom.to_vec()));
            assert_eq!(found, *expected);
        }
    }

    #[test]
    fn hostile_beginnings_are_sketched() {
        let module = b"FOR1\0\0\0\0BEAMxxxx\xff\xff\xff\xffAtU8";
        for bytes in [
            &module[..],
            &module[..12],
            b"\x1f\x8b",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff",
        ] {
            assert_eq!(of(bytes), of(bytes));
        }
        let bomb = vec![0; 64 << 20];
        let mut gzip = flate2::read::GzEncoder::new(&bomb[..], flate2::Compression::best());
        let mut beginning = Vec::new();
        gzip.read_to_end(&mut beginning).expect("memory");
        let content = inflated(&beginning).expect("gzip");
        assert_eq!(content.len(), limits::SKETCH_INFLATED_BYTES);
    }
}
