//! The object store: snapshots and their contents, on the host's disk.
//!
//! ```text
//! DIR/index.sqlite          the places of all records; can be rebuilt
//! DIR/segments/<hex>.seg    the records: chunks, contents, manifests, events
//! ```
//!
//! The store owns everything below its directory and nothing else. It does not know targets, packs
//! or plans. It reads neither the clock nor the environment: the time comes with [`SnapshotMeta`],
//! the directory with [`Store::open`].
//!
//! **Locking.** Any number of processes and threads may use one store. Each process appends to a
//! segment of its own, so writing data needs no lock. `SQLite` locks the index; a writer holds that
//! lock only while it adds a finished snapshot. If two processes store the same chunk at once, it
//! is stored twice, which costs only space.
//!
//! **Crash behaviour.** Data is appended and synced before the index names it, and the index is
//! committed last. So a crash leaves at most bytes that nothing refers to. The snapshot that was
//! being taken is lost; all others are whole. The index may lose its last "seen" times and cached
//! file stats. If the index is missing, opening the store rebuilds it from the segments.
//!
//! **Invariant.** Everything is checked when it is read: records by CRC-32, chunks and manifests by
//! BLAKE3.

mod check;
pub mod chunk;
mod content;
mod error;
mod filecache;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod index;
mod ingest;
mod mapped_file;
mod rebuild;
mod recipe;
mod segment;
mod snapshot;
mod take;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use check::CheckReport;
pub use content::ContentReader;
pub use error::StoreError;
pub use rebuild::RebuildReport;
pub use segment::Damage;
pub use snapshot::{SnapshotMeta, SnapshotRecord};
pub use take::{Exclusion, ScanOptions, ScanProgress, ScanReport};

use index::{Index, Location};
use ingest::Ingest;
use recipe::ChunkRef;
use segment::{PackedRecord, RecordHeader, RecordKind, Segment, SegmentName, SegmentWriter};
use snapshot::{Event, EventKind, is_valid_name};

use crate::tree::exclude::Rules;
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;

const INDEX_FILE: &str = "index.sqlite";
const SEGMENTS_DIR: &str = "segments";
/// The fewest digits that may stand for a snapshot's id.
const SHORTEST_PREFIX: usize = 4;

/// The counts and sizes of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// The number of snapshots.
    pub snapshots: u64,
    /// The number of manifests, including those that targets reported.
    pub manifests: u64,
    /// The number of different contents.
    pub contents: u64,
    /// The sum of their sizes in bytes.
    pub content_bytes: u64,
    /// The number of different chunks.
    pub chunks: u64,
    /// The sum of their sizes in bytes.
    pub chunk_bytes: u64,
    /// The bytes that the chunks take on disk, compressed.
    pub stored_bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// The bytes that all segments take on disk.
    pub segment_bytes: u64,
}

/// An open object store.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    segments_dir: PathBuf,
    index: Index,
    appender: Mutex<Appender>,
    /// The segments that are open for reading.
    readers: Mutex<HashMap<SegmentName, Arc<Segment>>>,
    rebuilt: Option<RebuildReport>,
}

/// The segment that this process appends to.
#[derive(Debug, Default)]
struct Appender {
    /// The segment's writer; `None` until there is something to append.
    writer: Option<SegmentWriter>,
    /// The segments on which a write or a sync failed. The records appended to them may be missing.
    lost: HashSet<SegmentName>,
}

impl Appender {
    /// Stops using the segment. After a failure, it is unknown how much of it is on disk.
    fn give_up(&mut self) {
        let lost = self.writer.take().map(|writer| writer.name().clone());
        self.lost.extend(lost);
    }

    /// Appends a record to the segment, or to the next one if that is full.
    fn append(&mut self, dir: &Path, record: &PackedRecord) -> io::Result<Location> {
        if let Some(full) = self.writer.as_mut().filter(|writer| writer.is_full()) {
            full.sync()?;
            self.writer = None;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => empty.insert(SegmentWriter::create(dir)?),
        };
        let offset = writer.append(record)?;
        Ok(Location {
            segment: writer.name().clone(),
            offset,
        })
    }
}

