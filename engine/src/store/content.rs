//! The reader of contents. It checks every chunk against its hash.

use std::io::Write;

use sha2::Digest;

use super::Store;
use super::error::StoreError;
use super::recipe::{ChunkRef, Recipe};
use crate::tree::id::{ChunkId, Sha256};

/// A content of the store, open for reading.
#[derive(Debug)]
pub struct ContentReader<'a> {
    store: &'a Store,
    sha256: Sha256,
    size: u64,
    /// The chunks in order, each with the offset of its first byte in the content.
    chunks: Vec<(u64, ChunkRef)>,
}

impl<'a> ContentReader<'a> {
    pub(super) fn new(store: &'a Store, sha256: Sha256, recipe: Recipe) -> Self {
        let mut offset = 0;
        let chunks = recipe.chunks.into_iter().map(|chunk| {
            let start = offset;
            offset += u64::from(chunk.bytes);
            (start, chunk)
        });
        Self {
            store,
            sha256,
            chunks: chunks.collect(),
            size: recipe.size,
        }
    }

    /// Returns the content's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Iterates over the chunks in order: id and size.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = (ChunkId, u32)> {
        self.chunks.iter().map(|(_, chunk)| (chunk.id, chunk.bytes))
    }

    /// Reads exactly `length` bytes, starting at `offset`.
    pub fn read_range(&self, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let wanted = length as u64;
        let end = offset.checked_add(wanted).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(StoreError::Range {
                offset,
                length: wanted,
                size: self.size,
            });
        };
        let mut bytes = Vec::with_capacity(length);
        let first = self
            .chunks
            .partition_point(|(start, chunk)| start + u64::from(chunk.bytes) <= offset);
        for (start, chunk) in &self.chunks[first..] {
            if *start >= end {
                break;
            }
            let content = self.store.chunk(chunk)?;
            let within = |at: u64| usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
            let (from, to) = (within(offset), within(end).min(content.len()));
            bytes.extend_from_slice(&content[from.min(to)..to]);
        }
        Ok(bytes)
    }

    /// Reads the whole content if it has at most `limit` bytes.
    pub fn read_all(&self, limit: usize) -> Result<Vec<u8>, StoreError> {
        match usize::try_from(self.size) {
            Ok(size) if size <= limit => self.read_range(0, size),
            _ => Err(StoreError::ContentTooLarge {
                sha256: self.sha256,
                size: self.size,
                limit: limit as u64,
            }),
        }
    }

    /// Writes the whole content chunk by chunk and checks its SHA-256 at the end.
    pub fn copy_to(&self, target: &mut dyn Write) -> Result<(), StoreError> {
        let mut hasher = sha2::Sha256::new();
        for (_, chunk) in &self.chunks {
            let content = self.store.chunk(chunk)?;
            hasher.update(&content);
            target
                .write_all(&content)
                .map_err(|source| StoreError::Io {
                    action: "write to the copy of a content from",
                    path: self.store.dir.clone(),
                    source,
                })?;
        }
        if Sha256(hasher.finalize().into()) == self.sha256 {
            Ok(())
        } else {
            Err(StoreError::WrongContent {
                sha256: self.sha256,
            })
        }
    }
}
