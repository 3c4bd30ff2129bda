//! The errors of the object store.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::lock::Waiting;
use super::segment::Damage;
use crate::tree::id::{ChunkId, Sha256, SnapshotId};
use crate::tree::manifest::ManifestError;
use crate::tree::owner::PlaceError;
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
    /// The store belongs to another user, who could have put anything into it.
    #[error("`{}` belongs to another user (uid {owner})", path.display())]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Other users could exchange the store, or a directory above it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Other users may write to the store.
    #[error("other users may write to `{}` (mode {mode:04o})", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another program has something locked for too long.
    #[error("`{}` is locked: it is used by {waiting}", path.display())]
    Locked {
        /// The locked file, or the store.
        path: PathBuf,
        /// The other program.
        waiting: Waiting,
    },
    /// There is no space for the index.
    #[error("cannot write to `{}`: no space is left on the device", path.display())]
    Full {
        /// The index's path.
        path: PathBuf,
    },
    /// The store cannot be written to.
    #[error("the store `{}` is read-only", path.display())]
    ReadOnly {
        /// The store's directory, or its index.
        path: PathBuf,
    },
    /// The file system has no locks, so nobody knows who uses the store.
    #[error("the file system of `{}` cannot lock files", path.display())]
    NoLocks {
        /// The store's directory.
        path: PathBuf,
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
    /// A snapshot gives a file another size than its content has.
    #[error(
        "snapshot {snapshot} says that `{path}` has {size} bytes, but its content has {stored}"
    )]
    WrongSize {
        /// The file's path in the snapshot.
        path: String,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The size that the snapshot says.
        size: u64,
        /// The content's size.
        stored: u64,
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
    /// Tells whether the index cannot be used and another one must be made. An error that may pass,
    /// like too many open files, is not one of these.
    pub(super) fn is_damaged_index(&self) -> bool {
        use rusqlite::ErrorCode;
        match self {
            Self::Index { source, .. } => !matches!(
                source.sqlite_error_code(),
                Some(
                    ErrorCode::CannotOpen
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::OutOfMemory
                        | ErrorCode::PermissionDenied
                )
            ),
            Self::IndexRow { .. } => true,
            Self::Io { source, path, .. } => {
                source.kind() == io::ErrorKind::InvalidData && path.ends_with(super::INDEX_FILE)
            }
            _ => false,
        }
    }

    /// Tells whether there was no space for the store.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Says what to try next, if there is something to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Index { .. } | Self::IndexRow { .. } | Self::MissingManifest { .. } => {
                Some("`relsync store repair` rebuilds the index from the segments")
            }
            Self::Foreign { .. } => Some(
                "run relsync as that user, or copy the store with `cp -r` and name the copy with --store",
            ),
            Self::Place(PlaceError::Open { .. } | PlaceError::Foreign { .. }) => Some(
                "name a store below a directory of your own with --store: those who may write there could exchange the store",
            ),
            Self::Open { .. } => Some(
                "if you trust what is in the store, take the permission away with `chmod -R go-w`",
            ),
            Self::Locked { .. } => Some("wait until that program ends, then try again"),
            Self::Full { .. } => Some(NO_SPACE_HINT),
            Self::ReadOnly { .. } => Some(READ_ONLY_HINT),
            Self::NoLocks { .. } => Some("move the store to a local disk"),
            Self::WrongSize { .. } => Some("do not use this store; take the snapshot again"),
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
            Self::Io { source, .. } => io_hint(source),
            _ => None,
        }
    }
}

const NO_SPACE_HINT: &str =
    "free some space, for example with `relsync store gc`, or use another --store";
const READ_ONLY_HINT: &str =
    "a read-only store can be listed, checked, exported and pushed from; to change it, copy it";

fn io_hint(source: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC | Errno::DQUOT) => Some(NO_SPACE_HINT),
        Some(Errno::ROFS) => Some(READ_ONLY_HINT),
        Some(Errno::MFILE | Errno::NFILE) => {
            Some("close programs, or raise the limit of open files with `ulimit -n`")
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            Some("check who owns the store's directory, or use another --store")
        }
        _ if source.kind() == io::ErrorKind::InvalidData => {
            Some("remove it if it is not yours; `relsync store repair` makes a missing index again")
        }
        _ => None,
    }
}
