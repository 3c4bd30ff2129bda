//! The canonical bytes of a snapshot: `store-format.md`, section *Manifest*.
//!
//! This module owns the list of entries and its encoding. It reads no file: [`crate::tree::scan`]
//! makes the entries.
//!
//! Invariants of a [`Manifest`], whether made from entries or from foreign bytes: paths ascend
//! strictly, and every path's parent is one of its directories. All limits hold, and there is
//! exactly one encoding.

use thiserror::Error;

use crate::bytes::{ReadError, Reader, Writer};
use crate::limits;
use crate::tree::entry::{Entry, EntryKind, EntryPath, Mode, PathError, SymlinkTarget};
use crate::tree::id::{ManifestId, Sha256, SnapshotId};

const MAGIC: &[u8; 4] = b"RSMF";
const VERSION: u8 = 1;
const KIND_FILE: u8 = 0;
const KIND_DIR: u8 = 1;
const KIND_SYMLINK: u8 = 2;
/// The size of the shortest entry, a directory: shared length, suffix length, one byte of suffix,
/// kind, mode.
const SHORTEST_ENTRY_BYTES: usize = 5;

/// The reasons why bytes or entries are not a valid manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// A field could not be read.
    #[error("the manifest is damaged: {0}")]
    Read(#[from] ReadError),
    /// The bytes do not start with a manifest's magic.
    #[error("this is not a manifest: it starts with {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The manifest was written by a newer relsync.
    #[error("the manifest has version {found}, but this relsync reads version {VERSION}")]
    Version {
        /// The manifest's version.
        found: u8,
    },
    /// An entry's path is not allowed.
    #[error("entry {index} of the manifest: {source}")]
    Path {
        /// The entry's index.
        index: usize,
        /// The fault in its path.
        source: PathError,
    },
    /// An entry has a kind, a mode or a link target that does not exist.
    #[error("entry {index} of the manifest has an invalid {field}")]
    Field {
        /// The entry's index.
        index: usize,
        /// `kind`, `mode`, `size` or `target`.
        field: &'static str,
    },
    /// An entry's path does not come after the one before it, or its coding is not the only allowed
    /// one.
    #[error("entry {index} of the manifest is out of order")]
    Order {
        /// The entry's index.
        index: usize,
    },
    /// An entry's parent is missing or is not a directory.
    #[error("the manifest lacks the directory that holds `{path}`")]
    Parent {
        /// The entry's path.
        path: EntryPath,
    },
    /// The manifest is larger than a limit allows.
    #[error("the manifest has {found} {what}, more than {limit}")]
    TooLarge {
        /// `entries`, `bytes` or `bytes of paths`.
        what: &'static str,
        /// The number found so far.
        found: usize,
        /// The number allowed.
        limit: usize,
    },
}

/// A snapshot's entries in order, and their canonical bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    id: SnapshotId,
    sha256: ManifestId,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Manifest {}

impl Manifest {
    /// Returns the manifest without entries. It is the base of a push to an empty target.
    #[must_use]
    pub fn empty() -> Self {
        let mut writer = Writer::new();
        write_header(&mut writer, 0);
        Self::from_checked(Vec::new(), writer.into_vec())
    }

