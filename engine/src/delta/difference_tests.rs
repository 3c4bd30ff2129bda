//! Differences of all sorts, made at random. The result of each is a golden vector, which the
//! agent's decoder has to agree with.
//!
//! With `RELSYNC_DIFFERENCES=N`, the test writes N other ones to the file that
//! `RELSYNC_DIFFERENCES_FILE` names instead. The agent's test reads that file
//! (`relsync_lib_delta_difference_tests`).

use super::bsdiff::apply;
use super::cursor::{Cursor, len_i64, len_u64, low_byte, put_len, put_signed, put_varint};
use crate::golden_tests::golden_dir;

const CASES: u64 = 350;

/// Numbers that follow from a seed (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn length(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(len_u64(limit) + 1)).unwrap_or(limit)
    }

    /// Returns a number near one of these.
    fn near(&mut self, edges: &[i64]) -> i64 {
        let edge = edges[self.length(edges.len() - 1)];
        edge + self.below(5).cast_signed() - 2
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| low_byte(self.next())).collect()
    }
}

/// Makes a base of words, many of them on the edges of what looks like a pointer.
fn base(numbers: &mut Numbers, reach: i64) -> Vec<u8> {
    let mut base = Vec::new();
    for _ in 0..numbers.below(12) {
        match numbers.below(7) {
            6 => {
                let distance = numbers.near(&[0, -reach, reach, 1 << 27, -(1 << 27)]);
                base.extend(branch(numbers, distance));
            }
            0 => base.extend(numbers.near(&[1 << 16, 1 << 24, 1 << 20, 0]).to_le_bytes()),
            1 => {
                let edges = [128, -128, i64::from(i32::MAX - 2), i64::from(i32::MIN + 2)];
                base.extend(&numbers.near(&edges).to_le_bytes()[..4]);
            }
            2 => base.extend(&numbers.near(&[-reach, reach, 3000]).to_le_bytes()[..4]),
            3 => base.extend(&numbers.below(1 << 18).to_le_bytes()[..4]),
            4 => base.extend([0; 3]),
            _ => {
                let length = numbers.length(9);
                base.extend(numbers.bytes(length));
            }
        }
    }
    if base.len() > 8 && numbers.below(4) > 0 {
        let mut at = numbers.length(base.len() - 4);
        let is_branch = numbers.below(3) > 0;
        if is_branch {
            at &= !3;
            base.truncate(base.len() & !3);
        }
        let ends = [-reach, len_i64(base.len()) + reach].map(|end| end - len_i64(at));
        let distance = numbers.near(&ends);
        let word = if is_branch {
            branch(numbers, distance)
        } else {
            distance.to_le_bytes()[..4].to_vec()
        };
        base[at..at + 4].copy_from_slice(&word);
    }
    base
}

/// Makes a branch of arm64, or nearly one.
fn branch(numbers: &mut Numbers, distance: i64) -> Vec<u8> {
    let operand = distance >> 2 & 0x03ff_ffff;
    let instructions = [0x9400_0000, 0x1400_0000, 0x9400_0000, 0x9000_0000];
    let instruction: i64 = instructions[numbers.length(instructions.len() - 1)];
    (instruction | operand).to_le_bytes()[..4].to_vec()
}

fn moves(numbers: &mut Numbers, reach: usize) -> Vec<u8> {
    let mut moves = Vec::new();
    if numbers.below(8) == 0 {
        return moves;
    }
    let words_at = match numbers.below(6) {
        0 => numbers.length(5),
        1 | 2 => 1,
        _ => 0,
    };
    put_len(&mut moves, reach + (words_at << 25));
    let counts = [numbers.below(5), numbers.below(5)];
    put_varint(&mut moves, counts[0]);
    for count in counts {
        for part in 0..count {
            let more = match (part, numbers.below(30)) {
                (_, 0) => 0,
                (_, 1) => numbers.near(&[1 << 16, 1 << 32]).unsigned_abs(),
                (0, 2..12) => numbers.below(65),
                (0, 12..20) => len_u64(reach) >> 10,
                (0, _) => numbers.below(2),
                _ => 1 + numbers.below(3),
            };
            put_varint(&mut moves, more);
            let shifts = [0, 0, 64, -4096, i64::from(i32::MAX), i64::from(i32::MIN)];
            let shift = numbers.near(&shifts);
            let is_rare = i32::try_from(shift).is_err() && numbers.below(8) > 0;
            put_signed(&mut moves, if is_rare { 7 } else { shift });
        }
    }
    moves
}

