//! The words that count as pointers, and the bytes that their moves save.

use super::*;
use proptest::prelude::*;

use crate::golden_tests::golden_dir;

/// Code with 625 calls and a table of 200 addresses, before and after an insertion of 48 bytes.
fn executables() -> [Vec<u8>; 2] {
    golden("pointers")
}

fn golden(case: &str) -> [Vec<u8>; 2] {
    ["0.base", "0.new"].map(|name| {
        std::fs::read(golden_dir("delta").join(case).join(name)).expect("a golden file")
    })
}

const INSERTED_AT: usize = 5008;
const INSERTED: usize = 48;

fn matches(base: &[u8]) -> [Match<'_>; 2] {
    matches_around(base, INSERTED_AT)
}

/// The matches before and behind an insertion of 48 bytes, with the base cut off at its start.
fn matches_around(base: &[u8], inserted_at: usize) -> [Match<'_>; 2] {
    let (before, behind) = base.split_at(inserted_at);
    [
        Match {
            base: before,
            base_at: 0,
            new_at: 0,
        },
        Match {
            base: behind,
            base_at: inserted_at,
            new_at: inserted_at + INSERTED,
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

/// Code of arm64 with 534 calls and jumps and a table of distances, before and after an insertion
/// of 48 bytes.
#[test]
fn branches_across_a_new_function_are_moved_wherever_words_begin() {
    let [base, new] = golden("branches");
    for cut in 0..4 {
        let (base, new) = (&base[cut..], &new[cut..]);
        let matches = matches_around(base, 4400 - cut);
        let moves = Moves::learn(base, new, matches.into_iter(), 1 << 16);
        assert_eq!(moves.pattern.words_at, Some((4 - cut) % 4));
        let read = Moves::take(&written(&moves), base).expect("moves");
        let (mut before, mut after) = (0, 0);
        for found in matches {
            let new = &new[found.new_at..];
            before += differing(found.base, new);
            after += differing(&read.applied(found), new);
        }
        assert!(before > 256, "{before} bytes differ");
        assert!(after < before / 10, "{after} of {before} bytes are left");
    }
}

#[test]
fn branches_are_not_looked_for_in_other_code() {
    let [base, new] = executables();
    for reach in [0, MAX_REACH] {
        let moves = Moves::learn(&base, &new, matches(&base).into_iter(), reach);
        assert_eq!(moves.pattern.words_at, None);
    }
}

#[test]
fn wrong_moves_are_refused() {
    let [base, new] = executables();
    let good = written(&Moves::learn(&base, &new, matches(&base).into_iter(), 7));
    let farthest = [0x80, 0x80, 0x80, 72, 1, 1, 2];
    assert!(Moves::take(&farthest, &base).is_ok());
    let wrong = [
        &good[..good.len() - 1],
        // Neither of distances nor of addresses.
        &[0, 0],
        // A reach of 2^24 and one; words at 4.
        &[0x81, 0x80, 0x80, 8, 1, 1, 2],
        &[0x80, 0x80, 0x80, 80, 1, 1, 2],
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
