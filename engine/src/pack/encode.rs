//! The encoder of packs. It encodes the pack of an outline.
//!
//! This module owns the order of work. Frames are read and coded in parallel batches, and written in
//! order. So memory stays at a few frames per core, whatever the size of the update. The content
//! comes from a [`ContentSource`], and the bytes go to the caller's sink.
//!
//! **Invariant.** The same outline, content and [`Coding`] give the same bytes. So an interrupted
//! pack can be built again and continued where it stopped. A change of the encoder that makes other
//! bytes comes with another `ENCODER_VERSION` (`outline`).

use rayon::prelude::*;

use crate::delta;
use crate::delta::zstd_frame;
use crate::pack::outline::{OutlinedFrame, Range};
use crate::pack::{Coding, Cursor, Outline, Sealer};
use crate::tree::id::{ChunkId, PackId, Sha256};

/// The source of files' content.
pub trait ContentSource: Sync {
    /// Reads exactly `length` bytes at `offset` of the content with this hash.
    fn read(&self, sha256: &Sha256, offset: u64, length: usize) -> Result<Vec<u8>, ContentError>;

    /// Returns the chunks of a content in order, with their lengths; empty if they are unknown.
    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)>;
}

/// The reason why content cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read content {sha256}")]
pub struct ContentError {
    /// The content's hash.
    pub sha256: Sha256,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The reasons why a pack cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Content could not be read.
    #[error("cannot build the pack")]
    Content(#[from] ContentError),
    /// The manifest could not be compressed.
    #[error("cannot compress the manifest")]
    Compress(#[from] zstd_frame::CompressError),
    /// The pack could not be written.
    #[error("cannot write the pack")]
    Sink(#[source] std::io::Error),
}

/// A summary of the pack that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// The pack's id.
    pub id: PackId,
    /// The pack's size in bytes.
    pub pack_bytes: u64,
    /// The approximate size that plain zstd would give, in bytes.
    pub plain_bytes: u64,
    /// The coding of each piece, in order.
    pub pieces: Vec<CodedPiece>,
}

/// The coding of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedPiece {
    /// The file's index in the new manifest.
    pub entry: usize,
    /// The base's number.
    pub base: Option<usize>,
    /// Transform and coder.
    pub how: delta::PieceExplanation,
    /// The piece's size in bytes.
    pub content_bytes: u64,
}

/// Encodes the pack of `outline`. It passes the bytes to `sink` in order.
pub(crate) fn encode_pack(
    outline: &Outline,
    source: &dyn ContentSource,
    coding: Coding,
    sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<PackSummary, EncodeError> {
    let mut sealer = Sealer::default();
    let mut pack_bytes = 0;
    let mut write = |record: &[u8]| {
        pack_bytes += record.len() as u64;
        sink(record).map_err(EncodeError::Sink)
    };
    write(&sealer.record(&outline.header.encode()))?;

    let mut cursor = Cursor::default();
    let mut pieces = Vec::new();
    let mut plain_bytes = 0;
    for batch in outline.frames.chunks(2 * rayon::current_num_threads()) {
        let bodies: Vec<Body> = batch
            .par_iter()
            .map(|frame| encode_body(frame, source, coding))
            .collect::<Result<_, _>>()?;
        for (frame, body) in batch.iter().zip(bodies) {
            write(&sealer.record(&frame.head.encode(&mut cursor, &body.bytes)))?;
            pieces.extend(body.pieces);
            plain_bytes += body.plain_bytes;
        }
    }
    write(&sealer.finish())?;
    Ok(PackSummary {
        id: outline.id(coding),
        pack_bytes,
        plain_bytes,
        pieces,
    })
}

struct Body {
    bytes: Vec<u8>,
    plain_bytes: u64,
    pieces: Vec<CodedPiece>,
}

fn encode_body(
    frame: &OutlinedFrame,
    source: &dyn ContentSource,
    coding: Coding,
) -> Result<Body, EncodeError> {
    let read = |range: &Range| source.read(&range.sha256, range.offset, range.length);
    let mut contents = Vec::with_capacity(frame.reads.len());
    let mut bases = Vec::with_capacity(frame.reads.len());
    for (content, base) in &frame.reads {
        contents.push(read(content)?);
        bases.push(base.as_ref().map(read).transpose()?);
    }
    let pieces: Vec<delta::Piece<'_>> = contents
        .iter()
        .zip(&bases)
        .map(|(new, base)| delta::Piece {
            new,
            base: base.as_deref(),
        })
        .collect();
    let options = delta::Options {
        level: coding.effort.level(),
        reflate: coding.reflate,
        ..delta::Options::default()
    };
    let coded = delta::encode_with(&pieces, &options);
    let explained = frame
        .head
        .pieces
        .iter()
        .zip(&contents)
        .zip(&coded.explain)
        .map(|((piece, content), how)| CodedPiece {
            entry: piece.entry,
            base: piece.base.map(|from| from.base),
            how: *how,
            content_bytes: content.len() as u64,
        })
        .collect();
    Ok(Body {
        bytes: coded.bytes,
        plain_bytes: coded.plain_bytes,
        pieces: explained,
    })
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
