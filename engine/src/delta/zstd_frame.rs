//! Zstd frames whose history begins with a prefix that the decoder already has
//! (`zstd --patch-from`).
//!
//! This module owns the parameters. The window spans prefix and content, so all of the prefix can
//! be referred to. Frames have no checksum, because a SHA-256 covers their content, and no
//! dictionary id. A *bare* frame also lacks the length of its content, for readers that get it from
//! elsewhere.

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, Strategy, compress_bound, get_error_name,
};

/// The window that every decoder must accept. RFC 8878 recommends 8 MiB; all of our decoders take
/// the prefix as part of the window.
const MAX_WINDOW_LOG: u32 = 27;
/// The smallest window that a frame can ask for.
const MIN_WINDOW_LOG: u32 = 10;
/// The length beyond which zstd's own tables do not reach all of the prefix.
const LONG_BYTES: usize = 8 << 20;
/// The level that the fast and the deep search start from.
const DEEP_LEVEL: i32 = 19;
/// The level of a quick search.
const QUICK_LEVEL: i32 = 3;
/// The maximum size of the compressor's tables: 2^23 entries.
const MAX_TABLE_LOG: u32 = 23;
/// The number of candidates for each match: 2^5. With more, the result is not smaller, but
/// everything is slower.
const SEARCH_LOG: u32 = 5;
/// The length of a match that is taken without searching further.
const TARGET_LENGTH: u32 = 256;
/// The largest block of a frame. It is smaller if the window is smaller.
const BLOCK_BYTES: usize = 128 << 10;

/// The effort of the search for matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// Finds long matches anywhere and short ones nearby, in a hundredth of the time of
    /// [`Search::Deep`].
    Quick,
    /// Finds nearly every match, and takes matches as they come. It is as good as [`Search::Deep`]
    /// if little is left to code, in a tenth of the time.
    Fast,
    /// Finds matches anywhere in the prefix, and weighs which ones to take.
    Deep,
    /// Does the same as zstd at this level.
    Level(i32),
}

/// The reason why content could not be compressed.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CompressError(String);

/// The reason why a frame could not be decompressed.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct DecompressError(String);

/// Compresses `content` into one frame that refers to `prefix`, at one of zstd's levels.
pub fn compress(prefix: &[u8], content: &[u8], level: i32) -> Result<Vec<u8>, CompressError> {
    let mut context = compressor(prefix, content, Search::Level(level))?;
    let mut out = Vec::with_capacity(compress_bound(content.len()));
    context.compress2(&mut out, content).map_err(refused)?;
    Ok(out)
}

/// Compresses `content` into one bare frame that refers to `prefix`.
///
/// If the compressor fails, the frame holds the content uncompressed.
#[must_use]
pub(crate) fn compress_bare(prefix: &[u8], content: &[u8], search: Search) -> Vec<u8> {
    compress_bare_within(prefix, content, search, compress_bound(content.len()))
        .unwrap_or_else(|| stored(prefix.len(), content))
}

/// Compresses `content` into one bare frame of less than `limit` bytes. Returns `None` as soon as
/// it is clear that this is impossible.
#[must_use]
pub(crate) fn compress_bare_within(
    prefix: &[u8],
    content: &[u8],
    search: Search,
    limit: usize,
) -> Option<Vec<u8>> {
    let _span = match search {
        Search::Quick => tracing::trace_span!("quick"),
        Search::Level(1) => tracing::trace_span!("estimate"),
        Search::Fast => tracing::trace_span!("fast"),
        Search::Deep | Search::Level(_) => tracing::trace_span!("thorough"),
    }
    .entered();
    let mut context = compressor(prefix, content, search).ok()?;
    context
        .set_parameter(CParameter::ContentSizeFlag(false))
        .ok()?;
    let mut out = Vec::with_capacity(limit.min(compress_bound(content.len())));
    context.compress2(&mut out, content).ok()?;
    (out.len() < limit).then_some(out)
}

fn compressor<'p>(
    prefix: &'p [u8],
    content: &[u8],
    search: Search,
) -> Result<CCtx<'p>, CompressError> {
    let bytes = prefix.len() + content.len();
    let window_log = window_log(bytes);
    let level = match search {
        Search::Quick => QUICK_LEVEL,
        Search::Fast | Search::Deep => DEEP_LEVEL,
        Search::Level(level) => level,
    };
    let mut parameters = vec![
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log),
        CParameter::EnableLongDistanceMatching(search == Search::Quick || bytes > LONG_BYTES),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ];
    match search {
        Search::Fast => parameters.extend([
            CParameter::Strategy(Strategy::ZSTD_lazy2),
            CParameter::ChainLog((window_log + 1).min(MAX_TABLE_LOG)),
            CParameter::HashLog((window_log + 1).min(MAX_TABLE_LOG)),
            CParameter::SearchLog(SEARCH_LOG),
            CParameter::MinMatch(4),
            CParameter::TargetLength(TARGET_LENGTH),
        ]),
        // The tables of the highest levels are made for content much larger than ours. These cover
        // the prefix completely.
        Search::Deep => parameters.extend([
            CParameter::Strategy(Strategy::ZSTD_btultra2),
            CParameter::ChainLog((window_log + 1).min(MAX_TABLE_LOG)),
            CParameter::HashLog((window_log - 1).min(MAX_TABLE_LOG)),
            CParameter::SearchLog(SEARCH_LOG),
            CParameter::MinMatch(3),
            CParameter::TargetLength(TARGET_LENGTH),
        ]),
        Search::Quick | Search::Level(_) => {}
    }
    let mut context =
        CCtx::try_create().ok_or_else(|| CompressError("out of memory".to_owned()))?;
    for parameter in parameters {
        context.set_parameter(parameter).map_err(refused)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(refused)?;
    }
    Ok(context)
}

