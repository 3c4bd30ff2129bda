//! The encoder of packs. It builds the pack of a plan.
//!
//! This module owns the order of work. Frames are planned (`frames`), read and coded in parallel
//! batches, and written in order. So memory stays at a few frames per core, whatever the size of
//! the update. The content comes from a [`ContentSource`], and the bytes go to the caller's sink.
//!
//! **Invariant.** The same plan, content and [`Coding`] give the same bytes. So an interrupted pack
//! can be built again and continued where it stopped.

use rayon::prelude::*;

use crate::delta::zstd_frame;
use crate::delta::{self, BEST_LEVEL};
use crate::limits;
use crate::pack::frames::frames;
use crate::pack::{Cursor, FrameHead, Header, Sealer};
use crate::plan::Plan;
use crate::plan::installed::Held;
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256};
use crate::tree::manifest::Manifest;

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
    pub id: [u8; 32],
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

/// The coding of a pack's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// zstd's level.
    pub level: i32,
    /// Whether the target's zlib is known to deflate as the host's does.
    pub reflate: bool,
}

/// Builds the pack of `plan`. It passes the bytes to `sink` in order.
pub fn encode_pack(
    plan: &Plan,
    held: Held<'_>,
    new: &Manifest,
    source: &dyn ContentSource,
    coding: Coding,
    sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<PackSummary, EncodeError> {
    let heads = frames(plan, held, new, &|sha256| source.chunks(sha256));
    let header = Header {
        base: held.manifest.sha256(),
        snapshot: new.id(),
        manifest: new.sha256(),
        manifest_bytes: new.encode().len() as u64,
        content_bytes: plan.totals(new).sent_content_bytes,
        frames: heads.len() as u64,
        deletes: plan.deletes.clone(),
        // The level is the same at every effort. So two packs of incompressible content are the
        // same, too.
        manifest_frame: zstd_frame::compress(held.manifest.encode(), new.encode(), BEST_LEVEL)?,
    };
    let mut sealer = Sealer::default();
    let mut pack_bytes = 0;
    let mut write = |record: &[u8]| {
        pack_bytes += record.len() as u64;
        sink(record).map_err(EncodeError::Sink)
    };
    write(&sealer.record(&header.encode()))?;

    let mut cursor = Cursor::default();
    let mut pieces = Vec::new();
    let mut plain_bytes = 0;
    let mut offsets = Offsets::default();
    for batch in heads.chunks(2 * rayon::current_num_threads()) {
        let starts: Vec<Vec<u64>> = batch.iter().map(|head| offsets.of(head)).collect();
        let bodies: Vec<Body> = batch
            .par_iter()
            .zip(&starts)
            .map(|(head, starts)| encode_body(head, starts, held, new, source, coding))
            .collect::<Result<_, _>>()?;
        for (head, body) in batch.iter().zip(bodies) {
            write(&sealer.record(&head.encode(&mut cursor, &body.bytes)))?;
            pieces.extend(body.pieces);
            plain_bytes += body.plain_bytes;
        }
    }
    let (trailer, id) = sealer.finish();
    write(&trailer)?;
    Ok(PackSummary {
        id,
        pack_bytes,
        plain_bytes,
        pieces,
    })
}

/// The offset of each piece in its file.
#[derive(Default)]
struct Offsets {
    entry: usize,
    end: u64,
}

impl Offsets {
    fn of(&mut self, head: &FrameHead) -> Vec<u64> {
        let mut starts = Vec::with_capacity(head.pieces.len());
        for piece in &head.pieces {
            if piece.entry != self.entry {
                *self = Self {
                    entry: piece.entry,
                    end: 0,
                };
            }
            starts.push(self.end);
            self.end += piece.length.map_or(0, |length| length as u64);
        }
        starts
    }
}

struct Body {
    bytes: Vec<u8>,
    plain_bytes: u64,
    pieces: Vec<CodedPiece>,
}

fn encode_body(
    head: &FrameHead,
    starts: &[u64],
    held: Held<'_>,
    new: &Manifest,
    source: &dyn ContentSource,
    coding: Coding,
) -> Result<Body, EncodeError> {
    let mut contents = Vec::with_capacity(head.pieces.len());
    let mut bases = Vec::with_capacity(head.pieces.len());
    for (piece, start) in head.pieces.iter().zip(starts) {
        let entry = new.entries().get(piece.entry);
        contents.push(read(source, entry, piece.length.map(|l| (*start, l)))?);
        bases.push(match piece.base {
            Some(from) => Some(read(source, held.base(from.base), from.range)?),
            None => None,
        });
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
        level: coding.level,
        reflate: coding.reflate,
        ..delta::Options::default()
    };
    let coded = delta::encode_with(&pieces, &options);
    let explained = head
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

fn read(
    source: &dyn ContentSource,
    entry: Option<&Entry>,
    range: Option<(u64, usize)>,
) -> Result<Vec<u8>, ContentError> {
    let (size, sha256) = entry
        .and_then(Entry::content)
        .unwrap_or((0, Sha256::of(b"")));
    let whole = || usize::try_from(size).unwrap_or(limits::FRAME_MEMORY_BYTES);
    let (offset, length) = range.unwrap_or_else(|| (0, whole()));
    source.read(&sha256, offset, length)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
