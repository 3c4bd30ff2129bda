//! The changes of the index within one transaction of [`Index::write`](super::Index::write).

use std::path::Path;

use rusqlite::{Transaction, params};

use crate::store::error::StoreError;
use crate::store::recipe::Recipe;
use crate::store::segment::SegmentName;
use crate::store::snapshot::{MAX_SEQ, SnapshotRecord};
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};

/// The changes of the index within one transaction.
pub(crate) struct Changes<'a> {
    transaction: &'a Transaction<'a>,
    path: &'a Path,
}

impl<'a> Changes<'a> {
    pub(super) fn new(transaction: &'a Transaction<'a>, path: &'a Path) -> Self {
        Self { transaction, path }
    }
}

impl Changes<'_> {
    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        super::error(self.path, source)
    }

    /// Removes all rows, cached file stats included.
    pub(crate) fn clear(&self) -> Result<(), StoreError> {
        self.transaction
            .execute_batch(
                "DELETE FROM chunks; DELETE FROM contents; DELETE FROM manifests; DELETE FROM snapshots;
                 DELETE FROM tags; DELETE FROM segments; DELETE FROM file_caches;
                 DELETE FROM lengths; DELETE FROM targets;",
            )
            .map_err(|source| self.error(source))
    }

    /// Returns the next sequence number, which is larger than all before.
    pub(crate) fn next_seq(&self) -> Result<u64, StoreError> {
        let seq: u64 = self
            .transaction
            .query_row(
                "UPDATE counters SET value = value + 1 WHERE name = 'seq' RETURNING value",
                [],
                |row| row.get(0),
            )
            .map_err(|source| self.error(source))?;
        if seq < MAX_SEQ {
            return Ok(seq);
        }
        Err(StoreError::IndexRow {
            path: self.path.to_owned(),
            what: format!("the sequence number {seq} is too large"),
        })
    }

    /// Ensures that the next sequence number is larger than one that is in use.
    pub(crate) fn raise_seq(&self, seq: u64) -> Result<(), StoreError> {
        self.run(
            "UPDATE counters SET value = max(value, ?1) WHERE name = 'seq'",
            params![seq],
        )
        .map(drop)
    }

    /// Returns the number that stands for a segment in the index.
    pub(crate) fn segment(&self, name: &SegmentName) -> Result<i64, StoreError> {
        self.run(
            "INSERT OR IGNORE INTO segments (name) VALUES (?1)",
            [&name.0],
        )?;
        self.transaction
            .prepare_cached("SELECT id FROM segments WHERE name = ?1")
            .and_then(|mut statement| statement.query_row([&name.0], |row| row.get(0)))
            .map_err(|source| self.error(source))
    }

    pub(crate) fn put_chunk(
        &self,
        id: &ChunkId,
        segment: i64,
        offset: u64,
        raw_bytes: u32,
        record_bytes: u64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT OR IGNORE INTO chunks VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id.0, segment, offset, raw_bytes, record_bytes],
        )
        .map(drop)
    }

    pub(crate) fn put_content(&self, sha256: &Sha256, recipe: &Recipe) -> Result<(), StoreError> {
        self.run(
            "INSERT OR IGNORE INTO contents VALUES (?1, ?2, ?3)",
            params![sha256.0, recipe.size, recipe.encode()],
        )
        .map(drop)
    }

    pub(crate) fn put_manifest(
        &self,
        id: &SnapshotId,
        sha256: &ManifestId,
        segment: i64,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT OR IGNORE INTO manifests VALUES (?1, ?2, ?3, ?4)",
            params![id.0, sha256.0, segment, offset],
        )
        .map(drop)
    }

    /// Records a snapshot. If the index has it already, its row stays as it is.
    pub(crate) fn put_snapshot(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.run(
            "INSERT OR IGNORE INTO snapshots VALUES (?1, ?2, ?3, ?4, ?2, ?5, ?6, ?7, ?8, ?9)",
            params![
                record.id.0,
                record.seq,
                record.time_ns,
                record.seen_ns,
                record.parent.map(|parent| parent.0),
                record.name,
                record.note,
                record.entries,
                record.content_bytes,
            ],
        )
        .map(drop)
    }

    /// Tells whether the index has a snapshot, as seen within the transaction.
    pub(crate) fn has_snapshot(&self, id: &SnapshotId) -> Result<bool, StoreError> {
        self.transaction
            .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")
            .and_then(|mut statement| statement.exists([id.0]))
            .map_err(|source| self.error(source))
    }

    /// Records that a scanned tree matched an existing snapshot again. A new `seq` makes it the
    /// latest.
    pub(crate) fn see_snapshot(
        &self,
        id: &SnapshotId,
        time_ns: i64,
        seq: Option<u64>,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE snapshots SET seen_ns = max(seen_ns, ?2), seen_seq = coalesce(?3, seen_seq) WHERE id = ?1",
            params![id.0, time_ns, seq],
        )
        .map(drop)
    }

    /// Gives a snapshot another name or note. An absent one stays as it was.
    pub(crate) fn describe_snapshot(
        &self,
        id: &SnapshotId,
        name: Option<&str>,
        note: Option<&str>,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE snapshots SET name = coalesce(?2, name), note = coalesce(?3, note) WHERE id = ?1",
            params![id.0, name, note],
        )
        .map(drop)
    }

    pub(crate) fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.run("DELETE FROM tags WHERE snapshot = ?1", [id.0])?;
        self.run("DELETE FROM targets WHERE snapshot = ?1", [id.0])?;
        self.run("DELETE FROM snapshots WHERE id = ?1", [id.0])
            .map(drop)
    }

    pub(crate) fn put_tag(&self, tag: &str, id: &SnapshotId) -> Result<(), StoreError> {
        self.run(
            "INSERT OR REPLACE INTO tags VALUES (?1, ?2)",
            params![tag, id.0],
        )
        .map(drop)
    }

    pub(crate) fn remove_tag(&self, tag: &str) -> Result<(), StoreError> {
        self.run("DELETE FROM tags WHERE tag = ?1", [tag]).map(drop)
    }

    pub(crate) fn put_file_cache(&self, root: &[u8], files: &[u8]) -> Result<(), StoreError> {
        self.run(
            "INSERT OR REPLACE INTO file_caches VALUES (?1, ?2)",
            params![root, files],
        )
        .map(drop)
    }

    /// Notes how far a segment belongs to the index.
    pub(crate) fn put_length(&self, name: &SegmentName, bytes: u64) -> Result<(), StoreError> {
        let segment = self.segment(name)?;
        self.run(
            "INSERT OR REPLACE INTO lengths VALUES (?1, ?2)",
            params![segment, bytes],
        )
        .map(drop)
    }

    /// Removes a segment. No row may name it any more.
    pub(crate) fn remove_segment(&self, name: &SegmentName) -> Result<(), StoreError> {
        let segment = self.segment(name)?;
        self.run("DELETE FROM lengths WHERE segment = ?1", [segment])?;
        self.run("DELETE FROM segments WHERE id = ?1", [segment])
            .map(drop)
    }

    pub(crate) fn move_chunk(
        &self,
        id: &ChunkId,
        segment: i64,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE chunks SET segment = ?2, offset = ?3 WHERE id = ?1",
            params![id.0, segment, offset],
        )
        .map(drop)
    }

    pub(crate) fn move_manifest(
        &self,
        id: &SnapshotId,
        segment: i64,
        offset: u64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE manifests SET segment = ?2, offset = ?3 WHERE id = ?1",
            params![id.0, segment, offset],
        )
        .map(drop)
    }

    pub(crate) fn remove_chunk(&self, id: &ChunkId) -> Result<(), StoreError> {
        self.run("DELETE FROM chunks WHERE id = ?1", [id.0])
            .map(drop)
    }

    pub(crate) fn remove_content(&self, sha256: &Sha256) -> Result<(), StoreError> {
        self.run("DELETE FROM contents WHERE sha256 = ?1", [sha256.0])
            .map(drop)
    }

    pub(crate) fn remove_manifest(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.run("DELETE FROM manifests WHERE id = ?1", [id.0])
            .map(drop)
    }

    /// Notes which snapshot a target runs.
    pub(crate) fn put_target(&self, name: &str, id: &SnapshotId) -> Result<(), StoreError> {
        self.run(
            "INSERT OR REPLACE INTO targets VALUES (?1, ?2)",
            params![name, id.0],
        )
        .map(drop)
    }

    pub(crate) fn remove_file_cache(&self, root: &[u8]) -> Result<(), StoreError> {
        self.run("DELETE FROM file_caches WHERE root = ?1", [root])
            .map(drop)
    }
}
