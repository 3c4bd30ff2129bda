//! Fuzz targets of the delta's decoders. A compressed stream hides its content from a fuzzer, so
//! `frame_streams` takes the content uncompressed.

use super::bsdiff::Differences;
use super::cursor::Cursor;
use super::frame::{self, Head};
use super::inflate::{self, Deflater, Gzip};
use super::zlib::Framing;
use super::{
    Limits, Options, Piece, beam_md5, beam_origin, bsdiff, decode, decode::prefix_of, encode_with,
};
use crate::delta::zstd_frame;
use crate::fuzzing::{split, take_part};

/// The limits of these targets. They are small, so that a run is quick; they work like the real
/// ones.
const LIMITS: Limits = Limits {
    max_content_bytes: 256 << 10,
    max_memory_bytes: 1 << 20,
};

/// The maximum number of bases in an input.
const BASES: u8 = 4;

/// Encodes and decodes the input as a module, with itself as the base.
pub fn beam(input: &[u8]) {
    let _ = beam_md5(input);
    let _ = beam_origin(input);
    round_trip(&[piece(input, Some(input))], 1, true);
}

/// Takes a gzip file apart. If its level is found, the same file comes back.
pub fn gzip(input: &[u8]) {
    let Ok(gzip) = Gzip::parse(input) else {
        return;
    };
    assert!(gzip.content.len() <= inflate::MAX_INFLATED_BYTES);
    let likely = gzip.likely();
    let found = inflate::find_level(&gzip.content, gzip.deflated, likely, Framing::Raw);
    if let Some(level) = found {
        let again = inflate::gzip(gzip.header, level, &gzip.content, &Deflater::default());
        assert_eq!(again, input);
    }
}

/// Applies the rest of the input as differences, and makes the differences between its two parts.
pub fn difference(input: &[u8]) {
    let (base, rest) = split(input);
    if let Some((length, differences)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        if let Ok(made) = bsdiff::apply(base, &mut Cursor::new(differences), length) {
            assert_eq!(made.len(), length);
        }
    }
    let mut written = Vec::new();
    let found = Differences::between(base, rest, usize::MAX);
    found.expect("no limit").put(&mut written);
    let mut cursor = Cursor::new(&written);
    let made = bsdiff::apply(base, &mut cursor, rest.len());
    assert_eq!(made.as_deref(), Ok(rest));
    assert!(cursor.is_empty());
}

/// Decodes a frame body with its bases.
pub fn frame_body(input: &[u8]) {
    let (bases, body) = bases_and_rest(input);
    decode_within_limits(body, &bases);
}

/// Decodes a frame body of one group, with its bases. The group's streams are not compressed.
pub fn frame_streams(input: &[u8]) {
    let (bases, body) = bases_and_rest(input);
    let mut cursor = Cursor::new(body);
    let Ok(mut head) = Head::take(&mut cursor, bases.len()) else {
        return;
    };
    head.compressed_len = None;
    let mut coded = vec![frame::VERSION];
    head.put(&mut coded);
    // The longest possible prefix: the window spans it.
    coded.extend(zstd_frame::stored(LIMITS.max_memory_bytes, cursor.rest()));
    decode_within_limits(&coded, &bases[..head.modes.len()]);
}

/// Makes an input for [`frame_streams`] from a valid body. Of several groups, it uses the first.
#[must_use]
pub fn plain_frame(bases: &[Option<&[u8]>], body: &[u8]) -> Option<Vec<u8>> {
    let mut cursor = Cursor::new(body.get(1..)?);
    let mut head = Head::take(&mut cursor, bases.len()).ok()?;
    let compressed = match head.compressed_len.take() {
        Some(length) => cursor.take(length).ok()?,
        None => cursor.rest(),
    };
    let bases = &bases[..head.modes.len()];
    let prefix = prefix_of(&head, bases).ok()?;
    let content = zstd_frame::decompress_bare(&prefix, compressed, LIMITS.max_memory_bytes).ok()?;
    let mut input = Vec::new();
    put_bases(&mut input, bases)?;
    head.put(&mut input);
    input.extend(content);
    Some(input)
}

/// Appends bases in the form that the targets read.
fn put_bases(input: &mut Vec<u8>, bases: &[Option<&[u8]>]) -> Option<()> {
    let count = u8::try_from(bases.len()).ok()?;
    input.push((count <= BASES).then_some(count)?);
    for base in bases {
        // An empty base stands for no base.
        let base = base.unwrap_or_default();
        input.extend(u16::try_from(base.len()).ok()?.to_be_bytes());
        input.extend_from_slice(base);
    }
    Some(())
}

fn bases_and_rest(input: &[u8]) -> (Vec<Option<&[u8]>>, &[u8]) {
    let Some((count, mut rest)) = input.split_first() else {
        return (Vec::new(), input);
    };
    let mut bases = Vec::new();
    for _ in 0..(*count).min(BASES) {
        let base = take_part(&mut rest).unwrap_or_default();
        bases.push((!base.is_empty()).then_some(base));
    }
    (bases, rest)
}

fn decode_within_limits(body: &[u8], bases: &[Option<&[u8]>]) {
    if let Ok(contents) = decode(body, bases, LIMITS) {
        assert_eq!(contents.len(), bases.len());
        let total: usize = contents.iter().map(Vec::len).sum();
        assert!(total <= LIMITS.max_content_bytes);
    }
}

/// Encodes and decodes two new contents, of which one has the base. The input also gives the level
/// and the options.
pub fn delta_round_trip(input: &[u8]) {
    let Some((options, input)) = input.split_first() else {
        return;
    };
    let (base, rest) = split(input);
    let (first, second) = split(rest);
    // The deep search of the highest levels takes a thousand times longer, and does not matter
    // here.
    let level = i32::from(options >> 1 & 3) + 1;
    let pieces = [piece(first, Some(base)), piece(second, None)];
    round_trip(&pieces, level, options & 1 == 0);
}

fn piece<'a>(new: &'a [u8], base: Option<&'a [u8]>) -> Piece<'a> {
    Piece { new, base }
}

fn round_trip(pieces: &[Piece<'_>], level: i32, reflate: bool) {
    let options = Options {
        level,
        reflate,
        ..Options::default()
    };
    let encoded = encode_with(pieces, &options);
    let bases: Vec<_> = pieces.iter().map(|piece| piece.base).collect();
    let decoded = decode(&encoded.bytes, &bases, options.limits).expect("what was just encoded");
    let new: Vec<_> = pieces.iter().map(|piece| piece.new.to_vec()).collect();
    assert!(decoded == new, "the decoded contents differ");
}
