//! Deltas: the body of a frame, made from new contents and the base contents that the target holds.
//!
//! Owns the transforms (*inflate*, *beam*), the coders behind them (zstd with the base as prefix, byte-wise differences)
//! and the choice between them. Pure: bytes in, bytes out. Does not choose bases, cut frames or check hashes.
//!
//! Invariants: [`decode`] of [`encode`] gives the pieces back, bit for bit, because the encoder runs the decoder's
//! transforms and takes a simpler one where they differ; a body is at most 64 bytes, and five for each piece, longer than what
//! zstd makes of the contents together at the same level; hostile bodies and bases give errors, within the limits' memory.
//!
//! The agent decodes with the Erlang twin of this code, `relsync_lib_delta`; `store-format.md` specifies the bytes.

mod beam;
mod bsdiff;
mod candidate;
mod cursor;
mod decode;
mod encode;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod inflate;
mod pointers;
mod steps;
mod streams;
mod zlib;
pub mod zstd_frame;

pub use beam::BeamOrigin;
pub use decode::decode;
pub use encode::{encode, encode_with};
pub use frame::Transform;

use std::fmt;

use cursor::Malformed;

/// A new content and what it is based on.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The content the target is to get.
    pub new: &'a [u8],
    /// Content that the target has and will hand to the decoder.
    pub base: Option<&'a [u8]>,
}

/// Returns the names and arities of the functions that a compiled module exports, unless it cannot be read.
#[must_use]
pub fn module_exports(file: &[u8]) -> Option<Vec<(String, u32)>> {
    beam::exports(file)
}

/// What a decoder may be asked to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all contents together.
    pub max_content_bytes: usize,
    /// Bytes of all streams that are decoded at once, those of the bases included.
    pub max_memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_content_bytes: 1 << 20,
            max_memory_bytes: 8 << 20,
        }
    }
}

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What the decoder is allowed.
    pub limits: Limits,
    /// zstd's level, 1 to 22, or [`STORED_LEVEL`]; from [`BEST_LEVEL`] on the whole prefix is searched, in depth where much is left to say.
    pub level: i32,
    /// Whether the target's zlib may be relied on to deflate as ours does.
    pub reflate: bool,
}

/// The level of the effort `best`: from it on, size is all that counts.
pub const BEST_LEVEL: i32 = 19;

/// The level of the effort `fast`: time counts as well as size.
pub const FAST_LEVEL: i32 = 9;

/// The level at which content is neither transformed nor compressed nor held against a base.
pub const STORED_LEVEL: i32 = 0;

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            level: BEST_LEVEL,
            reflate: true,
        }
    }
}

/// The body of a frame, and how it came about.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The body.
    pub bytes: Vec<u8>,
    /// For each piece how it was coded.
    pub explain: Vec<PieceExplanation>,
    /// About what zstd makes of the contents by itself, in bytes.
    pub plain_bytes: u64,
}

/// How a piece was coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceExplanation {
    /// What was done before coding.
    pub transform: Transform,
    /// How the content was coded.
    pub coder: Coder,
    /// Whether the base was of use.
    pub has_base: bool,
    /// About which part of the body is this piece's, in bytes; the parts add up to the body.
    pub bytes: u64,
}

impl fmt::Display for PieceExplanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.transform {
            Transform::Plain => "plain",
            Transform::Inflate => "inflate",
            Transform::Beam => "beam",
        })?;
        formatter.write_str(match (self.has_base, self.coder) {
            (false, _) => ", no base",
            (true, Coder::Prefix) => ", base as prefix",
            (true, Coder::Differences) => ", differences from base",
        })
    }
}

/// How streams are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coder {
    /// zstd with the base's streams as prefix.
    Prefix,
    /// Byte-wise differences from the base's streams, then zstd.
    Differences,
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is of a version this decoder does not know.
    #[error("frame body has version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// A piece needs a base that was not given.
    #[error("frame body refers to a base that is not there")]
    BaseMissing,
    /// The streams exceed the limits.
    #[error("frame body decodes to more than is allowed")]
    TooLarge,
    /// The body, or a base, is not what the encoder saw.
    #[error("frame body or base is malformed")]
    Malformed,
    /// Deflating gave other bytes than the encoder's zlib.
    #[error("this zlib deflates to other bytes than the encoder's")]
    ZlibDiffers,
    /// The residual cannot be decompressed.
    #[error("frame body cannot be decompressed")]
    Zstd {
        /// What the decompressor said.
        #[source]
        source: crate::delta::zstd_frame::DecompressError,
    },
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Returns the MD5 of a BEAM file's essential chunks: what `Module:module_info(md5)` answers once it is loaded.
#[must_use]
pub fn beam_md5(file: &[u8]) -> Option<[u8; 16]> {
    let module = beam::Module::unpack(file, beam::Reading::Base).ok()?;
    let container = module.container().ok()?;
    Some(beam::module_md5(&container))
}

/// Returns what tells this host's zlib from one that deflates to other bytes.
#[must_use]
pub fn zlib_fingerprint() -> [u8; 8] {
    zlib::fingerprint()
}

/// Says for which release of OTP a BEAM file was compiled; `None` if it is no such file.
#[must_use]
pub fn beam_origin(file: &[u8]) -> Option<BeamOrigin> {
    beam::origin(file)
}

#[cfg(test)]
mod beam_tests;
#[cfg(test)]
mod difference_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
