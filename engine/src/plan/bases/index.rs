//! The index of the held files: by content, path, name, extension and chunks.
//!
//! This module owns the lookups; the chooser measures what a file is worth. Every lookup returns
//! few files. Their order depends on nothing but the manifest and the chunks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::Contents;
use crate::limits;
use crate::plan::installed::DriftKind;
use crate::plan::installed::TargetTree;
use crate::tree::entry::{Entry, is_targets_own};
use crate::tree::id::{ChunkId, Sha256};

/// The held files that may be bases: those that have content and are still as installed.
pub(super) struct Index<'a> {
    held: TargetTree<'a>,
    by_content: HashMap<Sha256, usize>,
    by_unversioned: HashMap<Vec<u8>, Bucket>,
    by_name: HashMap<&'a [u8], Bucket>,
    by_extension: HashMap<&'a [u8], Bucket>,
    /// The index by chunk. It is made when a new file has more than one chunk.
    by_chunk: Option<HashMap<ChunkId, Vec<usize>>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(held: TargetTree<'a>) -> Self {
        let mut index = Self {
            held,
            by_content: HashMap::new(),
            by_unversioned: HashMap::new(),
            by_name: HashMap::new(),
            by_extension: HashMap::new(),
            by_chunk: None,
        };
        for (at, entry) in held.manifest.entries().iter().enumerate() {
            let Some((size, sha256)) = index.content(at) else {
                continue;
            };
            if is_targets_own(entry.path.as_bytes()) {
                continue;
            }
            let file = (size, sha256, at);
            index.by_content.entry(sha256).or_insert(at);
            let (path, name) = (entry.path.as_bytes(), entry.path.name());
            let unversioned = index.by_unversioned.entry(unversioned(path));
            unversioned.or_default().0.push(file);
            index.by_name.entry(name).or_default().0.push(file);
            let with_extension = index.by_extension.entry(extension(name));
            with_extension.or_default().0.push(file);
        }
        let unversioned = index.by_unversioned.values_mut();
        let named = index.by_name.values_mut();
        let with_extension = index.by_extension.values_mut();
        unversioned
            .chain(named)
            .chain(with_extension)
            .for_each(Bucket::sort);
        index
    }

    /// Returns the number of held contents.
    pub(super) fn contents(&self) -> usize {
        self.by_content.len()
    }

    /// Returns the size and hash of a held file; `None` if it cannot be a base.
    pub(super) fn content(&self, at: usize) -> Option<(u64, Sha256)> {
        let is_there = matches!(self.held.drift.get(&at), None | Some(DriftKind::Mode));
        let content = self.held.base(at)?.content();
        content.filter(|(size, _)| is_there && *size > 0)
    }

    /// Returns the first held file with this content.
    pub(super) fn with_content(&self, sha256: &Sha256) -> Option<usize> {
        self.by_content.get(sha256).copied()
    }

    /// Returns the installed file at this path.
    pub(super) fn at(&self, path: &[u8]) -> Option<usize> {
        let at = self.held.manifest.index_of(path)?;
        self.content(at).map(|_| at)
    }

    /// Returns the files with the path of `entry` apart from version numbers, those nearest in size
    /// first.
    pub(super) fn unversioned(&self, entry: &Entry, size: u64) -> Vec<usize> {
        let key = unversioned(entry.path.as_bytes());
        nearest(self.by_unversioned.get(&key), size, limits::BASE_CANDIDATES)
    }

    /// Returns the files with the name of `entry`, those nearest in size first.
    pub(super) fn named(&self, entry: &Entry, size: u64) -> Vec<usize> {
        let key = entry.path.name();
        nearest(self.by_name.get(key), size, limits::BASE_CANDIDATES)
    }

    /// Returns the files with the extension of `entry`, those nearest in size first.
    pub(super) fn with_extension(&self, entry: &Entry, size: u64) -> Vec<usize> {
        let key = extension(entry.path.name());
        nearest(self.by_extension.get(key), size, limits::BASE_NEIGHBOURS)
    }

    /// Returns the files that have some of these chunks, those with most of their bytes first.
    pub(super) fn with_chunks(
        &mut self,
        chunks: &BTreeMap<ChunkId, u64>,
        contents: &dyn Contents,
    ) -> Vec<usize> {
        if chunks.len() < 2 {
            return Vec::new();
        }
        let by_chunk = match self.by_chunk.take() {
            Some(made) => made,
            None => self.chunks(contents),
        };
        let mut shared: BTreeMap<usize, u64> = BTreeMap::new();
        for (chunk, length) in chunks {
            for at in by_chunk.get(chunk).into_iter().flatten() {
                *shared.entry(*at).or_default() += length;
            }
        }
        self.by_chunk = Some(by_chunk);
        let mut found: Vec<_> = shared.into_iter().collect();
        found.sort_by_key(|(at, bytes)| (Reverse(*bytes), *at));
        found.truncate(limits::BASE_CANDIDATES);
        found.into_iter().map(|(at, _)| at).collect()
    }

    /// Returns the holders of each chunk. A file with one chunk shares it only with files that hold
    /// all of it.
    fn chunks(&self, contents: &dyn Contents) -> HashMap<ChunkId, Vec<usize>> {
        let mut by_chunk: HashMap<ChunkId, Vec<usize>> = HashMap::new();
        let mut seen = 0;
        for at in 0..self.held.manifest.len() {
            let Some((size, sha256)) = self.content(at) else {
                continue;
            };
            if size <= limits::SKETCH_BYTES as u64 || self.with_content(&sha256) != Some(at) {
                continue;
            }
            let chunks = contents.chunks(&sha256);
            seen += chunks.len().max(1);
            if seen > limits::BASE_CHUNKS {
                break;
            }
            for (chunk, _) in chunks {
                let holders = by_chunk.entry(chunk).or_default();
                if holders.len() < limits::BASE_CHUNK_HOLDERS && holders.last() != Some(&at) {
                    holders.push(at);
                }
            }
        }
        by_chunk
    }
}

