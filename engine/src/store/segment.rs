//! Segments: the append-only files that hold all records of the store.
//!
//! This module owns the bytes described in `store-format.md`, section *Object store*. It knows
//! nothing of the index.
//!
//! One process at a time writes to a segment, and has its lock then. A record counts once it is
//! complete. Header and payload have checksums, so readers can tell a torn tail from data. A crash
//! leaves such a tail, and so does a process that is appending now; readers skip it. The next
//! writer cuts off what the index does not name. It never shortens or changes what the index names.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};

use super::lock::{self, Lock};
use super::{fault, private};
use crate::bytes::{Reader, Writer};
use crate::limits;
use crate::store::mapped_file::MappedFile;

const MAGIC: &[u8; 4] = b"RSSG";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 8;
pub(crate) const FILE_HEADER_BYTES: usize = 4 + 1 + SALT_BYTES;
const HEADER_BYTES: usize = 1 + 1 + 4 + 4 + 32 + 4 + 4;
/// The maximum size of a record's payload, stored or raw.
pub(crate) const PAYLOAD_BYTES: usize = limits::MANIFEST_BYTES;
/// The size at which a writer begins the next segment.
pub(crate) const SEGMENT_BYTES: u64 = 512 << 20;
/// The level is fast enough to keep up with hashing. The store is on the developer's disk, where
/// space is cheap.
const ZSTD_LEVEL: i32 = 1;
const EXTENSION: &str = "seg";

/// The kind of a record. It says what the payload and the key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A chunk's bytes. Key: BLAKE3 of the payload.
    Chunk = 1,
    /// The chunks of a content. Key: SHA-256 of the content.
    Content = 2,
    /// A manifest's bytes. Key: BLAKE3 of the payload.
    Manifest = 3,
    /// An event of a snapshot. Key: the snapshot's id.
    Event = 4,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Chunk, Self::Content, Self::Manifest, Self::Event]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The faults of bytes in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    /// A pipe, a directory, a link or a device stands where a segment should be.
    #[error("it is not a regular file")]
    NoFile,
    /// The file does not start as a segment does.
    #[error("the file is not a segment")]
    NoSegment,
    /// The segment was written by a newer relsync.
    #[error("the segment has version {found}, but this relsync reads version {VERSION}")]
    Version {
        /// The segment's version.
        found: u8,
    },
    /// The file ends inside a record.
    #[error("the file ends inside the record")]
    Truncated,
    /// A record's header does not match its checksum.
    #[error("the record's header is damaged")]
    Header,
    /// A record's payload does not match its checksum.
    #[error("the record's payload is damaged")]
    Payload,
    /// The record is not the one that the index names.
    #[error("another record is there")]
    OtherRecord,
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) is_compressed: bool,
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) key: [u8; 32],
    payload_crc: u32,
}

impl RecordHeader {
    fn encode(&self, salt: [u8; SALT_BYTES]) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER_BYTES);
        writer.u8(self.kind as u8);
        writer.u8(self.is_compressed.into());
        writer.u32(self.stored_bytes);
        writer.u32(self.raw_bytes);
        writer.bytes(&self.key);
        writer.u32(self.payload_crc);
        let crc = salted_crc(salt, writer.as_slice());
        writer.u32(crc);
        writer.into_vec()
    }

    /// Returns `None` if the bytes are not a valid header of a segment with this salt.
    fn decode(salt: [u8; SALT_BYTES], bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let kind = RecordKind::from_byte(reader.u8().ok()?)?;
        let is_compressed = match reader.u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let header = Self {
            kind,
            is_compressed,
            stored_bytes: reader.u32().ok()?,
            raw_bytes: reader.u32().ok()?,
            key: reader.array().ok()?,
            payload_crc: reader.u32().ok()?,
        };
        let crc = salted_crc(salt, &bytes[..reader.offset()]);
        let fits =
            |length: u32| usize::try_from(length).is_ok_and(|length| length <= PAYLOAD_BYTES);
        let sound = reader.u32().ok()? == crc
            && fits(header.stored_bytes)
            && fits(header.raw_bytes)
            && (is_compressed || header.stored_bytes == header.raw_bytes);
        sound.then_some(header)
    }

    /// Returns the bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }
}

/// Returns the CRC-32 of the salt and the bytes. Because of the salt, a record that is content of
/// another segment never passes for one of this segment.
fn salted_crc(salt: [u8; SALT_BYTES], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt);
    crc.update(bytes);
    crc.finalize()
}

