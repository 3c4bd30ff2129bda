//! The object store: snapshots and their contents, on the host's disk.
//!
//! ```text
//! DIR/index.sqlite          the places of all records; can be rebuilt
//! DIR/segments/<hex>.seg    the records: chunks, contents, manifests, events
//! DIR/lock, DIR/writer      empty files to lock; see `lock`
//! ```
//!
//! The store owns everything below its directory and nothing else. It does not know targets, packs
//! or plans. It reads neither the clock nor the environment: the time comes with [`SnapshotMeta`],
//! the directory with [`Store::open`].
//!
//! **Locking.** Any number of processes and threads may use one store; see `lock` for who waits for
//! whom. Each process appends to a segment that it has locked. `SQLite` locks the index; a writer
//! holds that lock only while it adds a finished snapshot. [`Store::collect`] and [`Store::repair`]
//! wait until nobody else has the store open.
//!
//! **Crash behaviour.** Data is appended and synced before the index names it, and the index is
//! committed last. So a crash leaves at most bytes that nothing refers to, and the next writer
//! deletes them. The snapshot that was being taken is lost; all others are whole. The index may
//! lose its last "seen" times and cached file stats. If the index is missing, opening the store
//! rebuilds it from the segments.
//!
//! **Permissions.** Only the owner may read the store; see `private`. A store that cannot be
//! written to can be read.
//!
//! **Invariant.** Everything is checked when it is read: records by CRC-32, chunks and manifests by
//! BLAKE3.

mod appender;
mod check;
pub mod chunk;
mod collect;
mod content;
mod error;
mod fault;
mod filecache;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod index;
mod ingest;
pub mod keep;
mod lock;
mod mapped_file;
mod private;
mod rebuild;
mod recipe;
mod segment;
mod snapshot;
mod take;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use check::CheckReport;
pub use collect::CollectReport;
pub use content::ContentReader;
pub use error::StoreError;
pub use lock::{Tell, Waiting};
pub use rebuild::RebuildReport;
pub use segment::Damage;
pub use snapshot::{SnapshotMeta, SnapshotRecord};
pub use take::{Exclusion, ScanOptions, ScanProgress, ScanReport};

use appender::{Appender, Around, Place, Ticket};
use index::{Changes, Index, Location, side_file};
use ingest::Ingest;
use keep::KeepRules;
use lock::Lock;
use recipe::ChunkRef;
use segment::{PackedRecord, RecordHeader, RecordKind, Segment, SegmentName};
use snapshot::{Event, EventKind, is_valid_name};

use crate::tree::entry::Entry;
use crate::tree::exclude::Rules;
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;
use crate::tree::owner;

const INDEX_FILE: &str = "index.sqlite";
const SEGMENTS_DIR: &str = "segments";
const LOCK_FILE: &str = "lock";
const WRITER_FILE: &str = "writer";
/// The longest time to wait for a process that has the store for itself, or to get it for oneself.
const PATIENCE: Duration = Duration::from_secs(60);
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

/// The way to tell the user what relsync waits for.
#[derive(Clone)]
struct Teller(Arc<Tell>);

impl Teller {
    fn silent() -> Self {
        Self(Arc::new(|_| ()))
    }

    fn tell(&self, waiting: Waiting) {
        (self.0)(waiting);
    }
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

/// An open object store.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    segments_dir: PathBuf,
    writer_lock: PathBuf,
    index: Index,
    appender: Mutex<Appender>,
    /// The segments that are open for reading.
    readers: Mutex<HashMap<SegmentName, Arc<Segment>>>,
    rebuilt: Option<RebuildReport>,
    teller: Teller,
    is_read_only: bool,
    /// The file `lock`. It is locked as long as the store is open.
    lock_file: Option<File>,
}

/// The appender, locked, and what it needs.
struct Appending<'a> {
    appender: &'a mut Appender,
    around: Around<'a>,
}

/// A run that may append records; see [`appender`].
struct Run<'a>(&'a Store);

impl<'a> Run<'a> {
    fn new(store: &'a Store) -> Result<Self, StoreError> {
        if store.is_read_only {
            return Err(StoreError::ReadOnly {
                path: store.dir.clone(),
            });
        }
        store.appender().begin();
        Ok(Self(store))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.appender().end();
    }
}

