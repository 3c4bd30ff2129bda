//! Taking a snapshot: walk the directory, hash changed files, store them, record the snapshot.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Store;
use super::error::StoreError;
use super::filecache::{self, CachedFile, Cursor};
use super::ingest::{Ingest, Pending, hash_file};
use super::snapshot::{EventKind, NOTE_BYTES, SnapshotMeta, SnapshotRecord, is_valid_name};
use crate::tree::entry::{Entry, EntryKind, EntryPath, Mode};
use crate::tree::exclude::{Reason, Rules};
use crate::tree::id::Sha256;
use crate::tree::manifest::Manifest;
use crate::tree::root_dir::RootDir;
use crate::tree::scan::{
    FileStat, Found, FoundKind, LeftOut, Problem, ReadFileError, ScanError, Walk, walk,
};

/// The options of a scan.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// The rules for what to leave out.
    pub rules: Rules,
    /// Whether to hash every file, even if its stat is unchanged.
    pub rehash_all: bool,
}

/// The progress of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanProgress {
    /// The number of files hashed.
    pub files: u64,
    /// The number of files to be hashed. Unchanged files are not counted.
    pub total_files: u64,
    /// The number of bytes hashed.
    pub bytes: u64,
    /// The number of bytes to be hashed.
    pub total_bytes: u64,
}

/// An entry that is not part of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// Its path relative to the root.
    pub path: Vec<u8>,
    /// The rule that left it out.
    pub reason: Reason,
    /// Size and hash; present for shared libraries that could be read.
    pub content: Option<(u64, Sha256)>,
}

/// The work that taking a snapshot took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// The number of files in the snapshot.
    pub files: u64,
    /// The sum of their sizes in bytes.
    pub content_bytes: u64,
    /// The number of files that had to be read.
    pub hashed_files: u64,
    /// The sum of their sizes in bytes.
    pub hashed_bytes: u64,
    /// The number of chunks that the store did not have.
    pub new_chunks: u64,
    /// The sum of their sizes in bytes.
    pub new_chunk_bytes: u64,
    /// The bytes that these chunks take in the store.
    pub stored_bytes: u64,
    /// Whether the store did not have the snapshot before.
    pub is_new: bool,
    /// The entries that were left out, ascending by path.
    pub exclusions: Vec<Exclusion>,
}

/// A file of the snapshot whose hash is known.
struct Known {
    mode: Mode,
    stat: FileStat,
    sha256: Sha256,
}

/// The result of scanning the files.
struct Scanned {
    entries: Vec<Entry>,
    cache: Vec<CachedFile>,
    exclusions: Vec<Exclusion>,
    hashed_files: u64,
    hashed_bytes: u64,
}

pub(super) fn take_snapshot(
    store: &Store,
    root: &Path,
    options: &ScanOptions,
    meta: &SnapshotMeta,
    progress: &(dyn Fn(ScanProgress) + Sync),
) -> Result<(SnapshotRecord, Manifest, ScanReport), StoreError> {
    check_meta(meta)?;
    let walk = walk(root, &options.rules)?;
    let root_key = walk.root.path().as_os_str().as_bytes().to_vec();
    let cached = store.index.file_cache(&root_key)?;
    let cached = cached.map_or_else(Vec::new, |bytes| filecache::decode(&bytes));
    let usable = if options.rehash_all { &[][..] } else { &cached };
    let ingest = Ingest::new(store)?;
    let mut scanned = scan_files(&ingest, walk, usable, meta.now_ns, progress)?;
    let manifest = Manifest::new(std::mem::take(&mut scanned.entries))?;
    ingest.manifest(manifest.id(), manifest.sha256(), manifest.encode())?;
    let pending = ingest.pending();
    let new_cache = (scanned.cache != cached).then(|| filecache::encode(&scanned.cache));
    let new_cache = new_cache.as_deref().map(|files| (&root_key[..], files));
    let (record, is_new) = record(store, &manifest, &pending, new_cache, meta)?;
    let report = ScanReport {
        files: count(manifest.entries().iter().filter_map(Entry::content).count()),
        content_bytes: manifest.content_bytes(),
        hashed_files: scanned.hashed_files,
        hashed_bytes: scanned.hashed_bytes,
        new_chunks: count(pending.chunk_count()),
        new_chunk_bytes: pending.chunk_bytes(),
        stored_bytes: pending.stored_bytes(),
        is_new,
        exclusions: scanned.exclusions,
    };
    Ok((record, manifest, report))
}