/// A record that is ready to be appended.
#[derive(Debug)]
pub(crate) struct PackedRecord {
    pub(crate) header: RecordHeader,
    pub(crate) payload: Vec<u8>,
}

impl PackedRecord {
    /// Returns the number of bytes that the record takes in a segment.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Compresses a payload, unless that saves nothing. Returns `None` if it is larger than
/// [`PAYLOAD_BYTES`].
pub(crate) fn pack(
    kind: RecordKind,
    key: [u8; 32],
    raw: &[u8],
) -> io::Result<Option<PackedRecord>> {
    if raw.len() > PAYLOAD_BYTES {
        return Ok(None);
    }
    let compressed = compress(raw)?;
    let is_compressed = compressed.len() < raw.len() - raw.len() / 32;
    let payload = if is_compressed {
        compressed
    } else {
        raw.to_vec()
    };
    let (Ok(raw_bytes), Ok(stored_bytes)) = (raw.len().try_into(), payload.len().try_into()) else {
        return Ok(None);
    };
    let header = RecordHeader {
        kind,
        is_compressed,
        stored_bytes,
        raw_bytes,
        key,
        payload_crc: crc32fast::hash(&payload),
    };
    Ok(Some(PackedRecord { header, payload }))
}

/// Compresses with a context that each thread keeps, because making a context costs more than
/// compressing a small file.
fn compress(raw: &[u8]) -> io::Result<Vec<u8>> {
    thread_local! {
        static COMPRESSOR: std::cell::RefCell<Option<Compressor<'static>>> = const { std::cell::RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(ZSTD_LEVEL)?),
        };
        compressor.compress(raw)
    })
}

/// Returns the raw payload of a record: the inverse of [`pack`].
pub(crate) fn unpack(header: &RecordHeader, payload: &[u8]) -> Result<Vec<u8>, Damage> {
    let raw_bytes = usize::try_from(header.raw_bytes).map_err(|_| Damage::Payload)?;
    if !header.is_compressed {
        return Ok(payload.to_vec());
    }
    let raw = Decompressor::new().and_then(|mut decoder| decoder.decompress(payload, raw_bytes));
    match raw {
        Ok(raw) if raw.len() == raw_bytes => Ok(raw),
        _ => Err(Damage::Payload),
    }
}

/// A segment's name: 16 hex digits, chosen at random by the process that writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentName(pub(crate) String);

impl SegmentName {
    /// Returns `None` for what cannot be the name of a file in the store.
    pub(crate) fn new(name: String) -> Option<Self> {
        let is_sound =
            (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_sound.then_some(Self(name))
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.{EXTENSION}", self.0))
    }
}

/// Lists the segments in a directory, ascending by name. Ignores files of other names.
pub(crate) fn list_segments(dir: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        names.extend(stem.and_then(|stem| SegmentName::new(stem.to_owned())));
    }
    names.sort();
    Ok(names)
}

/// A segment that records are appended to. The process has its lock.
///
/// A new segment that was never committed is deleted when it is dropped, and bytes after the
/// committed end of an older one are cut off.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: File,
    /// The bytes that are appended and not written yet.
    buffer: Vec<u8>,
    dir: PathBuf,
    name: SegmentName,
    salt: [u8; SALT_BYTES],
    length: u64,
    /// The length that the index knows; 0 for a new segment.
    committed: u64,
    is_own: bool,
    is_synced: bool,
    is_named: bool,
}

