//! The index: the places of things in the segments. Only this module and [`changes`] contain SQL.
//!
//! The index holds nothing that the segments do not hold as well, apart from the cache of file
//! stats. Losing it costs time, once.
//!
//! **Locking.** `SQLite` runs in WAL mode. Readers never wait, and writers wait for each other up
//! to [`WRITE_PATIENCE`].
//!
//! **Read-only media.** `SQLite` cannot read a log without writing beside it. So an index with a
//! log is read from a private copy in the temporary directory.
//!
//! **Compatibility.** `user_version` counts [`MIGRATIONS`], which are only ever appended to. A
//! store of a newer relsync is refused.
//!
//! **Crash behaviour.** The commits during an [`Index::write`] are on disk. The last commits of
//! [`Index::write_lightly`] may be lost.

mod changes;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior,
    params,
};

pub(crate) use changes::Changes;

use super::error::StoreError;
use super::lock::{self, Lock, Waiting};
use super::recipe::Recipe;
use super::segment::SegmentName;
use super::snapshot::{SnapshotRecord, is_valid_name};
use super::{Teller, fault, io_error, private};
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};

/// The longest time that a writer waits for another one.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// The longest time that `SQLite` waits by itself before it reports a lock.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// The migrations. Each brings the schema one version further. Never change one, only append.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE segments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE chunks (
        id BLOB PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL, record_bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE contents (sha256 BLOB PRIMARY KEY, size INTEGER NOT NULL, chunks BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE manifests (
        id BLOB PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, segment INTEGER NOT NULL, offset INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE snapshots (
        id BLOB PRIMARY KEY, seq INTEGER NOT NULL, time_ns INTEGER NOT NULL, seen_ns INTEGER NOT NULL,
        seen_seq INTEGER NOT NULL, parent BLOB, name TEXT, note TEXT, entries INTEGER NOT NULL, content_bytes INTEGER NOT NULL
    );
    CREATE TABLE tags (tag TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('seq', 0);
    CREATE TABLE file_caches (root BLOB PRIMARY KEY, files BLOB NOT NULL);
", "
    CREATE TABLE other_zlibs (target TEXT PRIMARY KEY, erts TEXT NOT NULL) WITHOUT ROWID;
", "
    DROP TABLE other_zlibs;
", "
    CREATE TABLE IF NOT EXISTS lengths (segment INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS targets (name TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
"];

const SNAPSHOT_COLUMNS: &str =
    "snapshots.id, manifests.sha256, snapshots.seq, time_ns, seen_ns, parent, name, note,
    entries, content_bytes FROM snapshots JOIN manifests ON manifests.id = snapshots.id";

/// The place of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: SegmentName,
    pub(crate) offset: u64,
}

/// The counts of everything in the index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IndexCounts {
    pub(crate) snapshots: u64,
    pub(crate) manifests: u64,
    pub(crate) contents: u64,
    pub(crate) content_bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) chunk_bytes: u64,
    pub(crate) stored_bytes: u64,
}

/// An open index.
#[derive(Debug)]
pub(crate) struct Index {
    connection: Mutex<Connection>,
    path: PathBuf,
    teller: Teller,
    /// The directory of a private copy. It is deleted with this value.
    _copy: Option<tempfile::TempDir>,
}

/// A cached directory: its path, and its encoded files.
pub(crate) type FileCacheRow = (Vec<u8>, Vec<u8>);

/// A chunk's row.
#[derive(Debug)]
pub(crate) struct ChunkRow {
    pub(crate) id: ChunkId,
    pub(crate) at: Location,
}

impl Index {
    /// Opens an index of this version. Returns `None` if it must be made or brought up to date
    /// first; see [`Index::make`].
    pub(crate) fn open(path: &Path, teller: Teller) -> Result<Option<Self>, StoreError> {
        match private::create_file(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("create", path, source));
            }
            _ => {}
        }
        for suffix in ["", "-wal", "-shm"] {
            private::check_file(&side_file(path, suffix))?;
        }
        let connection = connect(path)?;
        let version = user_version(&connection).map_err(|source| error(path, source))?;
        check_version(path, version)?;
        if version < MIGRATIONS.len() {
            return Ok(None);
        }
        Self::new(connection, path, teller, None).map(Some)
    }

    /// Creates an index, or brings it up to date. `fill` runs in the transaction that creates it,
    /// `adopt` in one that brings it up to date. The caller has the store for itself.
    pub(crate) fn make(
        path: &Path,
        fill: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
        adopt: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut connection = connect(path)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .map_err(|source| error(path, source))?;
        migrate(&mut connection, path, fill, adopt)
    }

    /// Opens the index of a store that cannot be written to. `fill` makes it if it is missing.
    pub(crate) fn open_read_only(
        path: &Path,
        teller: Teller,
        fill: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
        adopt: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        for suffix in ["", "-wal"] {
            private::check_file(&side_file(path, suffix))?;
        }
        let wal = side_file(path, "-wal");
        let has_log = fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0);
        if path.exists() && !has_log {
            let uri = immutable_uri(path);
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(uri, flags);
            let connection = connection.map_err(|source| error(path, source))?;
            let version = user_version(&connection).map_err(|source| error(path, source))?;
            check_version(path, version)?;
            if version == MIGRATIONS.len() {
                return Ok(Self {
                    connection: Mutex::new(connection),
                    path: path.to_owned(),
                    teller,
                    _copy: None,
                });
            }
        }
        let copy = tempfile::tempdir();
        let copy = copy.map_err(|source| io_error("copy", path, source))?;
        let copied = copy.path().join("index.sqlite");
        for suffix in ["", "-wal"] {
            let (from, to) = (side_file(path, suffix), side_file(&copied, suffix));
            match fs::copy(&from, &to) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("copy", &from, source));
                }
                _ => {}
            }
        }
        let connection = connect(&copied)?;
        let version = user_version(&connection).map_err(|source| error(path, source))?;
        drop(connection);
        check_version(path, version)?;
        if version < MIGRATIONS.len() {
            Self::make(&copied, fill, adopt)?;
        }
        Self::new(connect(&copied)?, path, teller, Some(copy))
    }

    fn new(
        connection: Connection,
        path: &Path,
        teller: Teller,
        copy: Option<tempfile::TempDir>,
    ) -> Result<Self, StoreError> {
        connection
            .pragma_update(None, "synchronous", "normal")
            .map_err(|source| error(path, source))?;
        Ok(Self {
            connection: Mutex::new(connection),
            path: path.to_owned(),
            teller,
            _copy: copy,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held rolled the transaction back, so the connection is usable.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        error(&self.path, source)
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.lock()).map_err(|source| self.error(source))
    }

    /// Runs changes in one transaction. It is on disk when this function returns.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Changes<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transact("full", change)
    }

    /// Runs changes in one transaction. A power failure may undo it.
    pub(crate) fn write_lightly<T>(
        &self,
        change: impl FnOnce(&Changes<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transact("normal", change)
    }

    fn transact<T>(
        &self,
        synchronous: &str,
        change: impl FnOnce(&Changes<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let at = |source| self.error(source);
        let connection = self.lock();
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(at)?;
        let mut transaction = None;
        let begin = || match Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)
        {
            Ok(begun) => {
                transaction = Some(begun);
                Ok(Lock::Taken)
            }
            Err(source) if source.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                Ok(Lock::Held)
            }
            Err(source) => Err(at(source)),
        };
        lock::wait(begin, WRITE_PATIENCE, &|| self.teller.tell(Waiting::Index))?;
        let Some(transaction) = transaction else {
            return Err(StoreError::Locked {
                path: self.path.clone(),
                waiting: Waiting::Index,
            });
        };
        let done = change(&Changes::new(&transaction, &self.path))?;
        fault::step("commit to the index");
        transaction.commit().map_err(at)?;
        Ok(done)
    }

    /// Moves the log's content into the database, as far as no reader needs the log.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.read(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        })
    }

    /// Returns the space that deleted rows took to the file system.
    pub(crate) fn shrink(&self) -> Result<(), StoreError> {
        self.read(|connection| connection.execute_batch("VACUUM"))?;
        self.checkpoint()
    }

    /// Lists the segments that were added last, with the length that belongs to the index.
    pub(crate) fn newest_segments(
        &self,
        count: usize,
    ) -> Result<Vec<(SegmentName, Option<u64>)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT name, bytes FROM segments LEFT JOIN lengths ON segment = id ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([count], |row| Ok((segment_name(row)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Lists all segments that belong to the index.
    pub(crate) fn segment_names(&self) -> Result<HashSet<SegmentName>, StoreError> {
        self.read(|connection| {
            connection
                .prepare("SELECT name FROM segments")?
                .query_map([], segment_name)?
                .collect()
        })
    }

    pub(crate) fn has_segment(&self, name: &SegmentName) -> Result<bool, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM segments WHERE name = ?1")?
                .exists([&name.0])
        })
    }

    /// Lists the known targets and the snapshots that they run.
    pub(crate) fn targets(&self) -> Result<Vec<(String, SnapshotId)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare("SELECT name, snapshot FROM targets ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, SnapshotId(row.get(1)?))))?
                .collect()
        })
    }

    /// Lists all manifests with their places.
    pub(crate) fn manifests(&self) -> Result<Vec<(SnapshotId, Location)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT name, offset, manifests.id FROM manifests JOIN segments ON segments.id = segment",
                )?
                .query_map([], |row| Ok((SnapshotId(row.get(2)?), location(row)?)))?
                .collect()
        })
    }

    /// Lists all cached directories.
    pub(crate) fn file_caches(&self) -> Result<Vec<FileCacheRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare("SELECT root, files FROM file_caches")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    pub(crate) fn chunk(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT name, offset FROM chunks JOIN segments ON segments.id = segment WHERE chunks.id = ?1",
                )?
                .query_row([id.0], location)
                .optional()
        })
    }

    pub(crate) fn has_chunk(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?
                .exists([id.0])
        })
    }

    pub(crate) fn has_content(&self, sha256: &Sha256) -> Result<bool, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM contents WHERE sha256 = ?1")?
                .exists([sha256.0])
        })
    }

    pub(crate) fn content(&self, sha256: &Sha256) -> Result<Option<Recipe>, StoreError> {
        let chunks: Option<Vec<u8>> = self.read(|connection| {
            connection
                .prepare_cached("SELECT chunks FROM contents WHERE sha256 = ?1")?
                .query_row([sha256.0], |row| row.get(0))
                .optional()
        })?;
        let Some(chunks) = chunks else {
            return Ok(None);
        };
        Recipe::decode(&chunks)
            .map(Some)
            .ok_or_else(|| StoreError::IndexRow {
                path: self.path.clone(),
                what: format!("the chunks of content {sha256}"),
            })
    }

    /// Lists all contents with their sizes.
    pub(crate) fn contents(&self) -> Result<Vec<(Sha256, u64)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare("SELECT sha256, size FROM contents")?
                .query_map([], |row| Ok((Sha256(row.get(0)?), row.get(1)?)))?
                .collect()
        })
    }

    pub(crate) fn chunks(&self) -> Result<Vec<ChunkRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT name, offset, chunks.id
                     FROM chunks JOIN segments ON segments.id = segment ORDER BY name, offset",
                )?
                .query_map([], |row| {
                    Ok(ChunkRow {
                        at: location(row)?,
                        id: ChunkId(row.get(2)?),
                    })
                })?
                .collect()
        })
    }

    pub(crate) fn manifest(&self, id: &SnapshotId) -> Result<Option<Location>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT name, offset FROM manifests JOIN segments ON segments.id = segment WHERE manifests.id = ?1",
                )?
                .query_row([id.0], location)
                .optional()
        })
    }

    pub(crate) fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>, StoreError> {
        let sql = format!("SELECT {SNAPSHOT_COLUMNS} WHERE snapshots.id = ?1");
        Ok(self.snapshots_by(&sql, params![id.0])?.pop())
    }

    /// Lists all snapshots in the order they were taken.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.snapshots_by(
            &format!("SELECT {SNAPSHOT_COLUMNS} ORDER BY snapshots.seq"),
            [],
        )
    }

    /// Finds the snapshot that a scanned tree matched last.
    pub(crate) fn latest(&self) -> Result<Option<SnapshotRecord>, StoreError> {
        let sql = format!("SELECT {SNAPSHOT_COLUMNS} ORDER BY seen_seq DESC LIMIT 1");
        Ok(self.snapshots_by(&sql, [])?.pop())
    }

    pub(crate) fn tagged(&self, tag: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        let sql = format!(
            "SELECT {SNAPSHOT_COLUMNS} JOIN tags ON tags.snapshot = snapshots.id WHERE tag = ?1"
        );
        Ok(self.snapshots_by(&sql, [tag])?.pop())
    }

    /// Finds the snapshot with a name. If several share it, a scanned tree matched this one last.
    pub(crate) fn named(&self, name: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        let sql =
            format!("SELECT {SNAPSHOT_COLUMNS} WHERE name = ?1 ORDER BY seen_seq DESC LIMIT 1");
        Ok(self.snapshots_by(&sql, [name])?.pop())
    }

    /// Finds the snapshots whose id in hex starts with these digits. Returns at most eight.
    pub(crate) fn with_prefix(&self, digits: &str) -> Result<Vec<SnapshotRecord>, StoreError> {
        let sql = format!(
            "SELECT {SNAPSHOT_COLUMNS} WHERE substr(lower(hex(snapshots.id)), 1, length(?1)) = lower(?1) LIMIT 8"
        );
        self.snapshots_by(&sql, [digits])
    }

    fn snapshots_by(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.read(|connection| {
            let mut found: Vec<SnapshotRecord> = connection
                .prepare_cached(sql)?
                .query_map(params, snapshot)?
                .collect::<Result<_, _>>()?;
            let mut tags = connection
                .prepare_cached("SELECT tag FROM tags WHERE snapshot = ?1 ORDER BY tag")?;
            for record in &mut found {
                record.tags = tags
                    .query_map([record.id.0], |row| name(row, 0))?
                    .collect::<Result<_, _>>()?;
            }
            Ok(found)
        })
    }

    pub(crate) fn file_cache(&self, root: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT files FROM file_caches WHERE root = ?1")?
                .query_row([root], |row| row.get(0))
                .optional()
        })
    }

    pub(crate) fn counts(&self) -> Result<IndexCounts, StoreError> {
        self.read(|connection| {
            connection.query_row(
                "SELECT (SELECT count(*) FROM snapshots), (SELECT count(*) FROM manifests),
                    (SELECT count(*) FROM contents), (SELECT coalesce(sum(size), 0) FROM contents),
                    (SELECT count(*) FROM chunks), (SELECT coalesce(sum(raw_bytes), 0) FROM chunks),
                    (SELECT coalesce(sum(record_bytes), 0) FROM chunks)",
                [],
                |row| {
                    Ok(IndexCounts {
                        snapshots: row.get(0)?,
                        manifests: row.get(1)?,
                        contents: row.get(2)?,
                        content_bytes: row.get(3)?,
                        chunks: row.get(4)?,
                        chunk_bytes: row.get(5)?,
                        stored_bytes: row.get(6)?,
                    })
                },
            )
        })
    }
}

