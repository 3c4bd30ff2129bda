//! The bytes of one update (store-format.md, "Pack").
//!
//! This module owns the pack's records, header, pieces and trailer, both ways. [`Header::encode`],
//! [`FrameHead::encode`] and [`Sealer`] write them; [`RecordReader`], [`Header::decode`] and
//! [`FrameHead::decode`] read them. It does not know the meaning of a frame's body (`delta`), nor
//! the source of content (`encode`). It is pure.
//!
//! **Invariants.** All input is untrusted. Lengths are checked against `limits` first. A record's
//! CRC is checked before the record is used. Every index is checked against the number of entries
//! that it may name.

use crate::bytes::{ReadError, Reader, Writer};
use crate::limits;
use crate::tree::id::{ManifestId, SnapshotId};

/// The version of the format that this module writes and reads.
pub const VERSION: u8 = 3;

/// The first bytes of a pack.
pub(super) const MAGIC: &[u8; 4] = b"RSPK";
const HEADER: u8 = 1;
const FRAME: u8 = 2;
const TRAILER: u8 = 3;
const RECORD_HEAD_BYTES: usize = 8;

const WHOLE_FILE: u8 = 1;
const HAS_BASE: u8 = 2;
const BASE_RANGE: u8 = 4;

/// The reasons why bytes are not a valid pack.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    /// A field is malformed.
    #[error("the pack is malformed")]
    Field(#[from] ReadError),
    /// A record does not match its checksum.
    #[error("the record at byte {offset} is damaged")]
    Crc {
        /// The offset of the record.
        offset: usize,
    },
    /// The bytes do not begin as a pack does.
    #[error("this is not a pack")]
    NotAPack,
    /// The pack has another version.
    #[error("the pack has version {0}, but this relsync reads version {VERSION}")]
    Version(u8),
    /// A record of another type was expected.
    #[error("the pack has a record of type {found} instead of type {expected}")]
    RecordType {
        /// The expected type.
        expected: u8,
        /// The type found.
        found: u8,
    },
    /// A piece names an entry that does not exist, or has flags or a size that are not allowed.
    #[error("piece {index} of a frame is malformed")]
    Piece {
        /// Its number in the frame.
        index: usize,
    },
    /// The deletions name entries that the base does not have.
    #[error("a deletion names an entry that is not there")]
    Deletion,
    /// The pack's hash does not match its bytes.
    #[error("the pack is damaged")]
    Trailer,
}

/// The header of a pack, before its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The manifest that pieces, sources and deletions refer to.
    pub base: ManifestId,
    /// The new snapshot's id.
    pub snapshot: SnapshotId,
    /// SHA-256 of the new manifest.
    pub manifest: ManifestId,
    /// The size of the new manifest in bytes.
    pub manifest_bytes: u64,
    /// The size of all files that have pieces, in bytes.
    pub content_bytes: u64,
    /// The number of frames that follow.
    pub frames: u64,
    /// The entries of the base manifest that are deleted, ascending.
    pub deletes: Vec<usize>,
    /// The new manifest, compressed with the base manifest as prefix.
    pub manifest_frame: Vec<u8>,
}

impl Header {
    /// Returns the payload of the header record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(HEADER);
        out.bytes(MAGIC);
        out.u8(VERSION);
        out.bytes(&self.base.0);
        out.bytes(&self.snapshot.0);
        out.bytes(&self.manifest.0);
        out.varint(self.manifest_bytes);
        out.varint(self.content_bytes);
        out.varint(self.frames);
        let runs = runs(&self.deletes);
        out.length(runs.len());
        for (gap, length) in runs {
            out.length(gap);
            out.length(length);
        }
        out.blob(&self.manifest_frame);
        out.into_vec()
    }

    /// Parses the payload of the header record. `base_entries` is the number of entries that
    /// deletions may name.
    pub fn decode(payload: &[u8], base_entries: usize) -> Result<Self, PackError> {
        let mut input = Reader::new(payload);
        expect_type(&mut input, HEADER)?;
        if &input.array::<4>()? != MAGIC {
            return Err(PackError::NotAPack);
        }
        let version = input.u8()?;
        if version != VERSION {
            return Err(PackError::Version(version));
        }
        let base = ManifestId(input.array()?);
        let snapshot = SnapshotId(input.array()?);
        let manifest = ManifestId(input.array()?);
        let manifest_bytes = input.varint_up_to(limits::MANIFEST_BYTES as u64)?;
        let content_bytes = input.varint()?;
        let frames = input.varint()?;
        let deletes = decode_runs(&mut input, base_entries)?;
        let manifest_frame = input.blob(limits::PACK_HEADER_RECORD_BYTES)?.to_vec();
        input.finish()?;
        Ok(Self {
            base,
            snapshot,
            manifest,
            manifest_bytes,
            content_bytes,
            frames,
            deletes,
            manifest_frame,
        })
    }
}

