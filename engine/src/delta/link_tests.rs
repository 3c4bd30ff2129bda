//! How hard is searched over which link.

use super::tests::{assert_not_larger_than_solid, installed_beams};
use super::*;

const FAST: Option<u64> = Some(10_000_000);
const SLOW: Option<u64> = Some(1_000);

/// Encodes modules that have other ones as bases, decodes them again, and returns the body's length.
fn coded_len(beams: &[Vec<u8>], link_bytes_per_s: Option<u64>) -> usize {
    let pieces: Vec<Piece<'_>> = beams
        .windows(2)
        .map(|pair| Piece {
            new: &pair[1],
            base: Some(&pair[0]),
        })
        .collect();
    let options = Options {
        link_bytes_per_s,
        ..Options::default()
    };
    let encoded = encode_with(&pieces, &options);
    let again = encode_with(&pieces, &options);
    assert!(encoded.bytes == again.bytes, "the same each time");
    let bases: Vec<Option<&[u8]>> = pieces.iter().map(|piece| piece.base).collect();
    let decoded = decode(&encoded.bytes, &bases, options.limits).expect("what was just encoded");
    assert!(decoded == beams[1..], "decoded contents differ");
    encoded.bytes.len()
}

#[test]
fn a_fast_link_gets_no_thorough_search_where_much_is_left() {
    let beams = &installed_beams(&["sasl", "runtime_tools"])[..8];
    let fast = coded_len(beams, FAST);
    let slow = coded_len(beams, SLOW);
    let unknown = coded_len(beams, None);
    assert!(
        fast > slow,
        "{fast} bytes over a fast link, {slow} over a slow one"
    );
    assert!(
        fast > unknown,
        "{fast} bytes over a fast link, {unknown} over any"
    );
    assert!(
        slow <= unknown + unknown / 50,
        "{slow} bytes over a slow link, {unknown} over any"
    );
}

#[test]
fn the_faster_the_link_the_more_bytes_are_left() {
    let beams = &installed_beams(&["sasl", "runtime_tools"])[..8];
    let rates = [1_000, 100_000, 1_000_000, 10_000_000, u64::MAX];
    let lens = rates.map(|rate| coded_len(beams, Some(rate)));
    assert!(lens.is_sorted(), "{lens:?}");
    assert!(lens[0] < lens[4], "{lens:?}");
}

#[test]
fn what_is_new_is_searched_by_the_link_too() {
    let beams = installed_beams(&["sasl", "runtime_tools"]);
    let pieces = [Piece {
        new: &beams[..8].concat(),
        base: None,
    }];
    let [_, fast, slow, unknown] = [Some(u64::MAX), FAST, SLOW, None].map(|link_bytes_per_s| {
        let options = Options {
            link_bytes_per_s,
            ..Options::default()
        };
        assert_not_larger_than_solid(&pieces, &options);
        encode_with(&pieces, &options).bytes.len()
    });
    assert!(
        fast > slow,
        "{fast} bytes over a fast link, {slow} over a slow one"
    );
    assert_eq!(slow, unknown);
}
