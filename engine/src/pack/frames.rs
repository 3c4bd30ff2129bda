//! The division of the files to be sent into frames.
//!
//! This module owns the borders of pieces and frames, and the range of a large base that a piece is
//! coded against. It is pure: the result is the heads of the frames. `encode` reads the content and
//! makes the bodies.
//!
//! **Invariants.** A frame holds at most [`limits::FRAME_CONTENT_BYTES`] of new content, and
//! together with its bases at most [`limits::FRAME_MEMORY_BYTES`]. Pieces ascend by entry, and the
//! pieces of one file have no gaps between them.

use std::collections::HashMap;

use crate::limits::{self, MIB};
use crate::pack::{BaseRange, FrameHead, Piece};
use crate::plan::installed::TargetTree;
use crate::plan::{Plan, Source};
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256};
use crate::tree::manifest::Manifest;

/// The maximum size of a base that is used. Of a larger base, the window around the matching part
/// is used.
const BASE_BYTES: u64 = 4 * MIB as u64;

/// The number of shared chunks, on either side of a piece's middle, that decide which part of a
/// large base matches it.
const ANCHORS: usize = 8;

/// A function that returns the chunks of held or new content, in order, with their lengths in
/// bytes; empty if they are unknown.
pub(crate) type ChunksOf<'a> = &'a dyn Fn(&Sha256) -> Vec<(ChunkId, u64)>;

/// Divides the content that `plan` sends of `new` into frames.
#[must_use]
pub fn frames(
    plan: &Plan,
    held: TargetTree<'_>,
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
        let from = from.and_then(|at| Some((at, held.base(at)?)));
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
        Some((_, (base_size, base_sha256))) if base_size > BASE_BYTES => Some(Alignment::new(
            &chunks_of(&base_sha256),
            &chunks_of(sha256),
            base_size,
        )),
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
                base: at,
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

/// Converts a length that is below [`limits::FRAME_MEMORY_BYTES`] by construction.
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

/// The correspondence between parts of the new content and of a large base, found by the chunks
/// that they share.
struct Alignment {
    /// The offsets in the new content and in the base of chunks that occur once in each. They
    /// ascend by the first. Chunks that occur more often, such as zeros, say nothing about places.
    anchors: Vec<(u64, u64)>,
    base_size: u64,
}

impl Alignment {
    fn new(base: &[(ChunkId, u64)], new: &[(ChunkId, u64)], base_size: u64) -> Self {
        let in_base = unique(base);
        let mut anchors: Vec<(u64, u64)> = unique(new)
            .into_iter()
            .filter_map(|(chunk, offset)| Some((offset, *in_base.get(&chunk)?)))
            .collect();
        anchors.sort_unstable();
        Self { anchors, base_size }
    }

    /// Returns offset and length of the part of the base that the piece is coded against.
    fn window(&self, offset: u64, length: u64) -> (u64, u64) {
        let length_in_base = BASE_BYTES.min(self.base_size);
        let middle = self.corresponding(offset + length / 2);
        let start = middle
            .saturating_sub(length_in_base / 2)
            .min(self.base_size - length_in_base);
        (start, length_in_base)
    }

    /// Returns the place in the base that corresponds to an offset of the new content. It is the
    /// median of the places that the nearest anchors give.
    fn corresponding(&self, offset: u64) -> u64 {
        let behind = self.anchors.partition_point(|(new, _)| *new < offset);
        let near = behind.saturating_sub(ANCHORS)..self.anchors.len().min(behind + ANCHORS);
        let mut seen: Vec<u64> = self.anchors[near]
            .iter()
            .map(|(new, base)| (base + offset).saturating_sub(*new))
            .collect();
        seen.sort_unstable();
        let median = seen.get(seen.len() / 2).copied();
        median.unwrap_or(offset).min(self.base_size)
    }
}

/// Returns the offsets of the chunks that occur once.
fn unique(chunks: &[(ChunkId, u64)]) -> HashMap<ChunkId, u64> {
    let mut offsets = HashMap::new();
    let mut at = 0;
    for (chunk, length) in chunks {
        let first = offsets.entry(*chunk);
        first
            .and_modify(|offset| *offset = None)
            .or_insert(Some(at));
        at += length;
    }
    offsets
        .into_iter()
        .filter_map(|(chunk, offset)| Some((chunk, offset?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::chunk;

    fn chunks(content: &[u8]) -> Vec<(ChunkId, u64)> {
        let mut rest = content;
        let mut chunks = Vec::new();
        while let Some(cut) = chunk::first_cut(rest, true).filter(|_| !rest.is_empty()) {
            let (chunk, behind) = rest.split_at(cut);
            chunks.push((ChunkId::of(chunk), chunk.len() as u64));
            rest = behind;
        }
        chunks
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// Executables have zeros between their sections, and a change of addresses alters nearly every
    /// chunk of their code.
    #[test]
    fn pieces_of_a_large_file_get_the_part_of_the_base_that_they_come_from() {
        const PIECE: usize = limits::FRAME_CONTENT_BYTES;
        let zeros = vec![0; PIECE + PIECE / 2];
        let (data, code) = (noise(1, 2 * PIECE), noise(2, 3 * PIECE));
        let mut shifted = code.clone();
        shifted.iter_mut().step_by(200).for_each(|byte| *byte ^= 1);
        let more_data = [&data[..], &noise(3, PIECE / 2)].concat();
        let base = [&data[..], &zeros, &code, &zeros, &data[..PIECE]].concat();
        let new = [&more_data[..], &zeros, &shifted, &zeros, &data[..PIECE]].concat();

        let alignment = Alignment::new(&chunks(&base), &chunks(&new), base.len() as u64);
        let code_at = more_data.len() + zeros.len();
        let moved = more_data.len() - data.len();
        for offset in (code_at..code_at + code.len() - PIECE).step_by(PIECE / 3) {
            let (start, length) = alignment.window(offset as u64, PIECE as u64);
            let from = (offset - moved) as u64;
            assert!(
                start <= from && from + PIECE as u64 <= start + length,
                "{offset}: {length} bytes from {start} of the base, not those from {from}"
            );
            assert!(start + length <= base.len() as u64);
        }
    }

    #[test]
    fn without_shared_chunks_the_same_place_corresponds() {
        let alignment = Alignment::new(&[], &[], 9 * MIB as u64);
        let middle = |offset: u64| {
            let (start, length) = alignment.window(offset, MIB as u64);
            assert_eq!(length, BASE_BYTES);
            start + length / 2
        };
        assert_eq!(middle(4 * MIB as u64), 4 * MIB as u64 + MIB as u64 / 2);
        assert_eq!(middle(0), BASE_BYTES / 2);
        assert_eq!(middle(20 * MIB as u64), 9 * MIB as u64 - BASE_BYTES / 2);
    }
}