    /// Takes entries in strictly ascending order of their paths.
    pub fn new(entries: Vec<Entry>) -> Result<Self, ManifestError> {
        let mut check = Check::default();
        check.count(entries.len())?;
        for (index, entry) in entries.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| &entries[before]);
            check.entry(index, before, entry)?;
        }
        let bytes = encode(&entries);
        if bytes.len() > limits::MANIFEST_BYTES {
            return Err(too_large("bytes", bytes.len(), limits::MANIFEST_BYTES));
        }
        Ok(Self::from_checked(entries, bytes))
    }

    /// Takes entries in any order. Two entries with the same path are an error.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_unsorted(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Self::new(entries)
    }

    /// Reads a manifest. Accepts only the canonical encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > limits::MANIFEST_BYTES {
            return Err(too_large("bytes", bytes.len(), limits::MANIFEST_BYTES));
        }
        let mut reader = Reader::new(bytes);
        let count = read_header(&mut reader)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        let mut check = Check::default();
        for index in 0..count {
            let before = entries.last();
            let entry = read_entry(&mut reader, index, before)?;
            check.entry(index, before, &entry)?;
            entries.push(entry);
        }
        reader.finish()?;
        Ok(Self::from_checked(entries, bytes.to_vec()))
    }

    fn from_checked(entries: Vec<Entry>, bytes: Vec<u8>) -> Self {
        Self {
            id: SnapshotId::of(&bytes),
            sha256: ManifestId::of(&bytes),
            entries,
            bytes,
        }
    }

    /// Returns the canonical bytes.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the snapshot's id, the BLAKE3 of the canonical bytes.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Returns the SHA-256 of the canonical bytes.
    #[must_use]
    pub fn sha256(&self) -> ManifestId {
        self.sha256
    }

    /// Returns the entries in ascending order of their paths.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the sum of the sizes of all files.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let sizes = self.entries.iter().filter_map(Entry::content);
        sizes.map(|(size, _)| size).sum()
    }

    /// Finds the index of the entry at a path.
    #[must_use]
    pub fn index_of(&self, path: &[u8]) -> Option<usize> {
        self.entries
            .binary_search_by(|entry| entry.path.as_bytes().cmp(path))
            .ok()
    }

    /// Finds the entry at a path.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.index_of(path).map(|index| &self.entries[index])
    }

    /// Returns the entries whose path begins with these bytes.
    #[must_use]
    pub(crate) fn starting_with(&self, prefix: &[u8]) -> &[Entry] {
        let start = self
            .entries
            .partition_point(|entry| entry.path.as_bytes() < prefix);
        let found = &self.entries[start..];
        &found[..found.partition_point(|entry| entry.path.as_bytes().starts_with(prefix))]
    }

    /// Returns a listing for people and tests: one line per entry, separated by tabs. The `.txt`
    /// files beside the golden vectors have this form.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn listing(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("blake3\t{}\nsha256\t{}\n", self.id, self.sha256);
        for Entry { path, kind } in &self.entries {
            // Writing to a string cannot fail.
            let _ = match kind {
                EntryKind::File { mode, size, sha256 } => {
                    writeln!(text, "file\t{mode}\t{size}\t{sha256}\t{path}")
                }
                EntryKind::Dir { mode } => writeln!(text, "dir\t{mode}\t{path}"),
                EntryKind::Symlink { target } => writeln!(text, "symlink\t{target}\t{path}"),
            };
        }
        text
    }
}

/// Checks entries one after the other.
///
/// It keeps the directories whose path is a byte prefix of the current path. In byte order `a`,
/// `a-b`, `a/c`, the parent does not come directly before its child. But all paths that start with
/// the same bytes are contiguous, so a directory is needed only until its prefix ends.
#[derive(Default)]
struct Check {
    dirs: Vec<EntryPath>,
    paths_bytes: usize,
}

