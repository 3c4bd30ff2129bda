//! The rebuild of the index from the segments.
//!
//! Segments are the truth. A rebuild puts every sound record into the index. It leaves out and
//! counts what is damaged. It also leaves out contents that lack a chunk, so that the next snapshot
//! stores them again.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::error::StoreError;
use super::index::Changes;
use super::io_error;
use super::recipe::Recipe;
use super::segment::{
    Damage, Found, RecordHeader, RecordKind, Segment, SegmentName, list_segments, unpack,
};
use super::snapshot::{Event, EventKind, SnapshotRecord};
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;

/// The result of a rebuild.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// The number of segments read.
    pub segments: u64,
    /// The segments that cannot be read at all, and why.
    pub lost_segments: Vec<(String, Damage)>,
    /// The number of sound chunks.
    pub chunks: u64,
    /// The number of sound contents that have all their chunks.
    pub contents: u64,
    /// The number of contents that lack chunks.
    pub lost_contents: u64,
    /// The number of sound manifests.
    pub manifests: u64,
    /// The number of snapshots that have their manifest.
    pub snapshots: u64,
    /// The number of snapshots whose manifest is lost.
    pub lost_snapshots: u64,
    /// The number of bytes that belong to no record: damage, or the unfinished end of a crash.
    pub damaged_bytes: u64,
}

/// The fields of a snapshot's record that come from its manifest.
pub(super) struct ManifestTotals {
    sha256: ManifestId,
    entries: u64,
    content_bytes: u64,
}

impl ManifestTotals {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            sha256: manifest.sha256(),
            entries: manifest.len().try_into().unwrap_or(u64::MAX),
            content_bytes: manifest.content_bytes(),
        }
    }
}

/// The records that were read from the segments and enter the index last.
#[derive(Default)]
struct Gathered {
    chunks: HashSet<ChunkId>,
    recipes: Vec<(Sha256, Recipe)>,
    manifests: HashMap<SnapshotId, ManifestTotals>,
    events: Vec<(SnapshotId, Event)>,
    report: RebuildReport,
}

/// Fills an empty index.
pub(super) fn fill(changes: &Changes<'_>, dir: &Path) -> Result<RebuildReport, StoreError> {
    let mut gathered = Gathered::default();
    let read_error = |path: &Path, source| io_error("read", path, source);
    for name in list_segments(dir).map_err(|source| read_error(dir, source))? {
        let path = name.path(dir);
        match Segment::open(&path).map_err(|source| read_error(&path, source))? {
            Ok(segment) => gather(changes, &name, &segment, &mut gathered)?,
            Err(damage) => gathered.report.lost_segments.push((name.0, damage)),
        }
    }
    finish(changes, gathered)
}

fn gather(
    changes: &Changes<'_>,
    name: &SegmentName,
    segment: &Segment,
    gathered: &mut Gathered,
) -> Result<(), StoreError> {
    let number = changes.segment(name)?;
    changes.put_length(name, segment.length())?;
    gathered.report.segments += 1;
    segment.for_each(|found| match found {
        Found::Damaged(range) => {
            gathered.report.damaged_bytes += range.end - range.start;
            Ok(())
        }
        Found::Record {
            offset,
            header,
            payload,
        } => gather_record(changes, number, offset, &header, payload, gathered),
    })
}