/// Returns ascending indexes as runs of (gap, length).
fn runs(indexes: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut end = 0;
    for &index in indexes {
        match runs.last_mut() {
            Some((_, length)) if index == end => *length += 1,
            _ => runs.push((index - end, 1)),
        }
        end = index + 1;
    }
    runs
}

fn decode_runs(input: &mut Reader<'_>, entries: usize) -> Result<Vec<usize>, PackError> {
    let mut deletes = Vec::new();
    let mut end = 0;
    for _ in 0..input.length(entries)? {
        let start = end + input.length(entries)?;
        let length = input.length(entries)?;
        end = start + length;
        if length == 0 || end > entries {
            return Err(PackError::Deletion);
        }
        deletes.extend(start..end);
    }
    Ok(deletes)
}

/// The content of one file, or of a part of it, in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The file's index in the new manifest.
    pub entry: usize,
    /// The piece's length in bytes; `None` for the whole file.
    pub length: Option<usize>,
    /// The content that the piece is coded against.
    pub base: Option<BaseRange>,
}

/// Held content that a piece is coded against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRange {
    /// The file's index in the base manifest.
    pub base: usize,
    /// Offset and length in bytes; `None` for the whole file.
    pub range: Option<(u64, usize)>,
}

/// The start of the numbering in a frame: the entry and base that the frames before it used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    entry: usize,
    base: usize,
}

/// The pieces of a frame. Its body follows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHead {
    /// The pieces in order.
    pub pieces: Vec<Piece>,
}

impl FrameHead {
    /// Returns the payload of a frame record, and moves the cursor past the frame.
    #[must_use]
    pub fn encode(&self, cursor: &mut Cursor, body: &[u8]) -> Vec<u8> {
        let mut out = Writer::with_capacity(body.len() + 8 * self.pieces.len() + 8);
        out.u8(FRAME);
        out.length(self.pieces.len());
        for piece in &self.pieces {
            let mut flags = 0;
            if piece.length.is_none() {
                flags |= WHOLE_FILE;
            }
            if let Some(base) = piece.base {
                flags |= HAS_BASE;
                if base.range.is_some() {
                    flags |= BASE_RANGE;
                }
            }
            out.u8(flags);
            out.length(piece.entry - cursor.entry);
            cursor.entry = piece.entry;
            if let Some(length) = piece.length {
                out.length(length);
            }
            if let Some(base) = piece.base {
                out.zigzag(difference(base.base, cursor.base));
                cursor.base = base.base;
                if let Some((offset, length)) = base.range {
                    out.varint(offset);
                    out.length(length);
                }
            }
        }
        out.bytes(body);
        out.into_vec()
    }

