//! The check that the store holds everything it should.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::error::StoreError;
use super::index::ChunkRow;
use super::segment::{Damage, Segment, list_segments};
use super::{Store, io_error};
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256};
use crate::tree::manifest::Manifest;

/// The result of a check.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The number of snapshots checked.
    pub snapshots: u64,
    /// The number of contents checked.
    pub contents: u64,
    /// The number of chunks checked.
    pub chunks: u64,
    /// The number of bytes of chunks and contents that were read and hashed.
    pub read_bytes: u64,
    /// All problems found.
    pub problems: Vec<StoreError>,
}

/// Checks that each snapshot has its manifest, each manifest its contents, each content its chunks
/// and each chunk a sound record. With `read_data`, it also checks every byte against its hash.
pub(super) fn check(store: &Store, read_data: bool) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let chunks = check_chunks(store, read_data, &mut report)?;
    let contents = check_contents(store, &chunks, read_data, &mut report)?;
    let names = list_segments(&store.segments_dir)
        .map_err(|source| io_error("read", &store.segments_dir, source))?;
    for name in names {
        let path = name.path(&store.segments_dir);
        if let Ok(Err(damage)) = Segment::open(&path)
            && (damage == Damage::NoFile || store.index.has_segment(&name)?)
        {
            report.problems.push(StoreError::Segment {
                path,
                offset: 0,
                damage,
            });
        }
    }
    for record in store.index.snapshots()? {
        report.snapshots += 1;
        let manifest = match store.manifest(&record.id) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => {
                let id = record.id;
                report.problems.push(StoreError::MissingManifest { id });
                continue;
            }
            Err(error) => {
                report.problems.push(error);
                continue;
            }
        };
        report.problems.extend(problems(&manifest, &contents));
    }
    Ok(report)
}

/// Lists the files of a manifest whose content is missing or has another size. Each content is
/// named once.
pub(super) fn problems(manifest: &Manifest, contents: &HashMap<Sha256, u64>) -> Vec<StoreError> {
    let mut named = HashSet::new();
    let mut problems = Vec::new();
    for entry in manifest.entries() {
        let Some((size, sha256)) = Entry::content(entry) else {
            continue;
        };
        let stored = contents.get(&sha256).copied();
        if stored == Some(size) || !named.insert(sha256) {
            continue;
        }
        let (path, snapshot) = (entry.path.to_string(), manifest.id());
        problems.push(match stored {
            None => StoreError::MissingContent {
                sha256,
                path,
                snapshot,
            },
            Some(stored) => StoreError::WrongSize {
                path,
                snapshot,
                size,
                stored,
            },
        });
    }
    problems
}

fn check_chunks(
    store: &Store,
    read_data: bool,
    report: &mut CheckReport,
) -> Result<HashSet<ChunkId>, StoreError> {
    let chunks = store.index.chunks()?;
    let checked: Vec<Result<u64, StoreError>> = chunks
        .par_iter()
        .map(|ChunkRow { id, at, .. }| {
            if read_data {
                store.chunk_at(id, at).map(|chunk| chunk.len() as u64)
            } else {
                store.check_record(&id.0, at).map(|()| 0)
            }
        })
        .collect();
    for checked in checked {
        match checked {
            Ok(bytes) => report.read_bytes += bytes,
            Err(problem) => report.problems.push(problem),
        }
    }
    report.chunks = chunks.len() as u64;
    Ok(chunks.into_iter().map(|chunk| chunk.id).collect())
}

fn check_contents(
    store: &Store,
    chunks: &HashSet<ChunkId>,
    read_data: bool,
    report: &mut CheckReport,
) -> Result<HashMap<Sha256, u64>, StoreError> {
    let contents = store.index.contents()?;
    let checked: Vec<Result<u64, StoreError>> = contents
        .par_iter()
        .map(|(sha256, _)| {
            let Some(content) = store.content(sha256)? else {
                return Ok(0);
            };
            let lost = content.chunks().find(|(chunk, _)| !chunks.contains(chunk));
            if let Some((chunk, _)) = lost {
                return Err(StoreError::MissingChunk { chunk });
            }
            if read_data {
                content.copy_to(&mut std::io::sink())?;
                return Ok(content.size());
            }
            Ok(0)
        })
        .collect();
    for checked in checked {
        match checked {
            Ok(bytes) => report.read_bytes += bytes,
            Err(problem) => report.problems.push(problem),
        }
    }
    report.contents = contents.len() as u64;
    Ok(contents.into_iter().collect())
}
