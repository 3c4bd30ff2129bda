//! Why the object store could not do something.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::segment::Damage;
use crate::tree::id::{ChunkId, Sha256, SnapshotId};
use crate::tree::manifest::ManifestError;
use crate::tree::scan::ScanError;

/// Why the object store could not do something. [`StoreError::hint`] says what to try.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried: `create`, `read`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `SQLite` refused something.
    #[error("the index `{}` of the store cannot be used", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What `SQLite` said.
        source: rusqlite::Error,
    },
    /// A row of the index is not what the store writes.
    #[error("the index `{}` of the store is damaged: {what}", path.display())]
    IndexRow {
        /// The index.
        path: PathBuf,
        /// What cannot be read.
        what: String,
    },
    /// The store was written by a newer relsync.
    #[error("the store `{}` has version {found}, this relsync knows {known}", path.display())]
    Newer {
        /// The index.
        path: PathBuf,
        /// The store's version.
        found: usize,
        /// The newest version this relsync knows.
        known: usize,
    },
    /// A segment does not hold what the index says.
    #[error("the segment `{}` of the store is damaged at byte {offset}: {damage}", path.display())]
    Segment {
        /// The segment.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// The store does not hold a chunk that a content needs.
    #[error("the store has lost chunk {chunk}")]
    MissingChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The store does not hold a content that a snapshot needs.
    #[error("the store has lost content {sha256} of `{path}` in snapshot {snapshot}")]
    MissingContent {
        /// The content.
        sha256: Sha256,
        /// The first file that has it.
        path: String,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A content is not what its hash says, though each of its chunks is.
    #[error("the chunks of content {sha256} do not make up that content")]
    WrongContent {
        /// The content.
        sha256: Sha256,
    },
    /// The store does not hold a snapshot's manifest.
    #[error("the store has lost the manifest of snapshot {id}")]
    MissingManifest {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Bytes that should be a manifest are none.
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
    /// Bytes outside of a content were asked for.
    #[error("bytes {offset} to {offset}+{length} were asked of a content that has {size}")]
    Range {
        /// The first byte asked for.
        offset: u64,
        /// How many were asked for.
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
    /// No snapshot is meant by this id, tag or name.
    #[error("there is no snapshot `{spec}`")]
    NoSuchSnapshot {
        /// What was asked for.
        spec: String,
    },
    /// Several snapshots are meant by this abbreviated id.
    #[error("`{spec}` may be any of the snapshots {}", list(candidates))]
    Ambiguous {
        /// What was asked for.
        spec: String,
        /// The first few snapshots it could be.
        candidates: Vec<SnapshotId>,
    },
    /// A name or tag is empty, too long, `latest`, or has characters that make trouble.
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
    /// Says what to try next, where there is something.
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
                "run `relsync store repair`, then take the snapshot again from its directory: what is damaged is stored anew",
            ),
            Self::NoSuchSnapshot { .. } => Some(
                "`relsync snapshot list` shows the snapshots; of an id give at least four digits",
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