impl SegmentWriter {
    /// Creates a segment under a random name.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        loop {
            let mut salt = [0; SALT_BYTES];
            getrandom::fill(&mut salt).map_err(io::Error::other)?;
            let name = SegmentName(format!("{:016x}", u64::from_be_bytes(salt)));
            fault::step("create a segment");
            let file = private::create_file(&name.path(dir))?;
            lock::try_exclusive(&file)?;
            if file.metadata()?.nlink() == 0 {
                // Another process found it before it was locked, and took it for left.
                continue;
            }
            let mut writer = Self::new(file, dir, name, salt, 0);
            let mut header = Writer::new();
            header.bytes(MAGIC);
            header.u8(VERSION);
            header.bytes(&salt);
            writer.buffer.extend_from_slice(header.as_slice());
            writer.length = FILE_HEADER_BYTES as u64;
            return Ok(writer);
        }
    }

    /// Goes on with a segment that the index knows up to a length. What is after it was never
    /// committed and is cut off. Returns `None` if another process writes to it.
    pub(crate) fn resume(dir: &Path, name: &SegmentName, length: u64) -> io::Result<Option<Self>> {
        let mut file = private::open_file(&name.path(dir), true)?;
        if lock::try_exclusive(&file)? != Lock::Taken {
            return Ok(None);
        }
        let there = file.metadata()?.len();
        let mut header = [0; FILE_HEADER_BYTES];
        file.read_exact(&mut header)?;
        let Ok(salt) = read_file_header(&header) else {
            return Ok(None);
        };
        if there < length || length < FILE_HEADER_BYTES as u64 {
            return Ok(None);
        }
        if there > length {
            file.set_len(length)?;
        }
        file.seek(SeekFrom::Start(length))?;
        let mut writer = Self::new(file, dir, name.clone(), salt, length);
        writer.is_named = true;
        Ok(Some(writer))
    }

    fn new(
        file: File,
        dir: &Path,
        name: SegmentName,
        salt: [u8; SALT_BYTES],
        committed: u64,
    ) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            dir: dir.to_owned(),
            name,
            salt,
            length: committed,
            committed,
            is_own: committed == 0,
            is_synced: false,
            is_named: false,
        }
    }

    pub(crate) fn name(&self) -> &SegmentName {
        &self.name
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Tells whether this process created the segment.
    pub(crate) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Tells whether the segment is so large that the next record belongs in another one.
    pub(crate) fn is_full(&self) -> bool {
        self.length >= SEGMENT_BYTES
    }

    /// Appends a record and returns its offset.
    pub(crate) fn append(&mut self, record: &PackedRecord) -> io::Result<u64> {
        let offset = self.length;
        self.is_synced = false;
        self.buffer.extend(record.header.encode(self.salt));
        self.buffer.extend_from_slice(&record.payload);
        if self.buffer.len() >= limits::MIB {
            self.flush()?;
        }
        self.length += record.header.record_bytes();
        Ok(offset)
    }

    /// Makes all appended records, and the segment's name, survive a power failure.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.is_synced {
            return Ok(());
        }
        self.flush()?;
        fault::step("sync a segment");
        self.file.sync_data()?;
        if !self.is_named {
            File::open(&self.dir)?.sync_all()?;
            self.is_named = true;
        }
        self.is_synced = true;
        Ok(())
    }

    /// Notes that the index names everything that was appended.
    pub(crate) fn commit(&mut self) {
        self.committed = self.length;
    }

    fn flush(&mut self) -> io::Result<()> {
        fault::step("write to a segment");
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if self.committed == self.length {
            return;
        }
        if self.committed == 0 {
            let _ = fs::remove_file(self.name.path(&self.dir));
        } else {
            // Only records that no index names go, so no reader looks at them.
            let _ = self.file.set_len(self.committed);
        }
    }
}

/// A segment open for reading.
#[derive(Debug)]
pub(crate) struct Segment {
    map: MappedFile,
    salt: [u8; SALT_BYTES],
}

/// A part of a segment.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A sound record.
    Record {
        offset: u64,
        header: RecordHeader,
        payload: &'a [u8],
    },
    /// Bytes that are not a valid record, up to the next sound one or the end of the file.
    Damaged(Range<u64>),
}

impl Segment {
    pub(crate) fn open(path: &Path) -> io::Result<Result<Self, Damage>> {
        let map = match MappedFile::open(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Err(Damage::NoFile));
            }
            map => map?,
        };
        Ok(read_file_header(map.bytes()).map(|salt| Self { map, salt }))
    }

    pub(crate) fn length(&self) -> u64 {
        self.map.bytes().len() as u64
    }

    /// Returns the record at an offset, after checking its payload against its checksum.
    pub(crate) fn record_at(&self, offset: u64) -> Result<(RecordHeader, &[u8]), Damage> {
        let offset = usize::try_from(offset).map_err(|_| Damage::Truncated)?;
        let rest = self.map.bytes().get(offset..).ok_or(Damage::Truncated)?;
        let (header, rest) = rest
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(Damage::Truncated)?;
        let header = RecordHeader::decode(self.salt, header).ok_or(Damage::Header)?;
        let length = usize::try_from(header.stored_bytes).map_err(|_| Damage::Header)?;
        let payload = rest.get(..length).ok_or(Damage::Truncated)?;
        if crc32fast::hash(payload) != header.payload_crc {
            return Err(Damage::Payload);
        }
        Ok((header, payload))
    }

    /// Calls `visit` for every part of the segment, in order. After damaged bytes, it looks for the
    /// next place where a sound record starts.
    pub(crate) fn for_each<E>(
        &self,
        mut visit: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = self.length();
        let mut offset = FILE_HEADER_BYTES as u64;
        while offset < end {
            let damaged = offset;
            while offset < end && self.record_at(offset).is_err() {
                offset += 1;
            }
            if offset > damaged {
                visit(Found::Damaged(damaged..offset))?;
            }
            if let Ok((header, payload)) = self.record_at(offset) {
                visit(Found::Record {
                    offset,
                    header,
                    payload,
                })?;
                offset += header.record_bytes();
            }
        }
        Ok(())
    }
}

