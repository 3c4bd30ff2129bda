//! The container of a BEAM file: chunks in an IFF form. Each chunk, and the whole file, may be
//! compressed.
//!
//! Reading is strict: for every file that the reader accepts, [`Container::write`] gives the same
//! bytes again. Source: the documentation of `beam_lib`, and "The BEAM file format" in The BEAM
//! Book.

use std::borrow::Cow;

use crate::delta::cursor::{Cursor, Malformed};
use crate::delta::inflate::{self, Deflated, Deflater, Gzip, MAX_INFLATED_BYTES};
use crate::delta::zlib::{Framing, Level};

/// The maximum number of chunks. A module has a dozen chunks; a file with more than this is not a
/// module.
pub(super) const MAX_CHUNKS: usize = 64;
/// The size of the header that `beam_lib:strip/1` writes: no name, no time.
pub(super) const GZIP_HEADER_BYTES: usize = 10;

/// The first bytes of a module.
const FORM: &[u8; 4] = b"FOR1";

pub(super) type ChunkId = [u8; 4];

/// The compression of a chunk's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrap {
    /// No compression.
    Plain,
    /// A length and zlib data, as in the literal table.
    Sized(Level),
    /// A compressed external term, version byte and tag included.
    CompressedTerm(Level),
}

#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) id: ChunkId,
    pub(super) wrap: Wrap,
    /// The data as stored in the file.
    pub(super) stored: &'a [u8],
    /// The data after inflating.
    pub(super) data: Cow<'a, [u8]>,
}

/// A gzip wrapper around the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GzipWrap {
    pub(super) header: [u8; GZIP_HEADER_BYTES],
    pub(super) level: Level,
}

#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(super) gzip: Option<GzipWrap>,
    pub(super) chunks: Vec<Chunk<'a>>,
}

/// The treatment of compressed data while reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Inflate, and note the level that the headers suggest. This is for a base, which is never
    /// written again.
    Base,
    /// Inflate data that deflates to the same bytes again, and note the level that does it.
    Exact,
    /// Leave everything compressed.
    Compressed,
}

impl<'a> Container<'a> {
    /// Reads a file that is not gzipped.
    pub(super) fn read(file: &'a [u8], reading: Reading) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(file);
        if cursor.array()? != *FORM
            || cursor.be_len()? != cursor.rest().len()
            || &cursor.array()? != b"BEAM"
        {
            return Err(Malformed);
        }
        let mut chunks: Vec<Chunk<'_>> = Vec::new();
        let mut room = MAX_INFLATED_BYTES;
        while !cursor.is_empty() {
            let id: ChunkId = cursor.array()?;
            let length = cursor.be_len()?;
            let data = cursor.take(length)?;
            let padding = cursor.take(padding_len(length))?;
            let repeated = chunks.iter().any(|chunk| chunk.id == id);
            if repeated || chunks.len() == MAX_CHUNKS || padding.iter().any(|byte| *byte != 0) {
                return Err(Malformed);
            }
            chunks.push(Chunk::read(id, data, reading, &mut room));
        }
        Ok(Self { gzip: None, chunks })
    }

    /// Returns a chunk's data after inflating.
    pub(super) fn data(&self, id: ChunkId) -> Option<&[u8]> {
        self.chunk(id).map(|chunk| &*chunk.data)
    }

    /// Tells a deflater the deflated form of the chunks' data. That is valid if the container was
    /// read as [`Reading::Exact`].
    pub(super) fn teach<'c>(&'c self, deflater: &mut Deflater<'c>) {
        for chunk in &self.chunks {
            if let Some(level) = chunk.wrap.level() {
                deflater.learn(Deflated {
                    content: &chunk.data,
                    level,
                    framing: Framing::Zlib,
                    deflated: &chunk.stored[chunk.wrap.header_len()..],
                });
            }
        }
    }

    pub(super) fn chunk(&self, id: ChunkId) -> Option<&Chunk<'a>> {
        self.chunks.iter().find(|chunk| chunk.id == id)
    }

    /// Writes a file from chunks in their stored form.
    pub(super) fn write(
        gzip: Option<GzipWrap>,
        chunks: &[(ChunkId, Vec<u8>)],
        deflater: &Deflater<'_>,
    ) -> Result<Vec<u8>, Malformed> {
        let mut form = b"FOR1\0\0\0\0BEAM".to_vec();
        for (id, stored) in chunks {
            form.extend_from_slice(id);
            form.extend_from_slice(&be_len(stored.len())?);
            form.extend_from_slice(stored);
            form.resize(form.len() + padding_len(stored.len()), 0);
        }
        let length = be_len(form.len() - 8)?;
        form[4..8].copy_from_slice(&length);
        Ok(match gzip {
            None => form,
            Some(GzipWrap { header, level }) => inflate::gzip(&header, level, &form, deflater),
        })
    }
}

