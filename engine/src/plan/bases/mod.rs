//! The choice of the held file that is most similar to a new one.
//!
//! This module owns the choice of the base that a delta refers to. It is pure: content comes from a
//! [`Contents`], and only a bounded part of it.
//!
//! Candidates are found by their names and by their chunks, and are then measured. The measure is
//! the resemblance of their beginning to the new file's (`sketch`), or the share of the new file's
//! whole chunks that they have.
//!
//! | order | candidate | weighed |
//! |---|---|---|
//! | 1 | the file at the same path | first |
//! | 2 | the same path but for version numbers of directories | if 1 is not alike enough |
//! | 3 | the same name elsewhere | with 2 |
//! | 4 | most of the new file's chunks | if none of the above is alike enough |
//! | 5 | the same extension, those nearest in size | with 4 |
//!
//! The most similar candidate is taken; the order decides among equals. If none is similar, the
//! first of 1 and 2 is still taken, because a sketch sees only the beginning. A useless base costs
//! no bytes, because the encoder does without it. Some candidates cannot be measured, because a
//! limit is reached or their content cannot be read. They are taken by the order, except those of 4
//! and 5.
//!
//! Measured on six modules of OTP's stdlib, 520 to 630 kB, with all 93 modules held. The figures
//! are bytes of frame bodies:
//!
//! | change | base chosen by path and name alone | as here |
//! |---|---|---|
//! | OTP 27 to 29, moved and renamed | 229,258 | 43,820 |
//! | a byte in each, moved and renamed | 346,948 | 192 |
//! | a byte in each, contents rotated among their paths | 338,921 | 192 |
//! | OTP 27 to 29, moved | 43,820 | 43,820 |
//! | a byte in each, version bump or moved | 192 | 192 |
//!
//! With at most 16 neighbours of an extension, the first figure on the right was 139,215.
//!
//! **Invariants.** The same manifests and contents give the same bases. At most
//! [`limits::SKETCH_BYTES`] of each content are read, once, and at most [`limits::BASE_SKETCHES`]
//! contents. At most [`limits::BASE_CANDIDATES`] files of each kind above are weighed, and
//! [`limits::BASE_NEIGHBOURS`] of the last kind. Only files whose content the host has can be
//! bases, because the host computes the delta.

mod index;
mod sketch;

use std::collections::{BTreeMap, HashMap};

use index::Index;
use sketch::Sketch;

use crate::limits;
use crate::plan::installed::TargetTree;
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256};

/// The resemblance, in thousandths, that ends the search. Candidates further down the order are
/// then not looked at.
const ENOUGH: u64 = 500;

/// The resemblance, in thousandths, below which windows agree by chance. Modules share more of
/// their atoms by chance; the encoder finds out whether such a base is useful.
const CHANCE: u64 = 50;

/// The contents that the host has.
pub trait Contents {
    /// Returns whether the host has this content.
    fn has(&self, sha256: &Sha256) -> bool;

    /// Reads the first bytes of a content, at most `limit`; returns `None` if they cannot be read.
    fn beginning(&self, sha256: &Sha256, limit: usize) -> Option<Vec<u8>>;

    /// Returns the chunks of a content in order, with their lengths; empty if they are unknown.
    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)>;
}

/// A chooser of bases among the files of a target.
pub(crate) struct Bases<'a> {
    index: Index<'a>,
    contents: &'a dyn Contents,
    /// The sketches made so far; `None` for a content that could not be read.
    sketches: HashMap<Sha256, Option<Sketch>>,
}

impl std::fmt::Debug for Bases<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bases")
            .field("contents", &self.index.contents())
            .finish_non_exhaustive()
    }
}

/// The new file that needs a base.
struct Wanted {
    sha256: Sha256,
    size: u64,
    /// The file's chunks and the number of its bytes that each makes up, if it has more than one
    /// chunk.
    chunks: BTreeMap<ChunkId, u64>,
}

/// The way in which a candidate was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Path,
    Chunks,
    /// Found by its extension. A file that shares many chunks is found by these instead.
    Extension,
}

/// The thousandths of a candidate that are alike; `None` if that cannot be measured.
type Alike = Option<u64>;

impl<'a> Bases<'a> {
    /// Indexes the files of a target.
    #[must_use]
    pub(crate) fn new(held: TargetTree<'a>, contents: &'a dyn Contents) -> Self {
        Self {
            index: Index::new(held),
            contents,
            sketches: HashMap::new(),
        }
    }

    /// Returns the first held file with this content.
    #[must_use]
    pub(crate) fn with_content(&self, sha256: &Sha256) -> Option<usize> {
        self.index.with_content(sha256)
    }