fn user_version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn check_version(path: &Path, version: usize) -> Result<(), StoreError> {
    if version > MIGRATIONS.len() {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: MIGRATIONS.len(),
        });
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let at = |source| error(path, source);
    let connection = Connection::open(path).map_err(at)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
    // Without this, the last process to close the store would copy the log back and wait for the
    // disk.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(at)?;
    Ok(connection)
}

/// The address under which `SQLite` reads a file without a lock or a log.
fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?immutable=1"
}

/// The path of the index, or of the log or the shared memory beside it.
pub(super) fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Says what an error of `SQLite` means for the store.
pub(super) fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked {
            path,
            waiting: Waiting::Index,
        },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
        // SQLite does not say why; the system does.
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
            match private::open_file(&path, false) {
                Err(source) => io_error("open", &path, source),
                Ok(_) => StoreError::Index { path, source },
            }
        }
        _ => StoreError::Index { path, source },
    }
}

/// Brings the schema up to date.
fn migrate(
    connection: &mut Connection,
    path: &Path,
    fill: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
    adopt: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let at = |source| error(path, source);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(at)?;
    let version = user_version(&transaction).map_err(at)?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration).map_err(at)?;
    }
    transaction
        .pragma_update(None, "user_version", MIGRATIONS.len())
        .map_err(at)?;
    let changes = Changes::new(&transaction, path);
    if version == 0 {
        fill(&changes)?;
    } else {
        adopt(&changes)?;
    }
    transaction.commit().map_err(at)
}

