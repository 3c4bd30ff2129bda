//! The outline of a pack: all of it but the bodies of the frames. And the pack's id.
//!
//! This module owns the header, the heads of the frames, and the places of the content of pieces and
//! bases. An outline is made from a plan, without reading content. An outline and a [`Coding`]
//! determine every byte of the pack, so the id is known before anything is encoded. With it, an
//! interrupted pack is recognised, and one pack serves all targets that hold the same.
//!
//! **Invariant.** Packs with different bytes have different ids. A change of the encoder that makes
//! other bytes comes with another [`ENCODER_VERSION`].

use crate::bytes::Writer;
use crate::delta::zstd_frame::{self, CompressError};
use crate::delta::{BEST_LEVEL, FAST_LEVEL};
use crate::limits;
use crate::pack::frames::{ChunksOf, frames};
use crate::pack::{Cursor, FrameHead, Header, MAGIC, VERSION};
use crate::plan::Plan;
use crate::plan::installed::TargetTree;
use crate::tree::entry::Entry;
use crate::tree::id::{PackId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;

/// The version of the encoder's output for the same outline, content and coding.
const ENCODER_VERSION: u32 = 1;

/// The coding of a pack's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// The effort of the search.
    pub effort: Effort,
    /// Whether the target's zlib is known to deflate as the host's does.
    pub reflate: bool,
}

/// The effort that the encoder spends on saving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Only size counts.
    Best,
    /// Time counts as well as size.
    Fast,
}

impl Effort {
    /// Both efforts.
    pub(crate) const ALL: [Self; 2] = [Self::Best, Self::Fast];

    /// Returns zstd's level.
    pub(crate) fn level(self) -> i32 {
        match self {
            Self::Best => BEST_LEVEL,
            Self::Fast => FAST_LEVEL,
        }
    }

    /// Returns the number of the effort in a pack's id.
    fn number(self) -> u8 {
        match self {
            Self::Best => 0,
            Self::Fast => 1,
        }
    }
}

/// A pack before its content is read.
#[derive(Debug)]
pub struct Outline {
    pub(super) header: Header,
    pub(super) frames: Vec<OutlinedFrame>,
}

/// A frame before its content is read.
#[derive(Debug)]
pub(super) struct OutlinedFrame {
    pub(super) head: FrameHead,
    /// The place of each piece's content, and of its base's.
    pub(super) reads: Vec<(Range, Option<Range>)>,
}

/// A part of a file's content.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) sha256: Sha256,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Outline {
    /// Outlines the pack of `plan`. This takes a while if the manifest is large, because it is
    /// compressed.
    pub fn new(
        plan: &Plan,
        held: TargetTree<'_>,
        new: &Manifest,
        chunks_of: ChunksOf<'_>,
    ) -> Result<Self, CompressError> {
        let heads = frames(plan, held, new, chunks_of);
        let header = Header {
            base: held.manifest.sha256(),
            snapshot: new.id(),
            manifest: new.sha256(),
            manifest_bytes: new.encode().len() as u64,
            content_bytes: plan.totals(new).sent_content_bytes,
            frames: heads.len() as u64,
            deletes: plan.deletes.clone(),
            // The level is the same at every effort: the outline does not depend on the coding.
            manifest_frame: zstd_frame::compress(held.manifest.encode(), new.encode(), BEST_LEVEL)?,
        };
        Ok(Self::of_frames(header, heads, held, new))
    }

    pub(super) fn of_frames(
        header: Header,
        heads: Vec<FrameHead>,
        held: TargetTree<'_>,
        new: &Manifest,
    ) -> Self {
        let mut offsets = Offsets::default();
        let outlined = |head: FrameHead| {
            let reads = head.pieces.iter().map(|piece| {
                let start = offsets.next(piece.entry, piece.length);
                let content = Range::of(
                    new.entries().get(piece.entry),
                    piece.length.map(|length| (start, length)),
                );
                let base = piece
                    .base
                    .map(|from| Range::of(held.base(from.base), from.range));
                (content, base)
            });
            let reads = reads.collect();
            OutlinedFrame { head, reads }
        };
        let frames = heads.into_iter().map(outlined).collect();
        Self { header, frames }
    }

    /// Returns the snapshot to which the pack brings a target.
    #[must_use]
    pub(crate) fn snapshot(&self) -> SnapshotId {
        self.header.snapshot
    }

    /// Returns the id of the pack with this coding (store-format.md, "Pack id").
    #[must_use]
    pub fn id(&self, coding: Coding) -> PackId {
        use sha2::Digest;
        let mut all = Writer::new();
        all.bytes(MAGIC);
        all.u8(VERSION);
        all.varint(ENCODER_VERSION.into());
        all.varint(zstd_frame::version().into());
        all.u8(coding.effort.number());
        all.u8(coding.reflate.into());
        all.blob(&self.header.encode());
        let mut cursor = Cursor::default();
        for frame in &self.frames {
            all.blob(&frame.head.encode(&mut cursor, &[]));
        }
        PackId(sha2::Sha256::digest(all.as_slice()).into())
    }
}

impl Range {
    /// A part of an entry's content, or all of it.
    fn of(entry: Option<&Entry>, range: Option<(u64, usize)>) -> Self {
        let (size, sha256) = entry
            .and_then(Entry::content)
            .unwrap_or((0, Sha256::of(b"")));
        let whole = || usize::try_from(size).unwrap_or(limits::FRAME_MEMORY_BYTES);
        let (offset, length) = range.unwrap_or_else(|| (0, whole()));
        Self {
            sha256,
            offset,
            length,
        }
    }
}

/// The offset of each piece in its file.
#[derive(Default)]
struct Offsets {
    entry: usize,
    end: u64,
}

impl Offsets {
    /// Returns where the next piece begins.
    fn next(&mut self, entry: usize, length: Option<usize>) -> u64 {
        if entry != self.entry {
            *self = Self { entry, end: 0 };
        }
        let start = self.end;
        self.end += length.map_or(0, |length| length as u64);
        start
    }
}
