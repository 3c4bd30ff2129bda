//! Collecting garbage: forgets snapshots, and deletes what no snapshot needs.
//!
//! The process has the store for itself. It marks what the remaining snapshots need. It copies that
//! out of the segments that hold too much else, or that are small, into new ones. Then it deletes
//! the old ones.
//!
//! **Crash behaviour.** Each batch is written and synced; then one transaction of the index moves
//! the rows to the new segments; then the old segments are deleted. Before the commit the new
//! segments, after it the old ones, are in no index; the next writer or the next collection deletes
//! them. If the index is rebuilt in between, both count, and the store has everything twice.
//!
//! **Events** are copied as far as a rebuild needs them: all of a snapshot that is there, and of a
//! removed one its removal, as long as another segment may say that it was taken.

use std::collections::{HashMap, HashSet};
use std::fs;

use super::appender::sweep;
use super::error::StoreError;
use super::index::{Changes, Location};
use super::keep::{KeepRules, Reason};
use super::lock::Lock;
use super::segment::{
    self, Found, PackedRecord, RecordHeader, RecordKind, Segment, SegmentName, SegmentWriter,
    list_segments,
};
use super::snapshot::{Event, EventKind, SnapshotRecord};
use super::{INDEX_FILE, Run, Store, fault, filecache, io_error, side_file};
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256, SnapshotId};

/// Segments smaller than this are merged.
const SMALL_BYTES: u64 = 8 << 20;
/// The number of small segments from which on they are merged.
const SMALL_COUNT: usize = 4;
/// A segment is rewritten if more than one part in this many is garbage.
const GARBAGE_PART: u64 = 20;
/// The bytes that are copied before the old segments of a batch are deleted. A batch needs that
/// much free space.
const BATCH_BYTES: u64 = 256 << 20;

/// The result of collecting garbage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// All snapshots there were, each with the reasons to keep it. One without reasons is
    /// forgotten.
    pub snapshots: Vec<(SnapshotRecord, Vec<Reason>)>,
    /// The number of segments before.
    pub segments_before: u64,
    /// The number of segments after.
    pub segments_after: u64,
    /// The bytes of all segments and of the index before.
    pub bytes_before: u64,
    /// The bytes of all segments and of the index after; estimated if nothing was changed.
    pub bytes_after: u64,
    /// The bytes that were copied.
    pub copied_bytes: u64,
}

/// The things that snapshots need.
#[derive(Default)]
struct Live {
    manifests: HashMap<SnapshotId, Option<Location>>,
    contents: HashSet<Sha256>,
    chunks: HashMap<ChunkId, Option<Location>>,
    /// The snapshots that are in the index.
    snapshots: HashSet<SnapshotId>,
    targets: HashMap<String, SnapshotId>,
}

/// A segment that goes.
struct Victim {
    name: SegmentName,
    length: u64,
    live_bytes: u64,
}

/// The events of all segments that go.
#[derive(Default)]
struct Events {
    taken: HashSet<SnapshotId>,
    last_removed: HashMap<SnapshotId, u64>,
    last_seen: HashMap<SnapshotId, u64>,
    last_untagged: HashMap<String, u64>,
    /// Whether other segments stay. They may have events of any snapshot.
    others_stay: bool,
}