/// Reads a segment's name from the first column. A name that could lead out of the store is damage.
fn segment_name(row: &Row<'_>) -> rusqlite::Result<SegmentName> {
    let name: String = row.get(0)?;
    SegmentName::new(name).ok_or_else(|| wrong(0, "a segment's name"))
}

fn wrong(column: usize, what: &str) -> rusqlite::Error {
    let error = io::Error::new(io::ErrorKind::InvalidData, what);
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}

fn location(row: &Row<'_>) -> rusqlite::Result<Location> {
    Ok(Location {
        segment: segment_name(row)?,
        offset: row.get(1)?,
    })
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    let parent: Option<[u8; 32]> = row.get(5)?;
    let has_name = row.get_ref(6)? != rusqlite::types::ValueRef::Null;
    Ok(SnapshotRecord {
        id: SnapshotId(row.get(0)?),
        manifest: ManifestId(row.get(1)?),
        seq: row.get(2)?,
        time_ns: row.get(3)?,
        seen_ns: row.get(4)?,
        parent: parent.map(SnapshotId),
        name: has_name.then(|| name(row, 6)).transpose()?,
        note: row.get(7)?,
        tags: Vec::new(),
        entries: row.get(8)?,
        content_bytes: row.get(9)?,
    })
}

/// Reads a snapshot's name or a tag, which somebody else may have written.
fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let name: String = row.get(column)?;
    if is_valid_name(&name) {
        Ok(name)
    } else {
        Err(wrong(column, "a snapshot's name or tag is not valid"))
    }
}