    /// Parses the payload of a frame record into pieces and body, and moves the cursor past the
    /// frame.
    pub fn decode<'a>(
        payload: &'a [u8],
        cursor: &mut Cursor,
        entries: usize,
        bases: usize,
    ) -> Result<(Self, &'a [u8]), PackError> {
        let mut input = Reader::new(payload);
        expect_type(&mut input, FRAME)?;
        let count = input.length(limits::FRAME_PIECES)?;
        let mut pieces = Vec::new();
        for index in 0..count {
            let malformed = PackError::Piece { index };
            let flags = input.u8()?;
            let base_flags = flags & (HAS_BASE | BASE_RANGE);
            if flags > 7 || base_flags == BASE_RANGE {
                return Err(malformed);
            }
            cursor.entry += input.length(entries)?;
            let length = match flags & WHOLE_FILE {
                0 => Some(input.length(limits::FRAME_CONTENT_BYTES)?),
                _ => None,
            };
            if cursor.entry >= entries || length == Some(0) {
                return Err(malformed);
            }
            let mut base = None;
            if flags & HAS_BASE != 0 {
                let moved = isize::try_from(input.zigzag()?).ok();
                cursor.base = moved
                    .and_then(|by| cursor.base.checked_add_signed(by))
                    .filter(|at| *at < bases)
                    .ok_or(malformed)?;
                let range = match flags & BASE_RANGE {
                    0 => None,
                    _ => Some((
                        input.varint_up_to(limits::FILE_BYTES)?,
                        input.length(limits::FRAME_MEMORY_BYTES)?,
                    )),
                };
                base = Some(BaseRange {
                    base: cursor.base,
                    range,
                });
            }
            pieces.push(Piece {
                entry: cursor.entry,
                length,
                base,
            });
        }
        Ok((Self { pieces }, input.rest()))
    }
}

fn difference(to: usize, from: usize) -> i64 {
    // Indexes are below the limit of entries in a manifest.
    i64::try_from(to).unwrap_or(i64::MAX) - i64::try_from(from).unwrap_or(i64::MAX)
}

fn expect_type(input: &mut Reader<'_>, expected: u8) -> Result<(), PackError> {
    match input.u8()? {
        found if found == expected => Ok(()),
        found => Err(PackError::RecordType { expected, found }),
    }
}

/// A writer of records. It makes records of payloads, and ends the pack with its trailer.
#[derive(Debug, Default)]
pub struct Sealer {
    sha256: sha2::Sha256,
}

impl Sealer {
    /// Returns the record that carries `payload`. Records must be made in their order in the pack.
    #[must_use]
    pub fn record(&mut self, payload: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        let mut out = Writer::with_capacity(RECORD_HEAD_BYTES + payload.len());
        // Every payload made here is far below 4 GiB; the header's limit is the largest.
        out.u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.u32(crc32fast::hash(payload));
        out.bytes(payload);
        self.sha256.update(out.as_slice());
        out.into_vec()
    }

    /// Returns the trailer record.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        use sha2::Digest;
        let mut payload = vec![TRAILER];
        payload.extend_from_slice(&self.sha256.clone().finalize());
        self.record(&payload)
    }
}

/// A reader that takes a pack apart, record by record.
#[derive(Debug)]
pub struct RecordReader<'a> {
    input: Reader<'a>,
}

impl<'a> RecordReader<'a> {
    /// Starts at the first byte of `pack`.
    #[must_use]
    pub fn new(pack: &'a [u8]) -> Self {
        Self {
            input: Reader::new(pack),
        }
    }

    /// Returns the next record's payload, which is at most `limit` bytes.
    pub fn record(&mut self, limit: usize) -> Result<&'a [u8], PackError> {
        let offset = self.input.offset();
        let length = self.input.u32()?;
        let crc = self.input.u32()?;
        if length as usize > limit {
            return Err(PackError::Field(ReadError::AboveLimit {
                offset,
                value: length.into(),
                limit: limit as u64,
            }));
        }
        let payload = self.input.bytes(length as usize)?;
        if crc32fast::hash(payload) != crc {
            return Err(PackError::Crc { offset });
        }
        Ok(payload)
    }

    /// Checks that the trailer of `pack`, and nothing else, comes next.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn finish(mut self, pack: &[u8]) -> Result<(), PackError> {
        use sha2::Digest;
        let before = self.input.offset();
        let payload = self.record(limits::PACK_RECORD_BYTES)?;
        let mut input = Reader::new(payload);
        expect_type(&mut input, TRAILER)?;
        let expected: [u8; 32] = sha2::Sha256::digest(&pack[..before]).into();
        let found = input.array::<32>()?;
        input.finish()?;
        self.input.finish()?;
        if expected == found {
            Ok(())
        } else {
            Err(PackError::Trailer)
        }
    }
}