/// Returns differences, and the number of the base's bytes that they make unless they are damaged.
fn differences(numbers: &mut Numbers, base: &[u8], reach: usize) -> (Vec<u8>, usize) {
    let (mut control, mut gaps) = (Vec::new(), Vec::new());
    let (mut at, mut copied_bytes, mut inserted_bytes) = (0, 0, 0);
    for _ in 0..numbers.below(6) {
        let copied = numbers.length(base.len() - at);
        let inserted = numbers.length(3);
        let next = numbers.length(base.len());
        put_len(&mut control, copied);
        put_len(&mut control, inserted);
        put_signed(&mut control, len_i64(next) - len_i64(at + copied));
        (copied_bytes, inserted_bytes) = (copied_bytes + copied, inserted_bytes + inserted);
        at = next;
    }
    let (mut left, mut values) = (copied_bytes, 0);
    while left > 0 && numbers.below(4) > 0 {
        let equal = numbers.length(left - 1);
        let differing = 1 + numbers.length((left - equal - 1).min(9));
        put_len(&mut gaps, equal);
        put_len(&mut gaps, differing);
        (left, values) = (left - equal - differing, values + differing);
    }
    let sections = [
        control,
        gaps,
        numbers.bytes(values),
        numbers.bytes(inserted_bytes),
        moves(numbers, reach),
    ];
    let mut out = Vec::new();
    for section in sections {
        put_len(&mut out, section.len());
        out.extend(section);
    }
    (out, copied_bytes + inserted_bytes)
}

fn damage(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    let at = numbers.length(bytes.len() - 1);
    match numbers.below(4) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << numbers.below(8),
        2 => bytes.insert(at, low_byte(numbers.next())),
        _ => bytes[at] = bytes[at].wrapping_add(1),
    }
}

/// Appends a case: the base, the differences, the length, and the result or the lack of one. Each
/// field has its length before it.
fn put_case(numbers: &mut Numbers, out: &mut Vec<u8>) -> bool {
    let reaches = [0, 1, 60, 1000, 3000, 1 << 24];
    let reach = reaches[numbers.length(reaches.len() - 1)];
    let base = base(numbers, len_i64(reach));
    let too_far = usize::from(numbers.below(20) == 0);
    let (mut differences, mut length) = differences(numbers, &base, reach + too_far);
    if numbers.below(5) == 0 {
        damage(numbers, &mut differences);
    }
    if numbers.below(40) == 0 {
        length += 1;
    }
    let mut cursor = Cursor::new(&differences);
    let made = apply(&base, &mut cursor, length);
    for field in [&base, &differences] {
        put_len(out, field.len());
        out.extend_from_slice(field);
    }
    put_len(out, length);
    let Ok(made) = made else {
        out.push(0);
        return false;
    };
    out.push(1);
    out.extend(made);
    put_len(out, cursor.position());
    true
}

#[test]
fn the_agent_decodes_what_is_decoded_here() {
    let asked = std::env::var("RELSYNC_DIFFERENCES").ok();
    let count = asked.map_or(CASES, |count| count.parse().expect("a number"));
    let mut numbers = Numbers(count);
    let mut out = Vec::new();
    let made = (0..count)
        .filter(|_| put_case(&mut numbers, &mut out))
        .count() as u64;
    assert!(made > count / 2 && made < count, "{made} of {count}");
    if let Some(file) = std::env::var_os("RELSYNC_DIFFERENCES_FILE") {
        std::fs::write(file, out).expect("write");
        return;
    }
    let file = golden_dir("difference").join("cases.bin");
    if std::env::var_os("RELSYNC_BLESS").is_some() {
        std::fs::write(&file, &out).expect("write");
    }
    let golden = std::fs::read(&file).expect("read");
    assert!(golden == out, "RELSYNC_BLESS=1 rewrites it");
}
