//! zstd with a prefix: what remains of the streams once those of the base are known.

use std::io;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, Strategy, get_error_name};

/// The window must reach back to the start of the prefix.
const MIN_WINDOW_LOG: u32 = 10;
/// No hash table of the compressor has more than 2^23 entries.
const MAX_TABLE_LOG: u32 = 23;
/// 2^5 candidates are compared for each match; with more, nothing gets smaller, but all gets slower.
const SEARCH_LOG: u32 = 5;
/// A match of this length is taken without looking further.
const TARGET_LENGTH: u32 = 256;
/// The level of a quick search.
const QUICK_LEVEL: i32 = 3;
/// Greatest block of a frame.
const BLOCK_BYTES: usize = 1 << 10;
/// What every decoder must accept (RFC 8878 recommends 8 MiB; both of ours take the prefix as part of the window).
const MAX_WINDOW_LOG: u32 = 27;

/// How hard matches are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Finds long matches anywhere and short ones nearby, many times faster than the levels that compress well.
    Quick,
    /// At zstd's level, in depth from [`BEST_LEVEL`](super::BEST_LEVEL) on.
    Level(i32),
}

/// Compresses `content` into a frame that needs `prefix` to decode.
///
/// Should the compressor fail, the frame holds the content as it is.
pub(super) fn compress(prefix: &[u8], content: &[u8], search: Search) -> Vec<u8> {
    try_compress(prefix, content, search).unwrap_or_else(|_| stored(prefix.len(), content))
}

fn try_compress(prefix: &[u8], content: &[u8], search: Search) -> io::Result<Vec<u8>> {
    let level = match search {
        Search::Quick => QUICK_LEVEL,
        Search::Level(level) => level,
    };
    let window_log = window_log(prefix.len() + content.len());
    let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
    let mut set = |parameter| context.set_parameter(parameter).map_err(error);
    set(CParameter::CompressionLevel(level))?;
    set(CParameter::WindowLog(window_log))?;
    set(CParameter::ContentSizeFlag(false))?;
    set(CParameter::ChecksumFlag(false))?;
    set(CParameter::DictIdFlag(false))?;
    if search == Search::Quick {
        set(CParameter::EnableLongDistanceMatching(true))?;
    }
    if level >= super::BEST_LEVEL {
        // The tables of the highest levels are made for content much larger than these; ours cover the prefix completely.
        let table_log = (window_log + 1).min(MAX_TABLE_LOG);
        set(CParameter::Strategy(Strategy::ZSTD_btultra2))?;
        set(CParameter::ChainLog(table_log))?;
        set(CParameter::HashLog(table_log))?;
        set(CParameter::SearchLog(SEARCH_LOG))?;
        set(CParameter::MinMatch(3))?;
        set(CParameter::TargetLength(TARGET_LENGTH))?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(error)?;
    }
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(content.len()));
    context.compress2(&mut frame, content).map_err(error)?;
    Ok(frame)
}

/// Returns a frame of uncompressed blocks (RFC 8878, section 3.1.1).
fn stored(prefix_len: usize, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0];
    // An exponent in the upper bits, counted from a window of 1 KiB.
    frame.push(
        u8::try_from(window_log(prefix_len + content.len()) - MIN_WINDOW_LOG).unwrap_or(0) << 3,
    );
    let blocks = content.len().div_ceil(BLOCK_BYTES).max(1);
    for block in 0..blocks {
        let bytes = &content[block * BLOCK_BYTES..content.len().min((block + 1) * BLOCK_BYTES)];
        let header = bytes.len() << 3 | usize::from(block + 1 == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(bytes);
    }
    frame
}

/// Inverts [`compress`]; fails if the content is longer than `max_len` bytes.
pub(super) fn decompress(frame: &[u8], prefix: &[u8], max_len: usize) -> io::Result<Vec<u8>> {
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
        .map_err(error)?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(error)?;
    }
    let mut content = Vec::with_capacity(max_len);
    context.decompress(&mut content, frame).map_err(error)?;
    Ok(content)
}

fn window_log(len: usize) -> u32 {
    len.next_power_of_two()
        .trailing_zeros()
        .clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)
}

fn error(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_with_its_prefix_only() {
        let prefix: Vec<u8> = (0..50_000_u32)
            .flat_map(|n| (n * n).to_le_bytes())
            .collect();
        let mut content = prefix.clone();
        content[70_000] ^= 1;
        let frame = compress(&prefix, &content, Search::Level(crate::delta::BEST_LEVEL));
        assert!(frame.len() < 60, "{} bytes", frame.len());
        assert_eq!(
            decompress(&frame, &prefix, content.len()).expect("decompression"),
            content
        );
        assert!(decompress(&frame, &prefix, content.len() - 1).is_err());
        assert!(decompress(&frame, &prefix[..1000], content.len()).is_err());
        assert!(decompress(&frame[..frame.len() - 1], &prefix, content.len()).is_err());
    }

    #[test]
    fn stored_frames_are_frames() {
        for len in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            let content = vec![7; len];
            assert_eq!(
                decompress(&stored(5, &content), b"12345", len).expect("a stored frame"),
                content
            );
        }
    }
}
