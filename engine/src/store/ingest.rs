//! The way of files into the store: hash, cut, compress, append.
//!
//! All of this may run on many threads at once. Records are appended as soon as they are ready, and
//! [`Pending`] lists them. Only [`super::take`] puts them into the index, after a sync.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use sha2::Digest;

use super::Store;
use super::error::StoreError;
use super::index::{Changes, Location};
use super::recipe::{ChunkRef, Recipe};
use super::segment::{RecordKind, SegmentName, pack};
use crate::limits::MIB;
use crate::store::chunk::first_cut;
use crate::tree::entry::EntryPath;
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::tree::root_dir::RootDir;
use crate::tree::scan::{ConsumeError, Read as FileRead, ReadFileError, read_file};

/// The size of the part of a file that a thread has in memory at once.
const BUFFER_BYTES: usize = 4 * MIB;
/// The extra bytes of the buffer beyond a file's size. With them, the end is seen without growing
/// the buffer.
const END_MARGIN_BYTES: usize = 64;

/// A record that is appended but not in the index.
#[derive(Debug)]
struct Appended {
    at: Location,
    raw_bytes: u32,
    record_bytes: u64,
}

/// The appended records that are not in the index yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    segments: HashSet<SegmentName>,
    chunks: HashMap<ChunkId, Appended>,
    contents: HashMap<Sha256, Recipe>,
    manifests: Vec<(SnapshotId, ManifestId, Location)>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.contents.is_empty() && self.manifests.is_empty()
    }

    /// Lists the segments that records were appended to.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &SegmentName> {
        self.segments.iter()
    }

    fn use_segment(&mut self, at: &Location) {
        if !self.segments.contains(&at.segment) {
            self.segments.insert(at.segment.clone());
        }
    }

    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.chunks
            .values()
            .map(|chunk| u64::from(chunk.raw_bytes))
            .sum()
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.record_bytes).sum()
    }

    /// Puts everything into the index. The segments must be synced.
    pub(crate) fn put(&self, changes: &Changes<'_>) -> Result<(), StoreError> {
        for (id, chunk) in &self.chunks {
            let segment = changes.segment(&chunk.at.segment)?;
            changes.put_chunk(
                id,
                segment,
                chunk.at.offset,
                chunk.raw_bytes,
                chunk.record_bytes,
            )?;
        }
        for (sha256, recipe) in &self.contents {
            changes.put_content(sha256, recipe)?;
        }
        for (id, sha256, at) in &self.manifests {
            changes.put_manifest(id, sha256, changes.segment(&at.segment)?, at.offset)?;
        }
        Ok(())
    }
}