/// Returns the version of zstd.
pub(crate) fn version() -> u32 {
    zstd::zstd_safe::version_number()
}

fn refused(code: usize) -> CompressError {
    CompressError(get_error_name(code).to_owned())
}

/// Returns a bare frame of uncompressed blocks (RFC 8878, section 3.1.1).
pub(super) fn stored(prefix_len: usize, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0];
    let window_log = window_log(prefix_len + content.len());
    // The exponent is in the upper bits. It counts from a window of 1 KiB.
    frame.push(u8::try_from(window_log - MIN_WINDOW_LOG).unwrap_or(0) << 3);
    let block_bytes = BLOCK_BYTES.min(1 << window_log);
    let blocks = content.len().div_ceil(block_bytes).max(1);
    for block in 0..blocks {
        let bytes = &content[block * block_bytes..content.len().min((block + 1) * block_bytes)];
        let header = bytes.len() << 3 | usize::from(block + 1 == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(bytes);
    }
    frame
}

/// Decompresses one frame of at most `limit` bytes of content that refers to `prefix`.
#[cfg(any(test, fuzzing))]
pub(crate) fn decompress(
    prefix: &[u8],
    frame: &[u8],
    limit: usize,
) -> Result<Vec<u8>, DecompressError> {
    let declared = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= limit)
        .ok_or_else(|| DecompressError(format!("a frame of over {limit} bytes")))?;
    decompress_bare(prefix, frame, declared)
}

/// Decompresses one frame that refers to `prefix`, with or without a content length in the frame.
/// Fails if the content is longer than `limit` bytes.
pub(crate) fn decompress_bare(
    prefix: &[u8],
    frame: &[u8],
    limit: usize,
) -> Result<Vec<u8>, DecompressError> {
    let failed = |code| DecompressError(get_error_name(code).to_owned());
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
        .map_err(failed)?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut content = Vec::with_capacity(limit);
    context.decompress(&mut content, frame).map_err(failed)?;
    Ok(content)
}

/// Returns the smallest window log that spans `bytes`.
fn window_log(bytes: usize) -> u32 {
    let needed = usize::BITS - bytes.saturating_sub(1).leading_zeros();
    needed.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCHES: [Search; 4] = [Search::Quick, Search::Fast, Search::Deep, Search::Level(19)];

    #[test]
    fn content_comes_back_with_its_prefix_only() {
        let prefix: Vec<u8> = (0..50_000_u32)
            .flat_map(|n| (n * n).to_le_bytes())
            .collect();
        let mut content = prefix.clone();
        content[70_000] ^= 1;
        for search in SEARCHES {
            let frame = compress_bare(&prefix, &content, search);
            assert!(frame.len() < 100, "{search:?}: {} bytes", frame.len());
            assert_eq!(
                decompress_bare(&prefix, &frame, content.len()).expect("decompression"),
                content
            );
            assert!(decompress_bare(&prefix, &frame, content.len() - 1).is_err());
            assert!(decompress_bare(&prefix[..1000], &frame, content.len()).is_err());
            let cut = &frame[..frame.len() - 1];
            assert!(decompress_bare(&prefix, cut, content.len()).is_err());
        }
    }

    #[test]
    fn lengths_are_declared_but_in_bare_frames() {
        let content = b"content ".repeat(100);
        let frame = compress(b"", &content, 19).expect("compression");
        assert_eq!(decompress(b"", &frame, 800).expect("a frame"), content);
        assert!(decompress(b"", &frame, 799).is_err());
        let bare = compress_bare(b"", &content, Search::Level(19));
        assert!(decompress(b"", &bare, 800).is_err());
        assert_eq!(decompress_bare(b"", &bare, 800).expect("a frame"), content);
    }

    #[test]
    fn what_is_not_below_the_limit_is_not_made() {
        let content: Vec<u8> = (0..3000_u32).flat_map(|n| (n * n).to_be_bytes()).collect();
        for search in SEARCHES {
            let frame = compress_bare(b"", &content, search);
            let within = |limit| compress_bare_within(b"", &content, search, limit);
            assert_eq!(within(frame.len()), None, "{search:?}");
            assert_eq!(within(frame.len() / 2), None, "{search:?}");
            assert_eq!(within(2 * content.len()), Some(frame), "{search:?}");
        }
    }

    #[test]
    fn stored_frames_are_frames() {
        for len in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            let content = vec![7; len];
            assert_eq!(
                decompress_bare(b"12345", &stored(5, &content), len).expect("a stored frame"),
                content
            );
        }
    }
}