pub(super) fn collect(
    store: &Store,
    rules: &KeepRules,
    now_ns: i64,
    dry_run: bool,
) -> Result<CollectReport, StoreError> {
    if store.be_alone()? == Lock::Unknown {
        return Err(StoreError::NoLocks {
            path: store.dir.clone(),
        });
    }
    let (segments_before, bytes_before) = size(store)?;
    let snapshots = rules.reasons(&store.index.snapshots()?, &store.index.targets()?);
    let forgotten: Vec<SnapshotId> = snapshots
        .iter()
        .filter(|(_, reasons)| reasons.is_empty())
        .map(|(record, _)| record.id)
        .collect();
    if !dry_run {
        sweep(&store.segments_dir, &store.index);
        store.forget(&forgotten, now_ns)?;
    }
    let live = mark(store, &forgotten)?;
    let (victims, events) = choose(store, &live)?;
    let copied_bytes = victims.iter().map(|victim| victim.live_bytes).sum();
    let (segments_after, bytes_after) = if dry_run {
        let gone: u64 = victims.iter().map(|victim| victim.length).sum();
        let left = segments_before.saturating_sub(victims.len() as u64);
        (
            left + u64::from(copied_bytes > 0),
            bytes_before - gone + copied_bytes,
        )
    } else {
        delete_rows(store, &live)?;
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for victim in victims {
            batch_bytes += victim.live_bytes;
            batch.push(victim.name);
            if batch_bytes >= BATCH_BYTES {
                rewrite(store, &live, &events, &std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        rewrite(store, &live, &events, &batch)?;
        // Without space to shrink it, the index stays as large as it is.
        match store.index.shrink() {
            Err(StoreError::Full { .. }) => {}
            shrunk => shrunk?,
        }
        size(store)?
    };
    Ok(CollectReport {
        snapshots,
        segments_before,
        segments_after,
        bytes_before,
        bytes_after,
        copied_bytes,
    })
}

/// Counts the segments, and the bytes of the segments and the index.
fn size(store: &Store) -> Result<(u64, u64), StoreError> {
    let dir = &store.segments_dir;
    let names = list_segments(dir).map_err(|source| io_error("read", dir, source))?;
    let length = |path| fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
    let mut bytes: u64 = names.iter().map(|name| length(name.path(dir))).sum();
    for suffix in ["", "-wal"] {
        bytes += length(side_file(&store.dir.join(INDEX_FILE), suffix));
    }
    Ok((names.len() as u64, bytes))
}

/// Finds out what the snapshots need, without the forgotten ones.
fn mark(store: &Store, forgotten: &[SnapshotId]) -> Result<Live, StoreError> {
    let forgotten: HashSet<&SnapshotId> = forgotten.iter().collect();
    let mut live = Live {
        targets: store.index.targets()?.into_iter().collect(),
        ..Live::default()
    };
    let snapshots = store.index.snapshots()?;
    for record in snapshots
        .iter()
        .filter(|record| !forgotten.contains(&record.id))
    {
        let id = record.id;
        let manifest = store.manifest(&id)?;
        let manifest = manifest.ok_or(StoreError::MissingManifest { id })?;
        live.contents.extend(
            manifest
                .entries()
                .iter()
                .filter_map(Entry::content)
                .map(|(_, sha256)| sha256),
        );
        live.snapshots.insert(id);
        live.manifests.insert(id, None);
    }
    for sha256 in &live.contents {
        for chunk in store
            .index
            .content(sha256)?
            .into_iter()
            .flat_map(|recipe| recipe.chunks)
        {
            live.chunks.insert(chunk.id, None);
        }
    }
    for row in store.index.chunks()? {
        if let Some(place) = live.chunks.get_mut(&row.id) {
            *place = Some(row.at);
        }
    }
    for (id, at) in store.index.manifests()? {
        if let Some(place) = live.manifests.get_mut(&id) {
            *place = Some(at);
        }
    }
    Ok(live)
}

impl Live {
    /// Tells whether a record that is not an event is needed at this place.
    fn needs(&self, segment: &SegmentName, offset: u64, header: &RecordHeader) -> bool {
        let is_here = |at: &Option<Location>| {
            at.as_ref()
                .is_some_and(|at| at.offset == offset && at.segment == *segment)
        };
        match header.kind {
            RecordKind::Chunk => self.chunks.get(&ChunkId(header.key)).is_some_and(is_here),
            RecordKind::Content => self.contents.contains(&Sha256(header.key)),
            RecordKind::Manifest => self
                .manifests
                .get(&SnapshotId(header.key))
                .is_some_and(is_here),
            RecordKind::Event => false,
        }
    }

    /// Counts the chunks and manifests that are needed of each segment.
    fn counts(&self) -> HashMap<&SegmentName, usize> {
        let mut counts = HashMap::new();
        for at in self
            .chunks
            .values()
            .chain(self.manifests.values())
            .flatten()
        {
            *counts.entry(&at.segment).or_default() += 1;
        }
        counts
    }
}

/// Chooses the segments that go: those with much garbage, and small ones if there are several.
/// Those with few bytes to copy come first. Gathers their events.
fn choose(store: &Store, live: &Live) -> Result<(Vec<Victim>, Events), StoreError> {
    let counts = live.counts();
    let mut scanned = Vec::new();
    let mut all = 0;
    for name in store.index.segment_names()? {
        let path = name.path(&store.segments_dir);
        all += 1;
        let Ok(opened) = Segment::open(&path) else {
            continue;
        };
        let Ok(segment) = opened else {
            continue;
        };
        let (mut live_bytes, mut found) = (0, 0);
        let mut events = Vec::new();
        let visited: Result<(), ()> = segment.for_each(|part| {
            if let Found::Record {
                offset,
                header,
                payload,
            } = part
            {
                if live.needs(&name, offset, &header) {
                    live_bytes += header.record_bytes();
                    found += usize::from(header.kind != RecordKind::Content);
                }
                if let Some(event) = event(&header, payload) {
                    live_bytes += header.record_bytes();
                    events.push((SnapshotId(header.key), event));
                }
            }
            Ok(())
        });
        // A needed record that cannot be read must not become worse: such a segment stays.
        if visited.is_ok() && found == counts.get(&name).copied().unwrap_or_default() {
            let length = segment.length();
            scanned.push((
                Victim {
                    name,
                    length,
                    live_bytes,
                },
                events,
            ));
        }
    }
    let small = scanned
        .iter()
        .filter(|(victim, _)| victim.length < SMALL_BYTES)
        .count();
    scanned.retain(|(victim, _)| {
        let garbage = victim.length.saturating_sub(victim.live_bytes);
        garbage > victim.length / GARBAGE_PART
            || victim.length < SMALL_BYTES && small >= SMALL_COUNT
    });
    let mut gathered = Events {
        others_stay: all > scanned.len(),
        ..Events::default()
    };
    for (id, event) in scanned.iter().flat_map(|(_, events)| events) {
        gathered.add(*id, event);
    }
    let mut victims: Vec<Victim> = scanned.into_iter().map(|(victim, _)| victim).collect();
    victims.sort_by_key(|victim| victim.live_bytes);
    Ok((victims, gathered))
}

fn event(header: &RecordHeader, payload: &[u8]) -> Option<Event> {
    if header.kind != RecordKind::Event {
        return None;
    }
    Event::decode(&segment::unpack(header, payload).ok()?)
}

fn raise<K: std::hash::Hash + Eq>(last: &mut HashMap<K, u64>, key: K, seq: u64) {
    let last = last.entry(key).or_default();
    *last = seq.max(*last);
}

impl Events {
    fn add(&mut self, id: SnapshotId, event: &Event) {
        match &event.kind {
            EventKind::Taken { .. } => {
                self.taken.insert(id);
            }
            EventKind::Seen => raise(&mut self.last_seen, id, event.seq),
            EventKind::Removed => raise(&mut self.last_removed, id, event.seq),
            EventKind::Untagged { tag } | EventKind::Tagged { tag } => {
                raise(&mut self.last_untagged, tag.clone(), event.seq);
            }
            EventKind::Described { .. } | EventKind::Runs { .. } => {}
        }
    }

    /// Returns what is to be kept of an event.
    fn kept(&self, live: &Live, id: SnapshotId, event: Event) -> Option<Event> {
        let removed = self.last_removed.get(&id).copied();
        let is_there = live.snapshots.contains(&id) && removed.is_none_or(|seq| event.seq > seq);
        let is_last = |last: Option<&u64>| last == Some(&event.seq);
        let is_kept = match &event.kind {
            EventKind::Taken { .. } | EventKind::Described { .. } => is_there,
            EventKind::Seen => is_there && is_last(self.last_seen.get(&id)),
            EventKind::Runs { target } => is_there && live.targets.get(target) == Some(&id),
            EventKind::Removed => {
                removed == Some(event.seq) && (self.others_stay || self.taken.contains(&id))
            }
            EventKind::Tagged { tag } | EventKind::Untagged { tag } => {
                is_last(self.last_untagged.get(tag))
            }
        };
        // The tag of a snapshot that is gone took it away from another one.
        let kind = match event.kind {
            EventKind::Tagged { tag } if !is_there => EventKind::Untagged { tag },
            kind => kind,
        };
        is_kept.then_some(Event { kind, ..event })
    }
}

/// Deletes the rows of contents that no snapshot needs, and of the caches that name them.
fn delete_rows(store: &Store, live: &Live) -> Result<(), StoreError> {
    let contents = store.index.contents()?;
    let gone: Vec<Sha256> = contents
        .into_iter()
        .map(|(sha256, _)| sha256)
        .filter(|sha256| !live.contents.contains(sha256))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let caches = store.index.file_caches()?;
    store.index.write(|changes| {
        for sha256 in &gone {
            changes.remove_content(sha256)?;
        }
        for (root, bytes) in &caches {
            let mut files = filecache::decode(bytes);
            files.retain(|file| !file.is_stored || live.contents.contains(&file.sha256));
            if files.is_empty() {
                changes.remove_file_cache(root)?;
            } else {
                changes.put_file_cache(root, &filecache::encode(&files))?;
            }
        }
        Ok(())
    })
}

/// A record that was copied.
struct Moved {
    kind: RecordKind,
    key: [u8; 32],
    to: Location,
}

/// Copies what is needed out of some segments, and deletes them.
fn rewrite(
    store: &Store,
    live: &Live,
    events: &Events,
    names: &[SegmentName],
) -> Result<(), StoreError> {
    if names.is_empty() {
        return Ok(());
    }
    let dir = &store.segments_dir;
    let failed = |source| io_error("write to", dir, source);
    let mut writers: Vec<SegmentWriter> = Vec::new();
    let mut moved = Vec::new();
    let mut contents = HashSet::new();
    for name in names {
        let path = name.path(dir);
        let opened = Segment::open(&path).map_err(|source| io_error("read", &path, source))?;
        let opened = opened.map_err(|damage| StoreError::Segment {
            path,
            offset: 0,
            damage,
        });
        opened?.for_each(|part| -> Result<(), StoreError> {
            let Found::Record {
                offset,
                header,
                payload,
            } = part
            else {
                return Ok(());
            };
            let Some(record) = kept(live, events, name, offset, &header, payload)
                .filter(|_| header.kind != RecordKind::Content || contents.insert(header.key))
            else {
                return Ok(());
            };
            let (kind, key) = (header.kind, header.key);
            let to = append(&mut writers, dir, &record).map_err(failed)?;
            moved.push(Moved { kind, key, to });
            Ok(())
        })?;
    }
    for writer in &mut writers {
        writer.sync().map_err(failed)?;
    }
    let chunks = store.index.chunks()?;
    let manifests = store.index.manifests()?;
    let going: HashSet<&SegmentName> = names.iter().collect();
    store.index.write(|changes| {
        for writer in &writers {
            changes.put_length(writer.name(), writer.length())?;
        }
        for moved in &moved {
            move_row(changes, moved)?;
        }
        for row in &chunks {
            if going.contains(&row.at.segment) && !live.chunks.contains_key(&row.id) {
                changes.remove_chunk(&row.id)?;
            }
        }
        for (id, at) in &manifests {
            if going.contains(&at.segment) && !live.manifests.contains_key(id) {
                changes.remove_manifest(id)?;
            }
        }
        names
            .iter()
            .try_for_each(|name| changes.remove_segment(name))
    })?;
    writers.iter_mut().for_each(SegmentWriter::commit);
    store.index.checkpoint()?;
    for name in names {
        store.readers().remove(name);
        fault::step("delete an old segment");
        let path = name.path(dir);
        fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
    }
    Ok(())
}

/// Returns what is to be kept of a record.
fn kept(
    live: &Live,
    events: &Events,
    name: &SegmentName,
    offset: u64,
    header: &RecordHeader,
    payload: &[u8],
) -> Option<PackedRecord> {
    if let Some(event) = event(header, payload) {
        let event = events.kept(live, SnapshotId(header.key), event)?;
        return segment::pack(RecordKind::Event, header.key, &event.encode()).ok()?;
    }
    live.needs(name, offset, header).then(|| PackedRecord {
        header: *header,
        payload: payload.to_vec(),
    })
}

fn append(
    writers: &mut Vec<SegmentWriter>,
    dir: &std::path::Path,
    record: &PackedRecord,
) -> std::io::Result<Location> {
    if writers.last().is_none_or(SegmentWriter::is_full) {
        writers.push(SegmentWriter::create(dir)?);
    }
    let writer = writers.last_mut().ok_or(std::io::ErrorKind::NotFound)?;
    let offset = writer.append(record)?;
    let segment = writer.name().clone();
    Ok(Location { segment, offset })
}

fn move_row(changes: &Changes<'_>, moved: &Moved) -> Result<(), StoreError> {
    let (segment, offset) = (changes.segment(&moved.to.segment)?, moved.to.offset);
    match moved.kind {
        RecordKind::Chunk => changes.move_chunk(&ChunkId(moved.key), segment, offset),
        RecordKind::Manifest => changes.move_manifest(&SnapshotId(moved.key), segment, offset),
        RecordKind::Content | RecordKind::Event => Ok(()),
    }
}

impl Store {
    /// Removes snapshots in one transaction.
    fn forget(&self, ids: &[SnapshotId], now_ns: i64) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let _run = Run::new(self)?;
        self.commit(|changes, appending| {
            let events = ids.iter().map(|id| (*id, EventKind::Removed));
            appending.events(changes, events, now_ns, None)
        })
    }
}
