//! Deltas: the body of a frame, made from new contents and from base contents that the target has.
//!
//! This wing owns the transforms (*inflate*, *beam*), the coders that follow them (zstd with the
//! base as prefix, byte-wise differences), and the choice between them. It is pure: bytes in, bytes
//! out. It does not choose bases, cut frames or check hashes.
//!
//! Invariants:
//!
//! - [`decode()`] of [`encode()`] gives the pieces back bit for bit. The encoder runs the decoder's
//!   transforms, and takes a simpler transform if the result differs.
//! - A body is at most 64 bytes, plus five for each piece, longer than the contents compressed
//!   together by zstd at the same level.
//! - Hostile bodies and bases give errors, within the limits' memory.
//!
//! The agent decodes with the Erlang twin of this code, `relsync_lib_delta`. `store-format.md`
//! specifies the bytes.

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

pub(crate) use beam::BeamOrigin;
pub use decode::decode;
pub use encode::{encode, encode_with};
pub use frame::Transform;

use std::fmt;

use cursor::Malformed;

/// A new content and its base.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The content that the target shall get.
    pub new: &'a [u8],
    /// Content that the target has. It gives it to the decoder.
    pub base: Option<&'a [u8]>,
}

/// Returns the names and arities of the functions that a compiled module exports; returns `None` if
/// the module cannot be read.
#[must_use]
pub(crate) fn module_exports(file: &[u8]) -> Option<Vec<(String, u32)>> {
    beam::exports(file)
}

/// The limits of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of all contents together.
    pub max_content_bytes: usize,
    /// The bytes of all streams that are decoded at once, those of the bases included.
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

/// The options of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The decoder's limits.
    pub limits: Limits,
    /// zstd's level, 1 to 22. From [`BEST_LEVEL`] on, the whole prefix is searched, and searched
    /// thoroughly if much is left to code.
    pub level: i32,
    /// Whether the target's zlib is known to deflate as ours does.
    pub reflate: bool,
}

/// The level of the effort `best`. From it on, only size counts.
pub const BEST_LEVEL: i32 = 19;

/// The level of the effort `fast`, at which time counts as well as size.
pub(crate) const FAST_LEVEL: i32 = 9;

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            level: BEST_LEVEL,
            reflate: true,
        }
    }
}

/// The body of a frame, and a report on its coding.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The body.
    pub bytes: Vec<u8>,
    /// The coding of each piece.
    pub explain: Vec<PieceExplanation>,
    /// The approximate size that plain zstd would give, in bytes.
    pub plain_bytes: u64,
}

/// The coding of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceExplanation {
    /// The transform before the coding.
    pub transform: Transform,
    /// The coder of its streams.
    pub coder: Coder,
    /// Whether the base was used.
    pub has_base: bool,
    /// The piece's approximate share of the body, in bytes. The shares add up to the body.
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

/// The coder of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coder {
    /// zstd with the base's streams as prefix.
    Prefix,
    /// Byte-wise differences from the base's streams, then zstd.
    Differences,
}

/// The reasons why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body has a version that this decoder does not know.
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
    /// The body, or a base, differs from the encoder's.
    #[error("frame body or base is malformed")]
    Malformed,
    /// Deflating gave other bytes than the encoder's zlib.
    #[error("this zlib deflates to other bytes than the encoder's")]
    ZlibDiffers,
    /// The compressed streams cannot be decompressed.
    #[error("frame body cannot be decompressed")]
    Zstd {
        /// The decompressor's error.
        #[source]
        source: crate::delta::zstd_frame::DecompressError,
    },
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Returns the MD5 of a BEAM file's essential chunks. The loaded module answers it to
/// `Module:module_info(md5)`.
#[must_use]
pub(crate) fn beam_md5(file: &[u8]) -> Option<[u8; 16]> {
    let module = beam::Module::unpack(file, beam::Reading::Base).ok()?;
    let container = module.container().ok()?;
    Some(beam::module_md5(&container))
}

/// Returns a fingerprint of this host's zlib. A zlib that deflates to other bytes has another
/// fingerprint.
#[must_use]
pub(crate) fn zlib_fingerprint() -> [u8; 8] {
    zlib::fingerprint()
}

/// Returns the OTP release that a BEAM file was compiled for; `None` if the bytes are not a BEAM
/// file.
#[must_use]
pub(crate) fn beam_origin(file: &[u8]) -> Option<BeamOrigin> {
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
