//! The kinds of streams that a piece is split into, and a set with one stream per kind.

use crate::delta::zstd_frame::{self, Search};

/// The length of differences above which their cost is measured by compressing them.
const MUCH_BYTES: usize = 4 << 10;

/// The kind of a stream. A frame body has the streams of all pieces kind by kind, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The recipe of the piece: compression, chunks and their order.
    Recipe,
    Atoms,
    Imports,
    Literals,
    Types,
    Strings,
    Code,
    Exports,
    Locals,
    Funs,
    Attributes,
    CompileInfo,
    Lines,
    DebugInfo,
    Documentation,
    Checker,
    /// Chunks that have no kind of their own.
    Other,
    /// Content that is not taken apart.
    Content,
}

/// The number of kinds.
pub(super) const KINDS: usize = 18;

impl Kind {
    pub(super) const ALL: [Self; KINDS] = [
        Self::Recipe,
        Self::Atoms,
        Self::Imports,
        Self::Literals,
        Self::Types,
        Self::Strings,
        Self::Code,
        Self::Exports,
        Self::Locals,
        Self::Funs,
        Self::Attributes,
        Self::CompileInfo,
        Self::Lines,
        Self::DebugInfo,
        Self::Documentation,
        Self::Checker,
        Self::Other,
        Self::Content,
    ];

    /// Returns the kind's place in [`Kind::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// One stream of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Streams([Vec<u8>; KINDS]);

impl Streams {
    /// Returns streams that have content only; all others are empty.
    pub(super) fn of_content(content: &[u8]) -> Self {
        let mut streams = Self::default();
        streams[Kind::Content] = content.to_vec();
        streams
    }

    /// Returns the length of all streams together.
    pub(super) fn total_len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Estimates the bytes that are not in the base: those between the first and the last
    /// difference of each stream. If there are many, their compressed size counts.
    pub(super) fn novelty(&self, base: &Self) -> usize {
        let between = |(new, base): (&Vec<u8>, &Vec<u8>)| {
            let same = new
                .iter()
                .zip(base)
                .take_while(|(new, base)| new == base)
                .count();
            let (new, base) = (&new[same..], &base[same..]);
            let same = new
                .iter()
                .rev()
                .zip(base.iter().rev())
                .take_while(|(new, base)| new == base)
                .count();
            let (new, base) = (&new[..new.len() - same], &base[..base.len() - same]);
            if new.len() > MUCH_BYTES {
                zstd_frame::compress_bare(base, new, Search::Quick).len()
            } else {
                new.len()
            }
        };
        self.0.iter().zip(&base.0).map(between).sum::<usize>() + 1
    }
}

impl std::ops::Index<Kind> for Streams {
    type Output = Vec<u8>;

    fn index(&self, kind: Kind) -> &Vec<u8> {
        &self.0[kind.index()]
    }
}

impl std::ops::IndexMut<Kind> for Streams {
    fn index_mut(&mut self, kind: Kind) -> &mut Vec<u8> {
        &mut self.0[kind.index()]
    }
}