impl Store {
    /// Opens the store in a directory; creates what is missing.
    ///
    /// If there are segments but no index, the index is rebuilt from them; see [`Store::rebuilt`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_in(dir, Teller::silent())
    }

    /// Opens the store, as [`Store::open`]. Whenever relsync waits for another process, `tell` is
    /// called with what it waits for.
    pub fn open_telling(dir: &Path, tell: Arc<Tell>) -> Result<Self, StoreError> {
        Self::open_in(dir, Teller(tell))
    }

    fn open_in(dir: &Path, teller: Teller) -> Result<Self, StoreError> {
        let segments_dir = dir.join(SEGMENTS_DIR);
        owner::check_above(dir)?;
        private::check_dir(dir)?;
        let made = private::create_dir(&segments_dir);
        private::check_dir(&segments_dir)?;
        let is_writable =
            |dir: &Path| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
        if dir.is_dir() && !(is_writable(dir) && (made.is_err() || is_writable(&segments_dir))) {
            return Self::open_read_only(dir, segments_dir, teller);
        }
        made.map_err(|source| io_error("create", &segments_dir, source))?;
        private::check_file(&dir.join(WRITER_FILE))?;
        let lock_path = dir.join(LOCK_FILE);
        private::check_file(&lock_path)?;
        let lock = lock::open(&lock_path).map_err(|source| io_error("open", &lock_path, source))?;
        let index_path = dir.join(INDEX_FILE);
        let mut rebuilt = None;
        let index = open_index(&index_path, lock.as_ref(), &teller, &mut || {
            rebuilt = make_index(&index_path, &segments_dir)?;
            Ok(())
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            segments_dir,
            writer_lock: dir.join(WRITER_FILE),
            index,
            appender: Mutex::default(),
            readers: Mutex::default(),
            rebuilt,
            teller,
            is_read_only: false,
            lock_file: lock,
        })
    }

    fn open_read_only(
        dir: &Path,
        segments_dir: PathBuf,
        teller: Teller,
    ) -> Result<Self, StoreError> {
        let lock_path = dir.join(LOCK_FILE);
        private::check_file(&lock_path)?;
        let lock = lock::open(&lock_path).map_err(|source| io_error("open", &lock_path, source))?;
        if let Some(file) = &lock {
            share(file, &lock_path, &teller)?;
        }
        let mut rebuilt = None;
        let index = Index::open_read_only(
            &dir.join(INDEX_FILE),
            teller.clone(),
            |changes| {
                let report = rebuild::fill(changes, &segments_dir)?;
                rebuilt = (report.segments > 0).then_some(report);
                Ok(())
            },
            |changes| adopt(changes, &segments_dir),
        )?;
        Ok(Self {
            dir: dir.to_owned(),
            segments_dir,
            writer_lock: dir.join(WRITER_FILE),
            index,
            appender: Mutex::default(),
            readers: Mutex::default(),
            rebuilt,
            teller,
            is_read_only: true,
            lock_file: lock,
        })
    }

    /// Rebuilds the index of a store, even if it cannot be opened. An unreadable old index is kept
    /// beside the new one. Waits until nobody else has the store open.
    pub fn repair(dir: &Path) -> Result<RebuildReport, StoreError> {
        Self::repair_in(dir, Teller::silent())
    }

    /// Rebuilds the index, as [`Store::repair`]. Calls `tell` as [`Store::open_telling`] does.
    pub fn repair_telling(dir: &Path, tell: Arc<Tell>) -> Result<RebuildReport, StoreError> {
        Self::repair_in(dir, Teller(tell))
    }

    fn repair_in(dir: &Path, teller: Teller) -> Result<RebuildReport, StoreError> {
        let store = match Self::open_in(dir, teller.clone()) {
            Err(error) if error.is_damaged_index() => {
                set_aside(dir, &teller)?;
                Self::open_in(dir, teller)
            }
            opened => opened,
        }?;
        store.be_alone()?;
        store.rebuild_index()
    }

    /// Waits until nobody else has the store open. Nobody else opens it before this value is
    /// dropped, unless the file system has no locks.
    fn be_alone(&self) -> Result<Lock, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly {
                path: self.dir.clone(),
            });
        }
        match &self.lock_file {
            Some(file) => lock_out(file, &self.dir, &self.teller),
            None => Ok(Lock::Unknown),
        }
    }

    /// Forgets the snapshots that the rules do not keep, and deletes what no snapshot needs. Waits
    /// until nobody else has the store open. With `dry_run`, it changes nothing.
    pub fn collect(
        self,
        rules: &KeepRules,
        now_ns: i64,
        dry_run: bool,
    ) -> Result<CollectReport, StoreError> {
        collect::collect(&self, rules, now_ns, dry_run)
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

    /// Checks that the store has every content of a manifest, with the size that the manifest says.
    /// Somebody else may have written the store.
    pub fn check_contents(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut contents = HashMap::new();
        for (_, sha256) in manifest.entries().iter().filter_map(Entry::content) {
            if let Some(content) = self.content(&sha256)? {
                contents.insert(sha256, content.size());
            }
        }
        match check::problems(manifest, &contents).into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// Stores a manifest, for example one that a target has installed.
    pub fn put_manifest(&self, bytes: &[u8]) -> Result<(SnapshotId, ManifestId), StoreError> {
        let manifest = Manifest::decode(bytes)?;
        let ingest = Ingest::new(self)?;
        ingest.manifest(manifest.id(), manifest.sha256(), bytes)?;
        let pending = ingest.pending();
        if !pending.is_empty() {
            self.commit(|changes, appending| pending.put(changes, appending))?;
        }
        drop(pending);
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

    /// Notes that a target runs a snapshot, so that the snapshot is kept. Does nothing if the store
    /// does not have it, knows it already, or cannot be written to.
    pub fn target_runs(
        &self,
        target: &str,
        id: &SnapshotId,
        now_ns: i64,
    ) -> Result<(), StoreError> {
        let known = self.index.targets()?;
        let is_known = known
            .iter()
            .any(|(name, runs)| name == target && runs == id);
        if self.is_read_only || is_known || self.index.snapshot(id)?.is_none() {
            return Ok(());
        }
        let target = target.to_owned();
        self.happen(id, now_ns, EventKind::Runs { target })
    }

    fn happen(&self, id: &SnapshotId, now_ns: i64, kind: EventKind) -> Result<(), StoreError> {
        let _run = Run::new(self)?;
        self.commit(|changes, appending| {
            if !changes.has_snapshot(id)? {
                return Err(StoreError::NoSuchSnapshot {
                    spec: id.to_string(),
                });
            }
            appending.events(changes, std::iter::once((*id, kind)), now_ns, None)
        })
    }

    /// Brings appended records into the index: syncs them, then changes the index in one
    /// transaction. If it fails, the index is as it was.
    ///
    /// A thread locks the appender before the index, never the other way round.
    fn commit<T>(
        &self,
        change: impl FnOnce(&Changes<'_>, &mut Appending<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.appending(|appending| {
            appending.appender.ready(&appending.around)?;
            let done = self.index.write(|changes| {
                let done = change(changes, appending)?;
                appending.appender.put_lengths(changes)?;
                Ok(done)
            })?;
            appending.appender.committed();
            Ok(done)
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

    /// Rebuilds the index from the segments, in one transaction. The caller has the store for
    /// itself.
    fn rebuild_index(&self) -> Result<RebuildReport, StoreError> {
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

    /// Does something with the appender and what it needs.
    fn appending<T>(
        &self,
        action: impl FnOnce(&mut Appending<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        action(&mut Appending {
            appender: &mut self.appender(),
            around: Around {
                dir: &self.segments_dir,
                writer_lock: &self.writer_lock,
                index: &self.index,
                teller: &self.teller,
            },
        })
    }

    /// Appends a record. Its place is known after a commit.
    fn append(&self, record: PackedRecord) -> Result<Ticket, StoreError> {
        self.appending(|appending| appending.appender.append(record, &appending.around))
    }
}

impl Appending<'_> {
    fn place(&self, ticket: Ticket) -> Result<Place, StoreError> {
        self.appender.place(ticket, self.around.dir)
    }

    /// Appends an event within a commit.
    fn event(&mut self, id: &SnapshotId, event: &Event) -> Result<(), StoreError> {
        let write_error = |source| io_error("write to", self.around.dir, source);
        let record = segment::pack(RecordKind::Event, id.0, &event.encode());
        let record = record.map_err(write_error)?;
        // An event is far smaller than the limit of a payload.
        let record = record.ok_or_else(|| write_error(io::ErrorKind::FileTooLarge.into()))?;
        self.appender.append_event(&record, &self.around)
    }

    /// Appends events, syncs them and applies them to the index, within a commit. `manifest` is
    /// that of a snapshot that was taken.
    fn events(
        &mut self,
        changes: &Changes<'_>,
        kinds: impl Iterator<Item = (SnapshotId, EventKind)>,
        time_ns: i64,
        manifest: Option<&Manifest>,
    ) -> Result<(), StoreError> {
        let totals = manifest.map(rebuild::ManifestTotals::of);
        for (id, kind) in kinds {
            let seq = changes.next_seq()?;
            let event = Event { seq, time_ns, kind };
            self.event(&id, &event)?;
            rebuild::apply_event(changes, id, &event, totals.as_ref())?;
        }
        self.appender.sync(&self.around)
    }
}

/// Takes the lock that all users of the store share, for this process alone.
fn lock_out(file: &File, dir: &Path, teller: &Teller) -> Result<Lock, StoreError> {
    let path = dir.join(LOCK_FILE);
    let taken = lock::exclusive(file, PATIENCE, Waiting::Users, teller);
    match taken.map_err(|source| io_error("lock", &path, source))? {
        Lock::Held => Err(StoreError::Locked {
            path: dir.to_owned(),
            waiting: Waiting::Users,
        }),
        taken => Ok(taken),
    }
}

/// Renames an index that cannot be used, so that another one can be made.
fn set_aside(dir: &Path, teller: &Teller) -> Result<(), StoreError> {
    let lock_path = dir.join(LOCK_FILE);
    let lock = lock::open(&lock_path).map_err(|source| io_error("open", &lock_path, source))?;
    if let Some(file) = &lock {
        lock_out(file, dir, teller)?;
    }
    let path = dir.join(INDEX_FILE);
    let damaged = side_file(&path, ".damaged");
    fs::rename(&path, &damaged).map_err(|source| io_error("rename", &path, source))?;
    for side in [side_file(&path, "-wal"), side_file(&path, "-shm")] {
        match fs::remove_file(&side) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &side, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the index. If it must be made or brought up to date, `make` does so while nobody else has
/// the store open.
fn open_index(
    path: &Path,
    lock: Option<&File>,
    teller: &Teller,
    make: &mut dyn FnMut() -> Result<(), StoreError>,
) -> Result<Index, StoreError> {
    let failed = |source| io_error("lock", path, source);
    let started = Instant::now();
    loop {
        if let Some(file) = lock {
            share(file, path, teller)?;
        }
        if let Some(index) = Index::open(path, teller.clone())? {
            return Ok(index);
        }
        let taken = match lock {
            Some(file) => {
                file.unlock().map_err(failed)?;
                lock::try_exclusive(file).map_err(failed)?
            }
            None => Lock::Unknown,
        };
        if taken != Lock::Held {
            make()?;
        } else if started.elapsed() > PATIENCE {
            return Err(StoreError::Locked {
                path: path.to_owned(),
                waiting: Waiting::Users,
            });
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes part in a lock that all users of the store share.
fn share(file: &File, path: &Path, teller: &Teller) -> Result<(), StoreError> {
    let taken = lock::shared(file, PATIENCE, Waiting::Alone, teller);
    match taken.map_err(|source| io_error("lock", path, source))? {
        Lock::Held => Err(StoreError::Locked {
            path: path.to_owned(),
            waiting: Waiting::Alone,
        }),
        Lock::Taken | Lock::Unknown => Ok(()),
    }
}

fn make_index(path: &Path, segments_dir: &Path) -> Result<Option<RebuildReport>, StoreError> {
    let mut rebuilt = None;
    Index::make(
        path,
        |changes| {
            let report = rebuild::fill(changes, segments_dir)?;
            rebuilt = (report.segments > 0).then_some(report);
            Ok(())
        },
        |changes| adopt(changes, segments_dir),
    )?;
    Ok(rebuilt)
}

/// Brings all segments into an index of an earlier version, which did not list those that have
/// nothing but events.
fn adopt(changes: &Changes<'_>, dir: &Path) -> Result<(), StoreError> {
    for name in segment::list_segments(dir).map_err(|source| io_error("read", dir, source))? {
        changes.segment(&name)?;
    }
    Ok(())
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