/// Unwraps a gzipped file, as `beam_lib:strip/1` writes it; returns `None` if the file is not
/// gzipped.
pub(super) fn unzip(
    file: &[u8],
    reading: Reading,
) -> Result<Option<(GzipWrap, Gzip<'_>)>, Malformed> {
    if reading == Reading::Compressed || !file.starts_with(&[0x1f, 0x8b]) {
        return Ok(None);
    }
    let gzip = Gzip::parse(file)?;
    if !gzip.content.starts_with(FORM) {
        return Err(Malformed);
    }
    let header = gzip.header.try_into().map_err(|_| Malformed)?;
    let likely = gzip.likely();
    let level = match reading {
        Reading::Exact => inflate::find_level(&gzip.content, gzip.deflated, likely, Framing::Raw)
            .ok_or(Malformed)?,
        _ => likely,
    };
    Ok(Some((GzipWrap { header, level }, gzip)))
}

impl<'a> Chunk<'a> {
    /// Reads a chunk. Its inflated data must fit in the remaining `room`.
    fn read(id: ChunkId, stored: &'a [u8], reading: Reading, room: &mut usize) -> Self {
        if reading != Reading::Compressed
            && let Some((wrap, data)) = unwrap(id, stored, *room)
        {
            *room -= data.len();
            let wrap = match reading {
                Reading::Exact => wrap.exact(&data, &stored[wrap.header_len()..]),
                _ => Some(wrap),
            };
            if let Some(wrap) = wrap {
                return Self {
                    id,
                    wrap,
                    stored,
                    data: Cow::Owned(data),
                };
            }
        }
        Self {
            id,
            wrap: Wrap::Plain,
            stored,
            data: Cow::Borrowed(stored),
        }
    }
}

/// Inflates a chunk. The level is the one that its header suggests.
fn unwrap(id: ChunkId, stored: &[u8], room: usize) -> Option<(Wrap, Vec<u8>)> {
    let wrap = match (&id, stored) {
        (b"LitT", [_, _, _, _, deflated @ ..]) => Wrap::Sized(Level::likely(deflated)),
        (_, [131, 80, _, _, _, _, deflated @ ..]) => Wrap::CompressedTerm(Level::likely(deflated)),
        _ => return None,
    };
    let header_len = wrap.header_len();
    let length = Cursor::new(stored.get(header_len - 4..)?).be_len().ok()?;
    // A literal table that starts with zero is not compressed.
    if length == 0 || length > room {
        return None;
    }
    let data = inflate::inflate(&stored[header_len..], length, Framing::Zlib).ok()?;
    Some((wrap, data))
}

impl Wrap {
    /// Returns the number of bytes before the zlib data.
    fn header_len(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Sized(_) => 4,
            Self::CompressedTerm(_) => 6,
        }
    }

    fn level(self) -> Option<Level> {
        match self {
            Self::Plain => None,
            Self::Sized(level) | Self::CompressedTerm(level) => Some(level),
        }
    }

    /// Returns the wrap with the level that gives exactly `deflated`.
    fn exact(self, data: &[u8], deflated: &[u8]) -> Option<Self> {
        let find = |likely| inflate::find_level(data, deflated, likely, Framing::Zlib);
        Some(match self {
            Self::Plain => Self::Plain,
            Self::Sized(likely) => Self::Sized(find(likely)?),
            Self::CompressedTerm(likely) => Self::CompressedTerm(find(likely)?),
        })
    }

    /// Returns data in the form in which the file stores it.
    pub(super) fn store(
        self,
        data: Vec<u8>,
        deflater: &Deflater<'_>,
    ) -> Result<Vec<u8>, Malformed> {
        let (mut stored, level) = match self {
            Self::Plain => return Ok(data),
            Self::Sized(level) => (Vec::new(), level),
            Self::CompressedTerm(level) => (vec![131, 80], level),
        };
        stored.extend_from_slice(&be_len(data.len())?);
        stored.extend_from_slice(&deflater.deflate(&data, level, Framing::Zlib));
        Ok(stored)
    }
}

/// Returns the padding of a chunk to a multiple of four bytes.
fn padding_len(length: usize) -> usize {
    length.wrapping_neg() & 3
}

pub(super) fn be_len(length: usize) -> Result<[u8; 4], Malformed> {
    u32::try_from(length)
        .map(u32::to_be_bytes)
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_inflated_within_a_limit() {
        let content = vec![0; 5 << 20];
        let wrap = Wrap::CompressedTerm(Level::BEST);
        let stored = wrap.store(content, &Deflater::default()).expect("a chunk");
        let chunks: Vec<(ChunkId, Vec<u8>)> =
            (b'a'..=b'z').map(|id| ([id; 4], stored.clone())).collect();
        let file = Container::write(None, &chunks, &Deflater::default()).expect("a file");
        for reading in [Reading::Base, Reading::Exact] {
            let container = Container::read(&file, reading).expect("a module");
            let lengths: Vec<usize> = container
                .chunks
                .iter()
                .map(|chunk| chunk.data.len())
                .collect();
            assert_eq!(lengths[0], 5 << 20);
            assert!(lengths[1..].iter().all(|length| *length == stored.len()));
        }
    }
}