    /// Returns the held file that a delta of `entry` should refer to.
    #[must_use]
    pub(crate) fn like(&mut self, entry: &Entry) -> Option<usize> {
        let (size, sha256) = entry.content()?;
        if self.index.contents() == 0 {
            return None;
        }
        let wanted = Wanted {
            sha256,
            size,
            chunks: self.several_chunks(size, &sha256),
        };
        let path = entry.path.as_bytes();
        let own = self.index.at(path).filter(|at| self.is_usable(*at));
        let at_path = own.into_iter().collect();
        let mut weighed = Vec::new();
        self.weigh(&wanted, at_path, By::Path, &mut weighed);
        let is_enough = |(_, alike): &&(usize, Alike)| alike.is_none_or(|alike| alike >= ENOUGH);
        if weighed.iter().any(|candidate| is_enough(&candidate)) {
            return best(&weighed);
        }
        let unversioned = self.index.unversioned(entry, size);
        let named = self.index.named(entry, size);
        let of_path = [unversioned, named].concat();
        self.weigh(&wanted, of_path, By::Path, &mut weighed);
        if weighed.iter().all(|(_, alike)| *alike < Some(ENOUGH)) {
            let sharing = self.index.with_chunks(&wanted.chunks, self.contents);
            self.weigh(&wanted, sharing, By::Chunks, &mut weighed);
            let neighbours = self.index.with_extension(entry, size);
            self.weigh(&wanted, neighbours, By::Extension, &mut weighed);
        }
        let by_path = || {
            let unversioned = self.index.unversioned(entry, size);
            own.or_else(|| unversioned.into_iter().find(|at| self.is_usable(*at)))
        };
        best(&weighed).or_else(by_path)
    }

    /// Measures candidates that have not been measured. A candidate that cannot be measured counts
    /// only if it was found by its path.
    fn weigh(
        &mut self,
        wanted: &Wanted,
        candidates: Vec<usize>,
        by: By,
        weighed: &mut Vec<(usize, Alike)>,
    ) {
        for at in candidates {
            if weighed.iter().any(|(known, _)| *known == at) || !self.is_usable(at) {
                continue;
            }
            let alike = self.alike(wanted, at, by);
            if alike.is_some() || by == By::Path {
                weighed.push((at, alike));
            }
        }
    }

    fn is_usable(&self, at: usize) -> bool {
        let content = self.index.content(at);
        content.is_some_and(|(_, sha256)| {
            let is_sketched = matches!(self.sketches.get(&sha256), Some(Some(_)));
            is_sketched || self.contents.has(&sha256)
        })
    }

    /// Returns the chunks of a content that has more than one.
    fn several_chunks(&self, size: u64, sha256: &Sha256) -> BTreeMap<ChunkId, u64> {
        let mut several = BTreeMap::new();
        if size > limits::SKETCH_BYTES as u64 {
            let chunks = self.contents.chunks(sha256);
            if chunks.len() > 1 {
                for (chunk, length) in chunks {
                    *several.entry(chunk).or_default() += length;
                }
            }
        }
        several
    }

    /// Measures the resemblance of two beginnings, or the share of the new file's chunks that the
    /// held file has.
    fn alike(&mut self, wanted: &Wanted, at: usize, by: By) -> Alike {
        let (size, sha256) = self.index.content(at)?;
        self.sketch(&sha256);
        self.sketch(&wanted.sha256);
        let sketch = |sha256| self.sketches.get(sha256).and_then(Option::as_ref);
        let by_sketch = sketch(&sha256)
            .zip(sketch(&wanted.sha256))
            .map(|(held, new)| held.resemblance(new));
        if by == By::Extension {
            return by_sketch;
        }
        by_sketch.max(self.chunks_alike(wanted, size, &sha256))
    }

    /// Returns the thousandths of a new file with several chunks that a held file has. Returns
    /// `None` if there are none.
    fn chunks_alike(&self, wanted: &Wanted, size: u64, sha256: &Sha256) -> Alike {
        if wanted.chunks.is_empty() || size <= limits::SKETCH_BYTES as u64 {
            return None;
        }
        let held: BTreeMap<ChunkId, u64> = self.contents.chunks(sha256).into_iter().collect();
        let shared = held.keys().filter_map(|chunk| wanted.chunks.get(chunk));
        let thousandths = u128::from(shared.sum::<u64>()) * 1000 / u128::from(wanted.size.max(1));
        u64::try_from(thousandths).ok().filter(|alike| *alike > 0)
    }

    /// Makes the sketch of a content, unless it exists or the limit is reached.
    fn sketch(&mut self, sha256: &Sha256) {
        if self.sketches.len() < limits::BASE_SKETCHES && !self.sketches.contains_key(sha256) {
            let beginning = self.contents.beginning(sha256, limits::SKETCH_BYTES);
            let sketch = beginning.map(|beginning| Sketch::new(&beginning));
            self.sketches.insert(*sha256, sketch);
        }
    }
}

/// Returns the first of the most similar candidates, or else the first that could not be measured.
fn best(weighed: &[(usize, Alike)]) -> Option<usize> {
    let most = weighed.iter().filter_map(|(_, alike)| *alike).max();
    let wanted = most.filter(|most| *most >= CHANCE);
    let found = weighed.iter().find(|(_, alike)| *alike == wanted);
    found.map(|(at, _)| *at)
}

#[cfg(test)]
mod tests;