fn check_meta(meta: &SnapshotMeta) -> Result<(), StoreError> {
    if let Some(name) = meta.name.as_ref().filter(|name| !is_valid_name(name)) {
        return Err(StoreError::InvalidName { name: name.clone() });
    }
    match meta.note.as_ref().map_or(0, String::len) {
        length if length > NOTE_BYTES => Err(StoreError::NoteTooLong { length }),
        _ => Ok(()),
    }
}

fn count(count: usize) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

/// Puts a snapshot into the store.
///
/// The order is: sync the records, change the index, append and sync the event, commit. So the
/// index never names a record that a power failure could undo.
fn record(
    store: &Store,
    manifest: &Manifest,
    pending: &Pending,
    cache: Option<(&[u8], &[u8])>,
    meta: &SnapshotMeta,
) -> Result<(SnapshotRecord, bool), StoreError> {
    let id = manifest.id();
    let is_latest = store.index.latest()?.is_some_and(|latest| latest.id == id);
    let mut is_new = false;
    let note = meta.note.clone().filter(|note| !note.is_empty());
    let is_described = meta.name.is_some() || note.is_some();
    if is_latest && pending.is_empty() && !is_described {
        store.index.write_lightly(|changes| {
            changes.see_snapshot(&id, meta.now_ns, None)?;
            put_cache(changes, cache)
        })?;
    } else {
        is_new = store.commit(|changes, appending| {
            pending.put(changes, appending)?;
            put_cache(changes, cache)?;
            let is_new = !changes.has_snapshot(&id)?;
            let kind = if is_new {
                EventKind::Taken {
                    parent: meta.parent,
                    name: meta.name.clone(),
                    note,
                }
            } else if is_described {
                let name = meta.name.clone();
                EventKind::Described { name, note }
            } else {
                EventKind::Seen
            };
            appending.events(
                changes,
                std::iter::once((id, kind)),
                meta.now_ns,
                Some(manifest),
            )?;
            Ok(is_new)
        })?;
        store.index.checkpoint()?;
    }
    let record = store.index.snapshot(&id)?;
    let record = record.ok_or(StoreError::MissingManifest { id })?;
    Ok((record, is_new))
}

fn put_cache(
    changes: &super::index::Changes<'_>,
    cache: Option<(&[u8], &[u8])>,
) -> Result<(), StoreError> {
    match cache {
        Some((root, files)) => changes.put_file_cache(root, files),
        None => Ok(()),
    }
}

/// Finds the hash of every file. It comes from the cache if the file's stat is unchanged; otherwise
/// the file is read.
fn scan_files(
    ingest: &Ingest<'_>,
    walk: Walk,
    cached: &[CachedFile],
    now_ns: i64,
    progress: &(dyn Fn(ScanProgress) + Sync),
) -> Result<Scanned, StoreError> {
    let mut cursor = Cursor::new(cached);
    let mut known: HashMap<usize, Known> = HashMap::new();
    let mut changed = Vec::new();
    for (index, found) in walk.found.iter().enumerate() {
        let FoundKind::File { mode, stat } = found.kind else {
            continue;
        };
        let file = cursor.unchanged(found.path.as_bytes(), &stat);
        match file.filter(|file| file.is_stored) {
            Some(file) => {
                let sha256 = file.sha256;
                known.insert(index, Known { mode, stat, sha256 });
            }
            None => changed.push((index, &found.path, stat.size)),
        }
    }
    let hashed = hash_changed(ingest, &walk.root, &changed, progress)?;
    let hashed_files = count(hashed.len());
    let hashed_bytes = hashed.iter().map(|(_, known)| known.stat.size).sum();
    known.extend(hashed);
    let (exclusions, mut cache) = exclusions(&walk.root, walk.left_out, cached, now_ns);
    let mut entries = Vec::with_capacity(walk.found.len());
    for (index, Found { path, kind }) in walk.found.into_iter().enumerate() {
        let kind = match (kind, known.remove(&index)) {
            (_, Some(file)) => {
                if !file.stat.is_racy(now_ns) {
                    cache.push(CachedFile {
                        path: path.as_bytes().to_vec(),
                        stat: file.stat,
                        sha256: file.sha256,
                        is_stored: true,
                    });
                }
                EntryKind::File {
                    mode: file.mode,
                    size: file.stat.size,
                    sha256: file.sha256,
                }
            }
            (FoundKind::Dir { mode }, None) => EntryKind::Dir { mode },
            (FoundKind::Symlink { target }, None) => EntryKind::Symlink { target },
            // Every file is either known or hashed. A failure to hash ended the scan above.
            (FoundKind::File { .. }, None) => continue,
        };
        entries.push(Entry { path, kind });
    }
    cache.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Scanned {
        entries,
        cache,
        exclusions,
        hashed_files,
        hashed_bytes,
    })
}