fn read_file_header(bytes: &[u8]) -> Result<[u8; SALT_BYTES], Damage> {
    let mut reader = Reader::new(bytes);
    if reader.array() != Ok(*MAGIC) {
        return Err(Damage::NoSegment);
    }
    match reader.u8() {
        Ok(VERSION) => reader.array().map_err(|_| Damage::NoSegment),
        Ok(found) => Err(Damage::Version { found }),
        Err(_) => Err(Damage::NoSegment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_segment(dir: &Path, payloads: &[Vec<u8>]) -> (PathBuf, Vec<u64>) {
        let mut writer = SegmentWriter::create(dir).expect("create");
        let mut offsets = Vec::new();
        for payload in payloads {
            let key = blake3::hash(payload).into();
            let record = pack(RecordKind::Chunk, key, payload).expect("pack");
            offsets.push(writer.append(&record.expect("fits")).expect("append"));
        }
        writer.sync().expect("sync");
        writer.commit();
        (writer.name().path(dir), offsets)
    }

    fn payloads() -> Vec<Vec<u8>> {
        let noise = blake3::hash(b"seed").as_bytes().repeat(3);
        vec![b"first".to_vec(), b"again ".repeat(100), Vec::new(), noise]
    }

    fn sound_offsets(path: &Path) -> Vec<u64> {
        let mut offsets = Vec::new();
        let segment = Segment::open(path).expect("open").expect("sound");
        let visited: Result<(), ()> = segment.for_each(|found| {
            if let Found::Record { offset, .. } = found {
                offsets.push(offset);
            }
            Ok(())
        });
        assert_eq!(visited, Ok(()));
        offsets
    }

    #[test]
    fn records_come_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, offsets) = write_segment(dir.path(), &payloads());
        let segment = Segment::open(&path).expect("open").expect("sound");
        for (payload, offset) in payloads().iter().zip(&offsets) {
            let (header, stored) = segment.record_at(*offset).expect("sound");
            assert_eq!(unpack(&header, stored).as_ref(), Ok(payload));
        }
        assert_eq!(sound_offsets(&path), offsets);
    }

    #[test]
    fn a_torn_tail_hides_only_the_last_record() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, offsets) = write_segment(dir.path(), &payloads());
        let bytes = fs::read(&path).expect("read");
        for length in FILE_HEADER_BYTES..bytes.len() {
            fs::write(&path, &bytes[..length]).expect("write");
            let complete = offsets
                .iter()
                .zip(offsets.iter().skip(1).copied().chain([bytes.len() as u64]))
                .filter(|(_, end)| *end <= length as u64)
                .map(|(offset, _)| *offset);
            assert_eq!(
                sound_offsets(&path),
                complete.collect::<Vec<_>>(),
                "{length}"
            );
        }
    }

    #[test]
    fn a_changed_byte_hides_only_its_record() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, offsets) = write_segment(dir.path(), &payloads());
        let bytes = fs::read(&path).expect("read");
        for at in FILE_HEADER_BYTES..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).expect("write");
            let index = offsets.partition_point(|offset| *offset <= at as u64) - 1;
            let mut left = offsets.clone();
            left.remove(index);
            assert_eq!(sound_offsets(&path), left, "{at}");
        }
    }

    #[test]
    fn other_files_are_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.seg");
        let table: &[(&[u8], Damage)] = &[
            (b"", Damage::NoSegment),
            (b"RSSG\x01short", Damage::NoSegment),
            (b"something else altogether", Damage::NoSegment),
            (b"RSSG\x02saltsalt", Damage::Version { found: 2 }),
        ];
        for (bytes, damage) in table {
            fs::write(&path, bytes).expect("write");
            let opened = Segment::open(&path).expect("open");
            assert_eq!(opened.err().as_ref(), Some(damage));
        }
    }
}
