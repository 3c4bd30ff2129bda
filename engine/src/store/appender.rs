//! The way of records to the end of a segment.
//!
//! A run that changes the store appends records, syncs them, and then names them in the index. The
//! first [`HELD_BYTES`] of a run stay in memory. A run with less than that adds them to a small
//! segment that is there; a run with more creates a segment of its own. So many small runs make one
//! file, and a run that ends early leaves none.
//!
//! **Locking.** A segment's writer has its lock from its creation on, until the index names it or
//! the writer is dropped. A segment that no index names and whose lock is free was left by a
//! process that was killed; [`sweep`] deletes it. Before a run writes its first byte to disk, it
//! takes the lock `writer`, and drops the records that another process has stored meanwhile.
//!
//! **Crash behaviour.** A crash leaves a segment that no index names, or bytes after the committed
//! end of a segment. The next writer deletes the one and cuts off the other.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::StoreError;
use super::fault;
use super::index::{Changes, Index, Location};
use super::lock::{self, Lock, Waiting};
use super::segment::{
    FILE_HEADER_BYTES, PackedRecord, RecordKind, Segment, SegmentName, SegmentWriter, list_segments,
};
use super::{Teller, io_error, private};
use crate::limits::MIB;
use crate::tree::id::{ChunkId, Sha256, SnapshotId};

/// The bytes of records that wait in memory at most.
const HELD_BYTES: usize = MIB;
/// The size below which a segment takes in more small runs.
const SMALL_SEGMENT_BYTES: u64 = 8 << 20;
/// The number of segments that a small run looks at for room.
const ROOM_CANDIDATES: usize = 8;
/// The longest time to wait for another writer. After it, both may store the same data.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);

/// The name of a record until its place is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// The place of an appended record.
#[derive(Debug, Clone)]
pub(super) enum Place {
    At(Location),
    /// Another process has stored the same record meanwhile.
    Known,
}

/// The records that this process has appended, and where they go.
#[derive(Debug, Default)]
pub(super) struct Appender {
    writer: Option<SegmentWriter>,
    /// The segments that a run has filled. They stay locked until it ends.
    full: Vec<SegmentWriter>,
    held: Vec<(Ticket, PackedRecord)>,
    held_bytes: usize,
    places: HashMap<Ticket, Place>,
    last: u64,
    /// The lock `writer`, from the first byte on disk to the commit.
    turn: Option<File>,
    /// The runs that have not ended. While there are any, the segment stays locked.
    runs: usize,
}

/// The parts of a store that appending needs.
pub(super) struct Around<'a> {
    pub(super) dir: &'a Path,
    pub(super) writer_lock: &'a Path,
    pub(super) index: &'a Index,
    pub(super) teller: &'a Teller,
}

impl Appender {
    /// Notes that a run begins, which may append records.
    pub(super) fn begin(&mut self) {
        self.runs += 1;
    }

    /// Notes that a run has ended. When the last one has, nothing is locked any more, and what was
    /// not committed is gone.
    pub(super) fn end(&mut self) {
        self.runs -= 1;
        if self.runs == 0 {
            self.forget();
        }
    }

    /// Drops the writer and everything that waits, which nobody will ask for again.
    fn forget(&mut self) {
        self.writer = None;
        self.full.clear();
        self.held.clear();
        self.held_bytes = 0;
        self.places.clear();
        self.turn = None;
    }

    /// Appends a record.
    pub(super) fn append(
        &mut self,
        record: PackedRecord,
        around: &Around<'_>,
    ) -> Result<Ticket, StoreError> {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.held_bytes += record.bytes();
        self.held.push((ticket, record));
        if self.writer.as_ref().is_some_and(SegmentWriter::is_own) || self.held_bytes > HELD_BYTES {
            self.write_out(false, around)?;
        }
        Ok(ticket)
    }

    /// Makes all appended records survive a power failure, and has a segment ready for one event.
    /// A transaction of the index comes next, so the index is asked for nothing after this.
    pub(super) fn ready(&mut self, around: &Around<'_>) -> Result<(), StoreError> {
        self.take_turn(around)?;
        self.write_out(true, around)?;
        if self.writer.is_none() {
            let writer = open_segment(true, around);
            self.writer = Some(writer.map_err(|source| self.give_up(around, source))?);
        }
        self.sync(around)
    }

    /// Appends an event to the segment that is ready.
    pub(super) fn append_event(
        &mut self,
        record: &PackedRecord,
        around: &Around<'_>,
    ) -> Result<(), StoreError> {
        let missing = || Err(io::Error::other("no segment is ready"));
        let appended = self
            .writer
            .as_mut()
            .map_or_else(missing, |writer| writer.append(record));
        appended
            .map(drop)
            .map_err(|source| self.give_up(around, source))
    }

    /// Makes what is in the segment survive a power failure.
    pub(super) fn sync(&mut self, around: &Around<'_>) -> Result<(), StoreError> {
        let synced = self.writer.as_mut().map_or(Ok(()), SegmentWriter::sync);
        synced.map_err(|source| self.give_up(around, source))
    }

    /// Takes the lock `writer`.
    fn take_turn(&mut self, around: &Around<'_>) -> Result<(), StoreError> {
        if self.turn.is_some() {
            return Ok(());
        }
        let path = around.writer_lock;
        let failed = |source| io_error("lock", path, source);
        let Some(file) = lock::open(path).map_err(failed)? else {
            return Ok(());
        };
        lock::exclusive(&file, WRITER_PATIENCE, Waiting::Writer, around.teller).map_err(failed)?;
        self.turn = Some(file);
        Ok(())
    }

