//! The way of files into the store: hash, cut, compress, append.
//!
//! All of this may run on many threads at once. Records are appended as soon as they are ready, and
//! [`Pending`] lists them. They enter the index with [`Pending::put`], within a commit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use sha2::Digest;

use super::appender::{Place, Ticket};
use super::error::StoreError;
use super::index::Changes;
use super::recipe::{ChunkRef, Recipe};
use super::segment::{RecordKind, pack};
use super::{Appending, Run, Store};
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

/// A chunk's record that is appended but not in the index.
#[derive(Debug)]
struct Appended {
    ticket: Ticket,
    raw_bytes: u32,
    record_bytes: u64,
}

/// The appended records that are not in the index yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    chunks: HashMap<ChunkId, Appended>,
    contents: HashMap<Sha256, (Recipe, Ticket)>,
    manifests: Vec<(SnapshotId, ManifestId, Ticket)>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.contents.is_empty() && self.manifests.is_empty()
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

    /// Puts everything into the index, within a commit.
    pub(super) fn put(
        &self,
        changes: &Changes<'_>,
        appending: &Appending<'_>,
    ) -> Result<(), StoreError> {
        for (id, chunk) in &self.chunks {
            if let Place::At(at) = appending.place(chunk.ticket)? {
                let segment = changes.segment(&at.segment)?;
                changes.put_chunk(id, segment, at.offset, chunk.raw_bytes, chunk.record_bytes)?;
            }
        }
        for (sha256, (recipe, ticket)) in &self.contents {
            appending.place(*ticket)?;
            changes.put_content(sha256, recipe)?;
        }
        for (id, sha256, ticket) in &self.manifests {
            if let Place::At(at) = appending.place(*ticket)? {
                changes.put_manifest(id, sha256, changes.segment(&at.segment)?, at.offset)?;
            }
        }
        Ok(())
    }
}

/// A run that brings contents into the store.
pub(crate) struct Ingest<'a> {
    store: &'a Store,
    pending: Mutex<Pending>,
    _run: Run<'a>,
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(store: &'a Store) -> Result<Self, StoreError> {
        Ok(Self {
            store,
            pending: Mutex::default(),
            _run: Run::new(store)?,
        })
    }

    /// Returns what was appended.
    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
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
            if let Entry::Vacant(place) = pending.chunks.entry(id) {
                let header = record.header;
                place.insert(Appended {
                    ticket: self.store.append(record)?,
                    raw_bytes: header.raw_bytes,
                    record_bytes: header.record_bytes(),
                });
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
        if let Entry::Vacant(place) = pending.contents.entry(sha256) {
            place.insert((recipe, self.store.append(record)?));
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
            let ticket = self.store.append(record)?;
            self.pending().manifests.push((id, sha256, ticket));
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
