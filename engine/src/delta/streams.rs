//! The kinds of streams a piece is split into, and a set of one stream per kind.

use crate::delta::zstd_frame::{self, Search};

/// Differences that span more than this are weighed by compressing them.
const MUCH_BYTES: usize = 4 << 10;

/// What a stream holds. Streams of one kind of all pieces stand side by side in a frame body, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// How to put the piece together: compression, chunks and their order.
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

/// Number of kinds.
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
    /// Returns streams of which only the content is not empty.
    pub(super) fn of_content(content: &[u8]) -> Self {
        let mut streams = Self::default();
        streams[Kind::Content] = content.to_vec();
        streams
    }

    /// Returns the length of all streams together.
    pub(super) fn total_len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Estimates what is not in the base, in bytes, compressed where that is much: from what lies between the first and the last
    /// difference of each stream.
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