    /// Drops the records that another process has stored since they were appended.
    fn drop_known(&mut self, index: &Index) -> Result<(), StoreError> {
        let mut left = Vec::with_capacity(self.held.len());
        for (ticket, record) in std::mem::take(&mut self.held) {
            let key = record.header.key;
            let is_known = match record.header.kind {
                RecordKind::Chunk => index.has_chunk(&ChunkId(key))?,
                RecordKind::Content => index.has_content(&Sha256(key))?,
                RecordKind::Manifest => index.manifest(&SnapshotId(key))?.is_some(),
                RecordKind::Event => false,
            };
            if is_known {
                self.held_bytes -= record.bytes();
                self.places.insert(ticket, Place::Known);
            } else {
                left.push((ticket, record));
            }
        }
        self.held = left;
        Ok(())
    }

    /// Writes the waiting records to a segment.
    fn write_out(&mut self, is_end: bool, around: &Around<'_>) -> Result<(), StoreError> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.take_turn(around)?;
        self.drop_known(around.index)?;
        if !is_end && self.writer.is_none() && self.held_bytes <= HELD_BYTES {
            return Ok(());
        }
        let is_small = self.held_bytes <= HELD_BYTES;
        for (ticket, record) in std::mem::take(&mut self.held) {
            let appended = self.append_to_segment(&record, is_small, around);
            let at = appended.map_err(|source| self.give_up(around, source))?;
            self.places.insert(ticket, Place::At(at));
        }
        self.held_bytes = 0;
        Ok(())
    }

    fn append_to_segment(
        &mut self,
        record: &PackedRecord,
        is_small: bool,
        around: &Around<'_>,
    ) -> io::Result<Location> {
        let is_full = |writer: &SegmentWriter| {
            writer.is_full() || !writer.is_own() && writer.length() >= 2 * SMALL_SEGMENT_BYTES
        };
        if let Some(mut full) = self.writer.take_if(|writer| is_full(writer)) {
            full.sync()?;
            self.full.push(full);
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => empty.insert(open_segment(is_small, around)?),
        };
        let offset = writer.append(record)?;
        Ok(Location {
            segment: writer.name().clone(),
            offset,
        })
    }

    /// Stops using the segment after a failure. Runs that appended to it fail at their commit.
    fn give_up(&mut self, around: &Around<'_>, source: io::Error) -> StoreError {
        self.forget();
        io_error("write to", around.dir, source)
    }

    /// Tells where a record is, after a sync.
    pub(super) fn place(&self, ticket: Ticket, dir: &Path) -> Result<Place, StoreError> {
        self.places.get(&ticket).cloned().ok_or_else(|| {
            let source = io::Error::other("an earlier write to a segment failed");
            io_error("write to", dir, source)
        })
    }

    /// Notes in the index how far the segments belong to it.
    pub(super) fn put_lengths(&self, changes: &Changes<'_>) -> Result<(), StoreError> {
        let mut writers = self.full.iter().chain(&self.writer);
        writers.try_for_each(|writer| changes.put_length(writer.name(), writer.length()))
    }

    /// Notes that the index names everything appended so far.
    pub(super) fn committed(&mut self) {
        for writer in self.full.iter_mut().chain(&mut self.writer) {
            writer.commit();
        }
        self.turn = None;
    }
}

/// Opens a segment to append to: one with room for a small run, else a new one.
fn open_segment(is_small: bool, around: &Around<'_>) -> io::Result<SegmentWriter> {
    if let Some(writer) = room(around).filter(|_| is_small) {
        return Ok(writer);
    }
    sweep(around.dir, around.index);
    SegmentWriter::create(around.dir)
}

/// Finds a small segment that the index names and that nobody writes to.
fn room(around: &Around<'_>) -> Option<SegmentWriter> {
    let newest = around.index.newest_segments(ROOM_CANDIDATES).ok()?;
    newest.into_iter().find_map(|(name, length)| {
        let length = length.filter(|length| *length < SMALL_SEGMENT_BYTES)?;
        SegmentWriter::resume(around.dir, &name, length)
            .ok()
            .flatten()
    })
}

/// Deletes the segments that a killed process left: no index names them, and nobody has them
/// locked. Returns their number and size. A segment that cannot be deleted stays.
pub(super) fn sweep(dir: &Path, index: &Index) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    let (Ok(names), Ok(indexed)) = (list_segments(dir), index.segment_names()) else {
        return (0, 0);
    };
    for name in names.iter().filter(|name| !indexed.contains(name)) {
        if let Some(length) = delete_if_left(dir, name, index) {
            count += 1;
            bytes += length;
        }
    }
    (count, bytes)
}

fn delete_if_left(dir: &Path, name: &SegmentName, index: &Index) -> Option<u64> {
    let path = name.path(dir);
    let file = private::open_file(&path, true).ok()?;
    if lock::try_exclusive(&file).ok()? != Lock::Taken {
        return None;
    }
    // Its writer may have committed and ended since the index was read.
    if index.has_segment(name).ok()? {
        return None;
    }
    let length = file.metadata().ok()?.len();
    // What cannot be read may be damaged, or of a newer relsync; it is nobody's leftover.
    if length > FILE_HEADER_BYTES as u64 && Segment::open(&path).ok()?.is_err() {
        return None;
    }
    fault::step("delete a segment");
    fs::remove_file(&path).ok()?;
    Some(length)
}
