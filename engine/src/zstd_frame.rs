//! Zstd frames whose history begins with a prefix that the decoder has already (`zstd --patch-from`).
//!
//! Owns the parameters: the window spans prefix and content, so that all of the prefix can be referred to. Frames carry no checksum
//! (what they hold is covered by a SHA-256) and no dictionary id.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, ResetDirective, get_error_name};

/// The largest window log that zstd knows on 64-bit machines.
const MAX_WINDOW_LOG: u32 = 31;

/// Why content could not be compressed.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CompressError(String);

/// Why a frame could not be decompressed.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct DecompressError(String);

/// Compresses `content` into one frame that refers to `prefix`.
pub fn compress(prefix: &[u8], content: &[u8], level: i32) -> Result<Vec<u8>, CompressError> {
    let failed = |code| CompressError(get_error_name(code).to_owned());
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log(prefix.len() + content.len())),
        CParameter::EnableLongDistanceMatching(prefix.len() + content.len() > 8 << 20),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(prefix).map_err(failed)?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(content.len()));
    context.compress2(&mut out, content).map_err(failed)?;
    Ok(out)
}

/// Decompresses one frame of at most `limit` bytes of content that refers to `prefix`.
pub fn decompress(prefix: &[u8], frame: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let failed = |code| DecompressError(get_error_name(code).to_owned());
    let mut context = DCtx::create();
    context.reset(ResetDirective::SessionOnly).map_err(failed)?;
    context
        .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
        .map_err(failed)?;
    context.ref_prefix(prefix).map_err(failed)?;
    let declared = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= limit)
        .ok_or_else(|| DecompressError(format!("a frame of over {limit} bytes")))?;
    let mut out = Vec::with_capacity(declared);
    context.decompress(&mut out, frame).map_err(failed)?;
    Ok(out)
}

/// The smallest window log that spans `bytes`.
fn window_log(bytes: usize) -> u32 {
    let needed = usize::BITS - bytes.saturating_sub(1).leading_zeros();
    needed.clamp(10, MAX_WINDOW_LOG)
}