/// Reads and stores files on all threads. The error names all files that cannot be read.
fn hash_changed(
    ingest: &Ingest<'_>,
    root: &RootDir,
    changed: &[(usize, &EntryPath, u64)],
    progress: &(dyn Fn(ScanProgress) + Sync),
) -> Result<Vec<(usize, Known)>, StoreError> {
    let total_files = count(changed.len());
    let total_bytes = changed.iter().map(|(_, _, size)| size).sum();
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = |new_files: u64, new_bytes: u64| {
        progress(ScanProgress {
            files: files.fetch_add(new_files, Ordering::Relaxed) + new_files,
            total_files,
            bytes: bytes.fetch_add(new_bytes, Ordering::Relaxed) + new_bytes,
            total_bytes,
        });
    };
    let results: Vec<_> = changed
        .par_iter()
        .map(|(index, path, _)| {
            let read = ingest.file(root, path, &|bytes| report(0, count(bytes)));
            report(1, 0);
            (*index, *path, read)
        })
        .collect();
    let mut hashed = Vec::with_capacity(results.len());
    let mut problems = Vec::new();
    for (index, path, read) in results {
        match read {
            Ok((read, sha256)) => hashed.push((
                index,
                Known {
                    mode: read.mode,
                    stat: read.stat,
                    sha256,
                },
            )),
            Err(ReadFileError::Consumer(error)) => return Err(error),
            Err(ReadFileError::File(kind)) => problems.push(Problem {
                path: path.as_bytes().to_vec(),
                kind,
            }),
        }
    }
    if problems.is_empty() {
        Ok(hashed)
    } else {
        Err(ScanError::Entries { problems }.into())
    }
}

/// Hashes the shared libraries that are left out, so that a report can say which ones differ from
/// the target's.
fn exclusions(
    root: &RootDir,
    left_out: Vec<LeftOut>,
    cached: &[CachedFile],
    now_ns: i64,
) -> (Vec<Exclusion>, Vec<CachedFile>) {
    let mut cursor = Cursor::new(cached);
    let mut cache = Vec::new();
    let mut exclusions = Vec::with_capacity(left_out.len());
    for LeftOut { path, reason, stat } in left_out {
        let mut content = None;
        if let Some(stat) = stat.filter(|_| reason == Reason::SharedLibrary) {
            let file = match cursor.unchanged(&path, &stat) {
                Some(file) => Some(file.clone()),
                None => hash_left_out(root, &path),
            };
            content = file.as_ref().map(|file| (file.stat.size, file.sha256));
            cache.extend(file.filter(|file| !file.stat.is_racy(now_ns)));
        }
        exclusions.push(Exclusion {
            path,
            reason,
            content,
        });
    }
    (exclusions, cache)
}

fn hash_left_out(root: &RootDir, path: &[u8]) -> Option<CachedFile> {
    let (read, sha256) = hash_file(root, path).ok()?;
    Some(CachedFile {
        path: path.to_vec(),
        stat: read.stat,
        sha256,
        is_stored: false,
    })
}