/// A run that brings contents into the store.
pub(crate) struct Ingest<'a> {
    store: &'a Store,
    pending: Mutex<Pending>,
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            pending: Mutex::default(),
        }
    }

    pub(crate) fn into_pending(self) -> Pending {
        self.pending
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a file's content. `progress` gets the number of bytes of each read.
    pub(crate) fn file(
        &self,
        root: &RootDir,
        path: &EntryPath,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<(FileRead, Sha256), ReadFileError<StoreError>> {
        let absolute = path.below(root.path());
        read_file(root, path.as_bytes(), |file, size| {
            self.content(&absolute, file, size, progress)
        })
    }

    fn content(
        &self,
        path: &Path,
        file: &mut File,
        size: u64,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Sha256, ConsumeError<StoreError>> {
        let capacity = usize::try_from(size).map_or(BUFFER_BYTES, |size| {
            size.saturating_add(END_MARGIN_BYTES).min(BUFFER_BYTES)
        });
        let mut buffer = Vec::with_capacity(capacity);
        let mut hasher = sha2::Sha256::new();
        let mut chunks = Vec::new();
        let mut is_first = true;
        loop {
            let kept = buffer.len();
            let wanted = BUFFER_BYTES - kept;
            let read = file
                .take(wanted as u64)
                .read_to_end(&mut buffer)
                .map_err(ConsumeError::Read)?;
            let is_end = read < wanted;
            progress(read);
            if is_end && is_first {
                return self
                    .small_content(path, &buffer)
                    .map_err(ConsumeError::Other);
            }
            let cuts = cut_all(&buffer, is_end);
            let ((), stored) = rayon::join(
                || hasher.update(&buffer[kept..]),
                || self.chunks(&buffer, &cuts),
            );
            chunks.extend(stored.map_err(ConsumeError::Other)?);
            if is_end {
                break;
            }
            is_first = false;
            buffer.drain(..cuts.last().map_or(0, |cut| cut.end));
        }
        let sha256 = Sha256(hasher.finalize().into());
        self.recipe(path, sha256, chunks)
            .map_err(ConsumeError::Other)?;
        Ok(sha256)
    }

    /// Stores content that is in memory as a whole. If its hash is known, it is not even cut.
    fn small_content(&self, path: &Path, content: &[u8]) -> Result<Sha256, StoreError> {
        let sha256 = Sha256::of(content);
        if !self.has_content(&sha256)? {
            let chunks = self.chunks(content, &cut_all(content, true))?;
            self.recipe(path, sha256, chunks)?;
        }
        Ok(sha256)
    }

    fn has_content(&self, sha256: &Sha256) -> Result<bool, StoreError> {
        let is_pending = self.pending().contents.contains_key(sha256);
        Ok(is_pending || self.store.index.has_content(sha256)?)
    }

    fn chunks(&self, buffer: &[u8], cuts: &[Range<usize>]) -> Result<Vec<ChunkRef>, StoreError> {
        if let [cut] = cuts {
            return Ok(vec![self.chunk(&buffer[cut.clone()])?]);
        }
        cuts.par_iter()
            .map(|cut| self.chunk(&buffer[cut.clone()]))
            .collect()
    }

    fn chunk(&self, chunk: &[u8]) -> Result<ChunkRef, StoreError> {
        let id = ChunkId::of(chunk);
        let known = self.pending().chunks.contains_key(&id) || self.store.index.has_chunk(&id)?;
        let record = if known {
            None
        } else {
            pack(RecordKind::Chunk, id.0, chunk).map_err(|source| self.store.write_error(source))?
        };
        if let Some(record) = record {
            let mut pending = self.pending();
            // Another thread may have stored the same chunk meanwhile.
            if !pending.chunks.contains_key(&id) {
                let at = self.store.append(&record)?;
                pending.use_segment(&at);
                let appended = Appended {
                    at,
                    raw_bytes: record.header.raw_bytes,
                    record_bytes: record.header.record_bytes(),
                };
                pending.chunks.insert(id, appended);
            }
        }
        let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        Ok(ChunkRef { id, bytes })
    }

    fn recipe(&self, path: &Path, sha256: Sha256, chunks: Vec<ChunkRef>) -> Result<(), StoreError> {
        if self.has_content(&sha256)? {
            return Ok(());
        }
        let size = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let recipe = Recipe { size, chunks };
        let record = pack(RecordKind::Content, sha256.0, &recipe.encode())
            .map_err(|source| self.store.write_error(source))?
            .ok_or_else(|| StoreError::FileTooLarge {
                path: path.to_owned(),
            })?;
        let mut pending = self.pending();
        if !pending.contents.contains_key(&sha256) {
            let at = self.store.append(&record)?;
            pending.use_segment(&at);
            pending.contents.insert(sha256, recipe);
        }
        Ok(())
    }

    /// Stores a manifest's bytes, unless the store has them.
    pub(crate) fn manifest(
        &self,
        id: SnapshotId,
        sha256: ManifestId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        if self.store.index.manifest(&id)?.is_some() {
            return Ok(());
        }
        let record = pack(RecordKind::Manifest, id.0, bytes)
            .map_err(|source| self.store.write_error(source))?;
        // A manifest cannot be larger than a payload may be.
        if let Some(record) = record {
            let at = self.store.append(&record)?;
            self.pending().use_segment(&at);
            self.pending().manifests.push((id, sha256, at));
        }
        Ok(())
    }
}

fn cut_all(buffer: &[u8], is_end: bool) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let mut start = 0;
    while let Some(length) = first_cut(&buffer[start..], is_end) {
        cuts.push(start..start + length);
        start += length;
    }
    cuts
}

/// Hashes a file without storing it.
pub(crate) fn hash_file(
    root: &RootDir,
    path: &[u8],
) -> Result<(FileRead, Sha256), ReadFileError<std::convert::Infallible>> {
    read_file(root, path, |file, _| {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; MIB];
        loop {
            match file.read(&mut buffer).map_err(ConsumeError::Read)? {
                0 => return Ok(Sha256(hasher.finalize().into())),
                read => hasher.update(&buffer[..read]),
            }
        }
    })
}
