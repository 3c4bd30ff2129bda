//! How the files to be sent are cut into frames.
//!
//! Owns the borders of pieces and frames and the range of a large base that a piece is coded against. Pure: the result is the
//! heads of the frames; `encode` reads the content and makes the bodies.
//!
//! **Invariants.** A frame holds at most [`limits::FRAME_CONTENT_BYTES`] of new content, and with its bases at most
//! [`limits::FRAME_MEMORY_BYTES`]. Pieces ascend by entry, those of one file without gaps.

use std::collections::HashMap;

use crate::entry::Entry;
use crate::id::{ChunkId, Sha256};
use crate::limits::{self, KIB, MIB};
use crate::manifest::Manifest;
use crate::pack::{BaseRange, FrameHead, Piece};
use crate::plan::{Plan, Source};

/// A base of at most this size is used whole; of a larger one the part that corresponds to the piece.
const WHOLE_BASE_BYTES: u64 = 6 * MIB as u64;

/// How much of a large base is taken on either side of the part that corresponds to the piece.
const SLACK_BYTES: u64 = 512 * KIB as u64;

/// Returns the chunks of held or new content, in order, with their lengths in bytes; empty if they are not known.
pub type ChunksOf<'a> = &'a dyn Fn(&Sha256) -> Vec<(ChunkId, u64)>;

/// Cuts what `plan` sends of `new` into frames.
#[must_use]
pub fn frames(
    plan: &Plan,
    base: &Manifest,
    new: &Manifest,
    chunks_of: ChunksOf<'_>,
) -> Vec<FrameHead> {
    let mut builder = Builder::default();
    for (index, (planned, entry)) in plan.entries.iter().zip(new.entries()).enumerate() {
        let (Some(Source::Send { base: from }), Some((size, sha256))) =
            (planned.source, entry.content())
        else {
            continue;
        };
        let from = from.map(|at| (at, &base.entries()[at]));
        cut_file(&mut builder, index, size, &sha256, from, chunks_of);
    }
    builder.finish()
}

fn cut_file(
    builder: &mut Builder,
    entry: usize,
    size: u64,
    sha256: &Sha256,
    from: Option<(usize, &Entry)>,
    chunks_of: ChunksOf<'_>,
) {
    let from = from.and_then(|(at, base)| Some((at, base.content()?)));
    let alignment = match from {
        Some((_, (base_size, base_sha256))) if base_size > WHOLE_BASE_BYTES => {
            Some(Alignment::new(
                &chunks_of(&base_sha256),
                &chunks_of(sha256),
                base_size,
                size,
            ))
        }
        _ => None,
    };
    let piece_limit = limits::FRAME_CONTENT_BYTES as u64;
    let mut offset = 0;
    while offset < size {
        let length = piece_limit.min(size - offset);
        let mut base_bytes = 0;
        let base = from.map(|(at, (base_size, _))| {
            let range = alignment.as_ref().map(|a| a.window(offset, length));
            base_bytes = range.map_or(base_size, |(_, length)| length);
            BaseRange {
                entry: at,
                range: range.map(|(start, length)| (start, in_memory(length))),
            }
        });
        let whole = length == size;
        builder.add(
            Piece {
                entry,
                length: (!whole).then(|| in_memory(length)),
                base,
            },
            length,
            base_bytes,
        );
        offset += length;
    }
}

/// A length that is below [`limits::FRAME_MEMORY_BYTES`] by construction.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).unwrap_or(limits::FRAME_MEMORY_BYTES)
}

#[derive(Default)]
struct Builder {
    frames: Vec<FrameHead>,
    pieces: Vec<Piece>,
    content_bytes: u64,
    memory_bytes: u64,
}

impl Builder {
    fn add(&mut self, piece: Piece, length: u64, base_bytes: u64) {
        let content_bytes = self.content_bytes + length;
        let memory_bytes = self.memory_bytes + length + base_bytes;
        let fits = content_bytes <= limits::FRAME_CONTENT_BYTES as u64
            && memory_bytes <= limits::FRAME_MEMORY_BYTES as u64
            && self.pieces.len() < limits::FRAME_PIECES;
        if !fits {
            self.flush();
        }
        self.pieces.push(piece);
        self.content_bytes += length;
        self.memory_bytes += length + base_bytes;
    }

    fn flush(&mut self) {
        if !self.pieces.is_empty() {
            let pieces = std::mem::take(&mut self.pieces);
            self.frames.push(FrameHead { pieces });
        }
        self.content_bytes = 0;
        self.memory_bytes = 0;
    }

    fn finish(mut self) -> Vec<FrameHead> {
        self.flush();
        self.frames
    }
}

/// Which offset of a large base corresponds to an offset of the new content, by the chunks they share.
struct Alignment {
    /// (offset in the new content, offset in the base) of shared chunks, ascending by the first.
    anchors: Vec<(u64, u64)>,
    base_size: u64,
    new_size: u64,
}

impl Alignment {
    fn new(base: &[(ChunkId, u64)], new: &[(ChunkId, u64)], base_size: u64, new_size: u64) -> Self {
        let mut at = 0;
        let mut offsets = HashMap::new();
        for (chunk, length) in base {
            offsets.entry(*chunk).or_insert(at);
            at += length;
        }
        let mut anchors = Vec::new();
        at = 0;
        for (chunk, length) in new {
            if let Some(offset) = offsets.get(chunk) {
                anchors.push((at, *offset));
            }
            at += length;
        }
        Self {
            anchors,
            base_size,
            new_size,
        }
    }

    /// Returns offset and length of the part of the base that the piece is coded against.
    fn window(&self, offset: u64, length: u64) -> (u64, u64) {
        let center = self.corresponding(offset);
        let end = (center + length + SLACK_BYTES).min(self.base_size);
        let start = center.saturating_sub(SLACK_BYTES).min(end);
        (start, end - start)
    }

    fn corresponding(&self, offset: u64) -> u64 {
        let behind = self.anchors.partition_point(|(new, _)| *new < offset);
        let nearest = self.anchors.get(behind).or(self.anchors.last());
        let position = match nearest {
            Some((new, base)) if *new >= offset => base.saturating_sub(new - offset),
            Some((new, base)) => base + (offset - new),
            None => u64::try_from(
                u128::from(offset) * u128::from(self.base_size) / u128::from(self.new_size.max(1)),
            )
            .unwrap_or(0),
        };
        position.min(self.base_size)
    }
}