/// The files with the same key: size, content, index.
#[derive(Default)]
struct Bucket(Vec<(u64, Sha256, usize)>);

impl Bucket {
    /// Sorts by size, and keeps the first of the files with the same content.
    fn sort(&mut self) {
        self.0
            .sort_unstable_by_key(|(size, sha256, at)| (*size, sha256.0, *at));
        self.0.dedup_by_key(|(_, sha256, _)| sha256.0);
    }
}

fn nearest(bucket: Option<&Bucket>, size: u64, limit: usize) -> Vec<usize> {
    let files = bucket.map_or(&[][..], |bucket| &bucket.0);
    let (mut below, mut above) = files.split_at(files.partition_point(|(held, ..)| *held < size));
    let mut found = Vec::new();
    while found.len() < limit {
        let next = match (below.split_last(), above.split_first()) {
            (None, None) => break,
            (Some((smaller, rest)), larger)
                if larger.is_none_or(|(larger, _)| size - smaller.0 < larger.0 - size) =>
            {
                below = rest;
                smaller
            }
            (_, Some((larger, rest))) => {
                above = rest;
                larger
            }
            (Some(_), None) => break,
        };
        found.push(next.2);
    }
    found
}

/// Returns the part of a name after its last dot; empty if it has no dot except at the start.
fn extension(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 => &name[dot + 1..],
        _ => b"",
    }
}

/// Returns a path without the version numbers of its directories: `lib/app-1.2.3/ebin/m.beam`
/// becomes `lib/app/ebin/m.beam`, and `releases/1.2.3/sys.config` becomes `releases//sys.config`.
fn unversioned(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if let Some((_name, directories)) = parts.split_last_mut() {
        for directory in directories {
            *directory = without_version(directory);
        }
    }
    parts.join(&b'/')
}

fn without_version(name: &[u8]) -> &[u8] {
    let is_version = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    if is_version(name) {
        return b"";
    }
    match name.iter().position(|byte| *byte == b'-') {
        Some(dash) if is_version(&name[dash + 1..]) => &name[..dash],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::unversioned;

    #[test]
    fn versions_are_cut_from_directories_only() {
        let table: &[(&str, &str)] = &[
            ("lib/app-1.2.3/ebin/m.beam", "lib/app/ebin/m.beam"),
            ("lib/my_app-2.0-rc1/priv/x-1.0", "lib/my_app/priv/x-1.0"),
            ("releases/1.2.3/sys.config", "releases//sys.config"),
            ("erts-14.2/bin/beam.smp", "erts/bin/beam.smp"),
            ("lib/app/ebin/m.beam", "lib/app/ebin/m.beam"),
            ("lib/a-b/ebin/m.beam", "lib/a-b/ebin/m.beam"),
            ("m-1.beam", "m-1.beam"),
        ];
        for (path, expected) in table {
            assert_eq!(unversioned(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