impl Store {
    /// Opens the store in a directory; creates what is missing.
    ///
    /// If there are segments but no index, the index is rebuilt from them; see [`Store::rebuilt`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let segments_dir = dir.join(SEGMENTS_DIR);
        // Releases hold secrets, so only the store's owner may read it.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&segments_dir)
            .map_err(|source| io_error("create", &segments_dir, source))?;
        let mut rebuilt = None;
        let index = Index::open(&dir.join(INDEX_FILE), |changes| {
            let report = rebuild::fill(changes, &segments_dir)?;
            rebuilt = (report.segments > 0).then_some(report);
            Ok(())
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            segments_dir,
            index,
            appender: Mutex::default(),
            readers: Mutex::default(),
            rebuilt,
        })
    }

    /// Rebuilds the index of a store, even if it cannot be opened. An unreadable old index is kept
    /// beside the new one.
    pub fn repair(dir: &Path) -> Result<RebuildReport, StoreError> {
        match Self::open(dir).and_then(|store| store.rebuild_index()) {
            Err(StoreError::Index { path, .. }) => {
                let name = |suffix: &str| dir.join(format!("{INDEX_FILE}{suffix}"));
                let damaged = name(".damaged");
                fs::rename(&path, &damaged).map_err(|source| io_error("rename", &path, source))?;
                for side in [name("-wal"), name("-shm")] {
                    match fs::remove_file(&side) {
                        Err(source) if source.kind() != io::ErrorKind::NotFound => {
                            return Err(io_error("remove", &side, source));
                        }
                        _ => {}
                    }
                }
                Self::open(dir)?.rebuild_index()
            }
            repaired => repaired,
        }
    }

    /// Returns the report of the rebuild, if opening the store had to rebuild its index.
    #[must_use]
    pub fn rebuilt(&self) -> Option<&RebuildReport> {
        self.rebuilt.as_ref()
    }

    /// Returns the store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds to rules for a directory that a store inside it is no part of its snapshots.
    #[must_use]
    pub fn left_out_of(&self, dir: &Path, rules: Rules) -> Rules {
        // A directory that is not there is an error of the scan's.
        let absolute = |path: &Path| path.canonicalize().ok();
        let inside = absolute(dir).zip(absolute(&self.dir));
        match inside.and_then(|(dir, store)| Some(store.strip_prefix(dir).ok()?.to_owned())) {
            Some(path) if path != Path::new("") => {
                rules.without_store(path.as_os_str().as_bytes().to_vec())
            }
            _ => rules,
        }
    }

    /// Takes a snapshot of a directory.
    ///
    /// If the store knows the tree, its existing snapshot is returned; only the time it was last
    /// seen changes. The parent in `meta` is not used then.
    pub fn take_snapshot(
        &self,
        root: &Path,
        options: &ScanOptions,
        meta: &SnapshotMeta,
        progress: &(dyn Fn(ScanProgress) + Sync),
    ) -> Result<(SnapshotRecord, Manifest, ScanReport), StoreError> {
        take::take_snapshot(self, root, options, meta, progress)
    }

    /// Lists all snapshots in the order in which they were first taken.
    pub fn list(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.index.snapshots()
    }

    /// Finds a snapshot by full id, `latest`, tag, name, or at least four digits of its id, in this
    /// order. `latest` is the snapshot that a scanned tree matched last. If several snapshots share
    /// a name, the one that matched last is used.
    pub fn get(&self, spec: &str) -> Result<SnapshotRecord, StoreError> {
        let found = match SnapshotId::from_hex(spec) {
            Some(id) => self.index.snapshot(&id)?,
            None if spec == "latest" => self.index.latest()?,
            None => match self.index.tagged(spec)? {
                Some(record) => Some(record),
                None => self.index.named(spec)?,
            },
        };
        if let Some(record) = found {
            return Ok(record);
        }
        let is_prefix = (SHORTEST_PREFIX..64).contains(&spec.len())
            && spec.bytes().all(|digit| digit.is_ascii_hexdigit());
        let mut candidates = if is_prefix {
            self.index.with_prefix(spec)?
        } else {
            Vec::new()
        };
        match candidates.len() {
            0 => Err(StoreError::NoSuchSnapshot {
                spec: spec.to_owned(),
            }),
            1 => Ok(candidates.remove(0)),
            _ => Err(StoreError::Ambiguous {
                spec: spec.to_owned(),
                candidates: candidates.into_iter().map(|record| record.id).collect(),
            }),
        }
    }

    /// Reads a snapshot's manifest. The store can have a manifest without its snapshot: it came
    /// from [`Store::put_manifest`], or the snapshot was removed.
    pub fn manifest(&self, id: &SnapshotId) -> Result<Option<Manifest>, StoreError> {
        let Some(at) = self.index.manifest(id)? else {
            return Ok(None);
        };
        let bytes = self.record(RecordKind::Manifest, &id.0, &at)?;
        let manifest = Manifest::decode(&bytes)?;
        if manifest.id() == *id {
            Ok(Some(manifest))
        } else {
            Err(self.damaged(&at, Damage::Payload))
        }
    }

    /// Stores a manifest, for example one that a target has installed.
    pub fn put_manifest(&self, bytes: &[u8]) -> Result<(SnapshotId, ManifestId), StoreError> {
        let manifest = Manifest::decode(bytes)?;
        let ingest = Ingest::new(self);
        ingest.manifest(manifest.id(), manifest.sha256(), bytes)?;
        let pending = ingest.into_pending();
        if !pending.is_empty() {
            self.sync(pending.segments())?;
            self.index.write(|changes| pending.put(changes))?;
        }
        Ok((manifest.id(), manifest.sha256()))
    }

    /// Opens a content; returns `None` if the store does not have it.
    pub fn content(&self, sha256: &Sha256) -> Result<Option<ContentReader<'_>>, StoreError> {
        let recipe = self.index.content(sha256)?;
        Ok(recipe.map(|recipe| ContentReader::new(self, *sha256, recipe)))
    }

    /// Tells whether the store has a content.
    pub(crate) fn has_content(&self, sha256: &Sha256) -> Result<bool, StoreError> {
        self.index.has_content(sha256)
    }

    /// Lists the chunks of a content with their sizes; returns `None` if the store does not have
    /// it.
    pub(crate) fn chunks_of(
        &self,
        sha256: &Sha256,
    ) -> Result<Option<Vec<(ChunkId, u32)>>, StoreError> {
        let content = self.content(sha256)?;
        Ok(content.map(|content| content.chunks().collect()))
    }

    /// Makes a tag point to a snapshot. It no longer points to any other.
    pub fn tag(&self, id: &SnapshotId, tag: &str, now_ns: i64) -> Result<(), StoreError> {
        if !is_valid_name(tag) {
            return Err(StoreError::InvalidName {
                name: tag.to_owned(),
            });
        }
        let tag = tag.to_owned();
        self.happen(id, now_ns, EventKind::Tagged { tag })
    }

    /// Removes a tag. Its snapshot stays.
    pub fn untag(&self, tag: &str, now_ns: i64) -> Result<(), StoreError> {
        let record = self.index.tagged(tag)?;
        let record = record.ok_or_else(|| StoreError::NoSuchSnapshot {
            spec: tag.to_owned(),
        })?;
        let tag = tag.to_owned();
        self.happen(&record.id, now_ns, EventKind::Untagged { tag })
    }

    /// Removes a snapshot and its tags from the index. Its manifest and contents stay in the
    /// segments.
    pub fn remove(&self, id: &SnapshotId, now_ns: i64) -> Result<(), StoreError> {
        self.happen(id, now_ns, EventKind::Removed)
    }

    fn happen(&self, id: &SnapshotId, now_ns: i64, kind: EventKind) -> Result<(), StoreError> {
        self.index.write(|changes| {
            if !changes.has_snapshot(id)? {
                return Err(StoreError::NoSuchSnapshot {
                    spec: id.to_string(),
                });
            }
            self.record_event(changes, *id, now_ns, kind, None)
        })
    }

    /// Counts the records of the store.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let counts = self.index.counts()?;
        let mut stats = StoreStats {
            snapshots: counts.snapshots,
            manifests: counts.manifests,
            contents: counts.contents,
            content_bytes: counts.content_bytes,
            chunks: counts.chunks,
            chunk_bytes: counts.chunk_bytes,
            stored_bytes: counts.stored_bytes,
            ..StoreStats::default()
        };
        let dir = &self.segments_dir;
        for name in segment::list_segments(dir).map_err(|source| io_error("read", dir, source))? {
            let path = name.path(dir);
            let metadata = fs::metadata(&path).map_err(|source| io_error("read", &path, source))?;
            stats.segments += 1;
            stats.segment_bytes += metadata.len();
        }
        Ok(stats)
    }

    /// Checks that the store has everything the index names. With `read_data`, it reads and hashes
    /// all of it.
    pub fn check(&self, read_data: bool) -> Result<CheckReport, StoreError> {
        check::check(self, read_data)
    }

    /// Rebuilds the index from the segments, in one transaction.
    pub(crate) fn rebuild_index(&self) -> Result<RebuildReport, StoreError> {
        let report = self.index.write(|changes| {
            changes.clear()?;
            rebuild::fill(changes, &self.segments_dir)
        })?;
        self.readers().clear();
        Ok(report)
    }

    /// Reads a chunk and checks it against its hash.
    fn chunk(&self, chunk: &ChunkRef) -> Result<Vec<u8>, StoreError> {
        let at = self.index.chunk(&chunk.id)?;
        let at = at.ok_or(StoreError::MissingChunk { chunk: chunk.id })?;
        let content = self.chunk_at(&chunk.id, &at)?;
        if u32::try_from(content.len()) == Ok(chunk.bytes) {
            Ok(content)
        } else {
            Err(self.damaged(&at, Damage::OtherRecord))
        }
    }

    fn chunk_at(&self, id: &ChunkId, at: &Location) -> Result<Vec<u8>, StoreError> {
        let content = self.record(RecordKind::Chunk, &id.0, at)?;
        if ChunkId::of(&content) == *id {
            Ok(content)
        } else {
            Err(self.damaged(at, Damage::Payload))
        }
    }

    fn record(
        &self,
        kind: RecordKind,
        key: &[u8; 32],
        at: &Location,
    ) -> Result<Vec<u8>, StoreError> {
        self.with_record(at, |header, payload| {
            if (header.kind, &header.key) != (kind, key) {
                return Err(Damage::OtherRecord);
            }
            segment::unpack(header, payload)
        })
    }

    /// Checks a chunk's record without decompressing it.
    fn check_record(&self, key: &[u8; 32], at: &Location) -> Result<(), StoreError> {
        self.with_record(at, |header, _| {
            if (header.kind, &header.key) == (RecordKind::Chunk, key) {
                Ok(())
            } else {
                Err(Damage::OtherRecord)
            }
        })
    }

    fn with_record<T>(
        &self,
        at: &Location,
        read: impl FnOnce(&RecordHeader, &[u8]) -> Result<T, Damage>,
    ) -> Result<T, StoreError> {
        let mut segment = self.segment(at, false)?;
        if segment.record_at(at.offset) == Err(Damage::Truncated) {
            // The segment may have grown since it was mapped.
            segment = self.segment(at, true)?;
        }
        let found = segment.record_at(at.offset);
        found
            .and_then(|(header, payload)| read(&header, payload))
            .map_err(|damage| self.damaged(at, damage))
    }

    fn segment(&self, at: &Location, reopen: bool) -> Result<Arc<Segment>, StoreError> {
        let mut readers = self.readers();
        if let Some(segment) = readers.get(&at.segment).filter(|_| !reopen) {
            return Ok(Arc::clone(segment));
        }
        let path = at.segment.path(&self.segments_dir);
        let opened = Segment::open(&path).map_err(|source| io_error("read", &path, source))?;
        let segment = Arc::new(opened.map_err(|damage| self.damaged(at, damage))?);
        readers.insert(at.segment.clone(), Arc::clone(&segment));
        Ok(segment)
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<SegmentName, Arc<Segment>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, at: &Location, damage: Damage) -> StoreError {
        StoreError::Segment {
            path: at.segment.path(&self.segments_dir),
            offset: at.offset,
            damage,
        }
    }

    fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_error(&self, source: io::Error) -> StoreError {
        io_error("write to", &self.segments_dir, source)
    }

    /// Appends a record to this process's segment.
    fn append(&self, record: &PackedRecord) -> Result<Location, StoreError> {
        let mut appender = self.appender();
        let appended = appender.append(&self.segments_dir, record);
        appended.map_err(|source| {
            appender.give_up();
            self.write_error(source)
        })
    }

    fn append_event(&self, id: &SnapshotId, event: &Event) -> Result<Location, StoreError> {
        let record = segment::pack(RecordKind::Event, id.0, &event.encode());
        let record = record.map_err(|source| self.write_error(source))?;
        // An event is far smaller than the limit of a payload.
        let record = record.ok_or_else(|| self.write_error(io::ErrorKind::FileTooLarge.into()))?;
        self.append(&record)
    }

    /// Makes all appended records survive a power failure. Fails if a segment in `used` was given
    /// up meanwhile, even by another thread.
    fn sync<'a>(&self, mut used: impl Iterator<Item = &'a SegmentName>) -> Result<(), StoreError> {
        let mut appender = self.appender();
        if let Some(Err(source)) = appender.writer.as_mut().map(SegmentWriter::sync) {
            appender.give_up();
            return Err(self.write_error(source));
        }
        if used.any(|segment| appender.lost.contains(segment)) {
            let source = io::Error::other("an earlier write to a segment failed");
            return Err(self.write_error(source));
        }
        Ok(())
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