fn gather_record(
    changes: &Changes<'_>,
    segment: i64,
    offset: u64,
    header: &RecordHeader,
    payload: &[u8],
    gathered: &mut Gathered,
) -> Result<(), StoreError> {
    if header.kind == RecordKind::Chunk {
        let id = ChunkId(header.key);
        gathered.chunks.insert(id);
        return changes.put_chunk(
            &id,
            segment,
            offset,
            header.raw_bytes,
            header.record_bytes(),
        );
    }
    let raw = unpack(header, payload).unwrap_or_default();
    let is_known = match header.kind {
        RecordKind::Chunk => true,
        RecordKind::Content => {
            let recipe = Recipe::decode(&raw).map(|recipe| (Sha256(header.key), recipe));
            gathered.recipes.extend(recipe.clone());
            recipe.is_some()
        }
        RecordKind::Manifest => {
            let manifest = Manifest::decode(&raw).ok();
            let manifest = manifest.filter(|manifest| manifest.id().0 == header.key);
            if let Some(manifest) = &manifest {
                changes.put_manifest(&manifest.id(), &manifest.sha256(), segment, offset)?;
                let totals = ManifestTotals::of(manifest);
                gathered.manifests.insert(manifest.id(), totals);
            }
            manifest.is_some()
        }
        RecordKind::Event => {
            let event = Event::decode(&raw).map(|event| (SnapshotId(header.key), event));
            gathered.events.extend(event.clone());
            event.is_some()
        }
    };
    if !is_known {
        gathered.report.damaged_bytes += header.record_bytes();
    }
    Ok(())
}

fn finish(changes: &Changes<'_>, mut gathered: Gathered) -> Result<RebuildReport, StoreError> {
    let mut report = gathered.report;
    let mut contents = HashSet::new();
    let mut lost_contents = HashSet::new();
    for (sha256, recipe) in &gathered.recipes {
        if recipe
            .chunks
            .iter()
            .all(|chunk| gathered.chunks.contains(&chunk.id))
        {
            changes.put_content(sha256, recipe)?;
            contents.insert(*sha256);
        } else {
            lost_contents.insert(*sha256);
        }
    }
    gathered
        .events
        .sort_by_key(|(_, event)| (event.seq, event.time_ns));
    let mut snapshots = HashSet::new();
    let mut lost_snapshots = HashSet::new();
    for (id, event) in &gathered.events {
        changes.raise_seq(event.seq)?;
        let totals = gathered.manifests.get(id);
        match event.kind {
            EventKind::Taken { .. } if totals.is_none() => lost_snapshots.insert(*id),
            EventKind::Taken { .. } => snapshots.insert(*id),
            EventKind::Removed => snapshots.remove(id) || lost_snapshots.remove(id),
            _ => false,
        };
        apply_event(changes, *id, event, totals)?;
    }
    report.chunks = count(gathered.chunks.len());
    report.contents = count(contents.len());
    report.lost_contents = count(lost_contents.difference(&contents).count());
    report.manifests = count(gathered.manifests.len());
    report.snapshots = count(snapshots.len());
    report.lost_snapshots = count(lost_snapshots.len());
    Ok(report)
}

fn count(count: usize) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

/// Applies an event to the index, both when it happens and when it is replayed.
pub(super) fn apply_event(
    changes: &Changes<'_>,
    id: SnapshotId,
    event: &Event,
    totals: Option<&ManifestTotals>,
) -> Result<(), StoreError> {
    match &event.kind {
        EventKind::Taken { parent, name, note } => match totals {
            Some(totals) => changes.put_snapshot(&SnapshotRecord {
                id,
                manifest: totals.sha256,
                seq: event.seq,
                time_ns: event.time_ns,
                seen_ns: event.time_ns,
                parent: *parent,
                name: name.clone(),
                note: note.clone(),
                tags: Vec::new(),
                entries: totals.entries,
                content_bytes: totals.content_bytes,
            }),
            None => Ok(()),
        },
        EventKind::Seen => changes.see_snapshot(&id, event.time_ns, Some(event.seq)),
        EventKind::Described { name, note } => {
            changes.see_snapshot(&id, event.time_ns, Some(event.seq))?;
            changes.describe_snapshot(&id, name.as_deref(), note.as_deref())
        }
        EventKind::Tagged { tag } if changes.has_snapshot(&id)? => changes.put_tag(tag, &id),
        EventKind::Tagged { .. } => Ok(()),
        EventKind::Untagged { tag } => changes.remove_tag(tag),
        EventKind::Removed => changes.remove_snapshot(&id),
        EventKind::Runs { target } if changes.has_snapshot(&id)? => changes.put_target(target, &id),
        EventKind::Runs { .. } => Ok(()),
    }
}
