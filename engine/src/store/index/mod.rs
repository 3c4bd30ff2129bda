//! The index: the places of things in the segments. Only this module and [`changes`] contain SQL.
//!
//! The index holds nothing that the segments do not hold as well, apart from the cache of file
//! stats. Losing it costs time, once.
//!
//! **Locking.** `SQLite` runs in WAL mode. Readers never wait, and writers wait for each other up
//! to [`BUSY_TIMEOUT`].
//!
//! **Compatibility.** `user_version` counts [`MIGRATIONS`], which are only ever appended to. A
//! store of a newer relsync is refused.
//!
//! **Crash behaviour.** The commits during an [`Index::write`] are on disk. The last commits of
//! [`Index::write_lightly`] may be lost.

mod changes;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

pub(crate) use changes::Changes;

use super::error::StoreError;
use super::recipe::Recipe;
use super::segment::SegmentName;
use super::snapshot::SnapshotRecord;
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};

/// The longest time that a writer waits for another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

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
}

impl Index {
    /// Opens or creates an index. `fill` runs in the transaction that creates it.
    pub(crate) fn open(
        path: &Path,
        fill: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let at = |source| StoreError::Index {
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(at)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
        // Without this, the last process to close the store would copy the log back and wait for
        // the disk.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(at)?;
        let version = user_version(&connection).map_err(at)?;
        if version < MIGRATIONS.len() {
            connection
                .pragma_update(None, "journal_mode", "wal")
                .map_err(at)?;
            migrate(&mut connection, path, fill)?;
        } else if version > MIGRATIONS.len() {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found: version,
                known: MIGRATIONS.len(),
            });
        }
        connection
            .pragma_update(None, "synchronous", "normal")
            .map_err(at)?;
        Ok(Self {
            connection: Mutex::new(connection),
            path: path.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held rolled the transaction back, so the connection is usable.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Index {
            path: self.path.clone(),
            source,
        }
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
        let mut connection = self.lock();
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(at)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(at)?;
        let done = change(&Changes::new(&transaction, &self.path))?;
        transaction.commit().map_err(at)?;
        Ok(done)
    }

    /// Moves the log's content into the database, as far as no reader needs the log.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.read(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
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

    pub(crate) fn contents(&self) -> Result<Vec<Sha256>, StoreError> {
        self.read(|connection| {
            connection
                .prepare("SELECT sha256 FROM contents")?
                .query_map([], |row| Ok(Sha256(row.get(0)?)))?
                .collect()
        })
    }

    pub(crate) fn chunks(&self) -> Result<Vec<(ChunkId, Location)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT name, offset, chunks.id FROM chunks JOIN segments ON segments.id = segment
                     ORDER BY name, offset",
                )?
                .query_map([], |row| Ok((ChunkId(row.get(2)?), location(row)?)))?
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
                    .query_map([record.id.0], |row| row.get(0))?
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

/// Brings the schema up to date. If another process does the same, the first one wins.
fn migrate(
    connection: &mut Connection,
    path: &Path,
    fill: impl FnOnce(&Changes<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let at = |source| StoreError::Index {
        path: path.to_owned(),
        source,
    };
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
    if version == 0 {
        fill(&Changes::new(&transaction, path))?;
    }
    transaction.commit().map_err(at)
}

fn location(row: &Row<'_>) -> rusqlite::Result<Location> {
    Ok(Location {
        segment: SegmentName(row.get(0)?),
        offset: row.get(1)?,
    })
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    let parent: Option<[u8; 32]> = row.get(5)?;
    Ok(SnapshotRecord {
        id: SnapshotId(row.get(0)?),
        manifest: ManifestId(row.get(1)?),
        seq: row.get(2)?,
        time_ns: row.get(3)?,
        seen_ns: row.get(4)?,
        parent: parent.map(SnapshotId),
        name: row.get(6)?,
        note: row.get(7)?,
        tags: Vec::new(),
        entries: row.get(8)?,
        content_bytes: row.get(9)?,
    })
}
