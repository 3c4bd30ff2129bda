//! The errors of the object store.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::segment::Damage;
use crate::tree::id::{ChunkId, Sha256, SnapshotId};
use crate::tree::manifest::ManifestError;
use crate::tree::scan::ScanError;

/// The reasons why the object store failed. [`StoreError::hint`] says what to try next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system reported an error.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The action that failed: `create`, `read`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `SQLite` reported an error.
    #[error("the index `{}` of the store cannot be used", path.display())]
    Index {
        /// The index's path.
        path: PathBuf,
        /// The error of `SQLite`.
        source: rusqlite::Error,
    },
    /// The store did not write this row of the index, or it was damaged.
    #[error("the index `{}` of the store is damaged: {what}", path.display())]
    IndexRow {
        /// The index's path.
        path: PathBuf,
        /// The field that cannot be read.
        what: String,
    },
    /// The store was written by a newer relsync.
    #[error("the store `{}` has version {found}, but this relsync knows version {known}", path.display())]
    Newer {
        /// The index's path.
        path: PathBuf,
        /// The store's version.
        found: usize,
        /// The newest version this relsync knows.
        known: usize,
    },
    /// The record at a place in a segment is not the one that the index names.
    #[error("the segment `{}` of the store is damaged at byte {offset}: {damage}", path.display())]
    Segment {
        /// The segment's path.
        path: PathBuf,
        /// The offset of the record.
        offset: u64,
        /// The fault found there.
        damage: Damage,
    },
    /// The store does not have a chunk that a content needs.
    #[error("the store has lost chunk {chunk}")]
    MissingChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The store does not have a content that a snapshot needs.
    #[error("the store has lost content {sha256} of `{path}` in snapshot {snapshot}")]
    MissingContent {
        /// The content.
        sha256: Sha256,
        /// The first file that has it.
        path: String,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A content does not match its hash, although each of its chunks does.
    #[error("the store's chunks of content {sha256} give other content")]
    WrongContent {
        /// The content.
        sha256: Sha256,
    },
    /// The store does not have a snapshot's manifest.
    #[error("the store has lost the manifest of snapshot {id}")]
    MissingManifest {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Bytes that should be a manifest are not valid.
    #[error("cannot read a manifest")]
    Manifest(#[from] ManifestError),
    /// The directory cannot be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A file has more chunks than one record of the store can list.
    #[error("`{}` is too large for the store", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The caller asked for bytes outside a content.
    #[error("the host asked for bytes {offset} to {offset}+{length} of a content that has {size}")]
    Range {
        /// The first byte asked for.
        offset: u64,
        /// The number of bytes asked for.
        length: u64,
        /// The content's size.
        size: u64,
    },
    /// A content is larger than the caller wants to hold in memory.
    #[error("content {sha256} has {size} bytes, more than the {limit} allowed here")]
    ContentTooLarge {
        /// The content.
        sha256: Sha256,
        /// Its size.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// No snapshot has this id, tag or name.
    #[error("the store has no snapshot `{spec}`")]
    NoSuchSnapshot {
        /// The id, tag or name asked for.
        spec: String,
    },
    /// Several snapshots have an id that starts with these digits.
    #[error("`{spec}` matches several snapshots: {}", list(candidates))]
    Ambiguous {
        /// The digits asked for.
        spec: String,
        /// The first few snapshots whose ids start with them.
        candidates: Vec<SnapshotId>,
    },
    /// A name or tag is empty, too long or `latest`, or has characters that a terminal or a command
    /// line would misread.
    #[error("`{}` cannot be a snapshot's name or tag", name.escape_debug())]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A note is too long.
    #[error(
        "the note has {length} bytes, more than {}",
        super::snapshot::NOTE_BYTES
    )]
    NoteTooLong {
        /// Its length.
        length: usize,
    },
}

fn list(ids: &[SnapshotId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

impl StoreError {
    /// Says what to try next, if there is something to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Index { .. } | Self::IndexRow { .. } | Self::MissingManifest { .. } => {
                Some("`relsync store repair` rebuilds the index from the segments")
            }
            Self::Newer { .. } => Some("use the newer relsync, or another --store"),
            Self::Segment { .. }
            | Self::MissingChunk { .. }
            | Self::MissingContent { .. }
            | Self::WrongContent { .. } => Some(
                "run `relsync store repair`, then take the snapshot again from its directory: that stores the damaged content again",
            ),
            Self::NoSuchSnapshot { .. } => Some(
                "`relsync snapshot list` shows the snapshots; give at least four digits of an id",
            ),
            Self::Ambiguous { .. } => Some("give more digits of the id"),
            Self::InvalidName { .. } => {
                Some("use 1 to 128 characters without spaces, not `latest`, not starting with `-`")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space, or use another --store")
            }
            _ => None,
        }
    }
}