impl Check {
    fn count(&self, count: usize) -> Result<(), ManifestError> {
        if count > limits::MANIFEST_ENTRIES {
            return Err(too_large("entries", count, limits::MANIFEST_ENTRIES));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        index: usize,
        before: Option<&Entry>,
        entry: &Entry,
    ) -> Result<(), ManifestError> {
        if before.is_some_and(|before| before.path >= entry.path) {
            return Err(ManifestError::Order { index });
        }
        self.paths_bytes += entry.path.as_bytes().len();
        if self.paths_bytes > limits::MANIFEST_PATHS_BYTES {
            let limit = limits::MANIFEST_PATHS_BYTES;
            return Err(too_large("bytes of paths", self.paths_bytes, limit));
        }
        if entry
            .content()
            .is_some_and(|(size, _)| size > limits::FILE_BYTES)
        {
            return Err(ManifestError::Field {
                index,
                field: "size",
            });
        }
        let path = entry.path.as_bytes();
        while self
            .dirs
            .last()
            .is_some_and(|dir| !path.starts_with(dir.as_bytes()))
        {
            self.dirs.pop();
        }
        if let Some(parent) = entry.path.parent() {
            let known = self
                .dirs
                .binary_search_by_key(&parent.len(), |dir| dir.as_bytes().len());
            if known.is_err() {
                return Err(ManifestError::Parent {
                    path: entry.path.clone(),
                });
            }
        }
        if entry.is_dir() {
            self.dirs.push(entry.path.clone());
        }
        Ok(())
    }
}

fn too_large(what: &'static str, found: usize, limit: usize) -> ManifestError {
    ManifestError::TooLarge { what, found, limit }
}

fn write_header(writer: &mut Writer, count: usize) {
    writer.bytes(MAGIC);
    writer.u8(VERSION);
    writer.length(count);
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(16 + entries.len() * 64);
    write_header(&mut writer, entries.len());
    let mut before: &[u8] = &[];
    for entry in entries {
        let path = entry.path.as_bytes();
        let shared = shared_prefix(before, path);
        writer.length(shared);
        writer.blob(&path[shared..]);
        write_kind(&mut writer, &entry.kind);
        before = path;
    }
    writer.into_vec()
}

fn write_kind(writer: &mut Writer, kind: &EntryKind) {
    match kind {
        EntryKind::File { mode, size, sha256 } => {
            writer.u8(KIND_FILE);
            writer.varint(mode.bits().into());
            writer.varint(*size);
            writer.bytes(sha256.as_bytes());
        }
        EntryKind::Dir { mode } => {
            writer.u8(KIND_DIR);
            writer.varint(mode.bits().into());
        }
        EntryKind::Symlink { target } => {
            writer.u8(KIND_SYMLINK);
            writer.blob(target.as_bytes());
        }
    }
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn read_header(reader: &mut Reader<'_>) -> Result<usize, ManifestError> {
    let found = reader.array()?;
    if found != *MAGIC {
        return Err(ManifestError::Magic { found });
    }
    let found = reader.u8()?;
    if found != VERSION {
        return Err(ManifestError::Version { found });
    }
    let offset = reader.offset();
    let count = reader.length(limits::MANIFEST_ENTRIES)?;
    let shortest = count * SHORTEST_ENTRY_BYTES;
    if shortest > reader.remaining() {
        return Err(ManifestError::Read(ReadError::Truncated {
            offset,
            wanted: shortest,
            left: reader.remaining(),
        }));
    }
    Ok(count)
}

fn read_entry(
    reader: &mut Reader<'_>,
    index: usize,
    before: Option<&Entry>,
) -> Result<Entry, ManifestError> {
    let before = before.map_or(&[][..], |entry| entry.path.as_bytes());
    let shared = reader.length(before.len())?;
    let suffix = reader.blob(limits::PATH_BYTES - shared)?;
    // The shared prefix is the longest possible one. So the order ascends if the next byte is
    // larger, or if the earlier path has no next byte.
    let ascends = match (before.get(shared), suffix.first()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(old), Some(new)) => old < new,
    };
    if !ascends {
        return Err(ManifestError::Order { index });
    }
    let path = EntryPath::new(&[&before[..shared], suffix].concat())
        .map_err(|source| ManifestError::Path { index, source })?;
    let kind = read_kind(reader, index)?;
    Ok(Entry { path, kind })
}

fn read_kind(reader: &mut Reader<'_>, index: usize) -> Result<EntryKind, ManifestError> {
    let invalid = |field| ManifestError::Field { index, field };
    match reader.u8()? {
        KIND_FILE => Ok(EntryKind::File {
            mode: read_mode(reader, index)?,
            size: reader.varint()?,
            sha256: Sha256(reader.array()?),
        }),
        KIND_DIR => Ok(EntryKind::Dir {
            mode: read_mode(reader, index)?,
        }),
        KIND_SYMLINK => {
            let target = reader.blob(limits::SYMLINK_TARGET_BYTES)?;
            let target = SymlinkTarget::new(target).ok_or_else(|| invalid("target"))?;
            Ok(EntryKind::Symlink { target })
        }
        _ => Err(invalid("kind")),
    }
}

fn read_mode(reader: &mut Reader<'_>, index: usize) -> Result<Mode, ManifestError> {
    let mode = u32::try_from(reader.varint()?).ok().and_then(Mode::new);
    mode.ok_or(ManifestError::Field {
        index,
        field: "mode",
    })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
