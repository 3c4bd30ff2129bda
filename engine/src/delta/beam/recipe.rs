//! The recipe of a BEAM file: its wrapper, its chunks in order, and the values that the decoder
//! computes.

use super::iff::{ChunkId, GZIP_HEADER_BYTES, GzipWrap, MAX_CHUNKS, Wrap};
use crate::delta::cursor::{Cursor, Malformed};
use crate::delta::zlib::Level;

const LONG_ATOMS: u8 = 1;
const VSN_IS_MD5: u8 = 2;
const FUNS_HAVE_MD5: u8 = 4;
const GZIPPED: u8 = 8;

const STRUCTURED: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Whether the lengths of atoms are compact terms.
    pub(super) long_atoms: bool,
    /// Whether the MD5 in the `vsn` attribute was cut out.
    pub(super) vsn_is_md5: bool,
    /// Whether the checksums of the fun table were left out.
    pub(super) funs_have_md5: bool,
    pub(super) gzip: Option<GzipWrap>,
    pub(super) chunks: Vec<ChunkRecipe>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChunkRecipe {
    pub(super) id: ChunkId,
    /// Whether the stream is the transformed chunk. Otherwise it is the chunk's data unchanged.
    pub(super) structured: bool,
    pub(super) wrap: Wrap,
}

impl Recipe {
    /// Returns the stream.
    pub(super) fn to_stream(&self) -> Vec<u8> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.long_atoms, LONG_ATOMS)
            | flag(self.vsn_is_md5, VSN_IS_MD5)
            | flag(self.funs_have_md5, FUNS_HAVE_MD5)
            | flag(self.gzip.is_some(), GZIPPED);
        let mut out = vec![flags];
        if let Some(GzipWrap { header, level }) = self.gzip {
            out.push(level.byte());
            out.extend_from_slice(&header);
        }
        for ChunkRecipe {
            id,
            structured,
            wrap,
        } in &self.chunks
        {
            let (wrap, level) = match *wrap {
                Wrap::Plain => (0, 0),
                Wrap::Sized(level) => (1, level.byte()),
                Wrap::CompressedTerm(level) => (2, level.byte()),
            };
            out.extend_from_slice(id);
            out.push(flag(*structured, STRUCTURED) | wrap << 1 | level << 4);
        }
        out
    }

    /// Reads a recipe: the inverse of [`Recipe::to_stream`].
    pub(super) fn from_stream(stream: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(stream);
        let flags = cursor.byte()?;
        if flags & !(LONG_ATOMS | VSN_IS_MD5 | FUNS_HAVE_MD5 | GZIPPED) != 0 {
            return Err(Malformed);
        }
        let gzip = if flags & GZIPPED == 0 {
            None
        } else {
            Some(GzipWrap {
                level: Level::read(&mut cursor)?,
                header: cursor.array::<GZIP_HEADER_BYTES>()?,
            })
        };
        let mut chunks: Vec<ChunkRecipe> = Vec::new();
        while !cursor.is_empty() {
            let id = cursor.array()?;
            let mode = cursor.byte()?;
            let wrap = match mode >> 1 & 7 {
                0 => Wrap::Plain,
                1 => Wrap::Sized(Level::of(mode >> 4)?),
                2 => Wrap::CompressedTerm(Level::of(mode >> 4)?),
                _ => return Err(Malformed),
            };
            if chunks.len() == MAX_CHUNKS || chunks.iter().any(|chunk| chunk.id == id) {
                return Err(Malformed);
            }
            chunks.push(ChunkRecipe {
                id,
                structured: mode & STRUCTURED != 0,
                wrap,
            });
        }
        Ok(Self {
            long_atoms: flags & LONG_ATOMS != 0,
            vsn_is_md5: flags & VSN_IS_MD5 != 0,
            funs_have_md5: flags & FUNS_HAVE_MD5 != 0,
            gzip,
            chunks,
        })
    }

    /// Returns whether restoring the file deflates something.
    pub(super) fn deflates(&self) -> bool {
        self.gzip.is_some() || self.chunks.iter().any(|chunk| chunk.wrap != Wrap::Plain)
    }
}
