//! The check that the store holds everything it should.

use std::collections::HashSet;

use rayon::prelude::*;

use super::Store;
use super::error::StoreError;
use crate::tree::entry::Entry;
use crate::tree::id::{ChunkId, Sha256};

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
        let mut named = HashSet::new();
        for entry in manifest.entries() {
            let missing = Entry::content(entry)
                .filter(|(_, sha256)| !contents.contains(sha256) && named.insert(*sha256));
            if let Some((_, sha256)) = missing {
                report.problems.push(StoreError::MissingContent {
                    sha256,
                    path: entry.path.to_string(),
                    snapshot: record.id,
                });
            }
        }
    }
    Ok(report)
}

fn check_chunks(
    store: &Store,
    read_data: bool,
    report: &mut CheckReport,
) -> Result<HashSet<ChunkId>, StoreError> {
    let chunks = store.index.chunks()?;
    let checked: Vec<Result<u64, StoreError>> = chunks
        .par_iter()
        .map(|(id, at)| {
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
    Ok(chunks.into_iter().map(|(id, _)| id).collect())
}

fn check_contents(
    store: &Store,
    chunks: &HashSet<ChunkId>,
    read_data: bool,
    report: &mut CheckReport,
) -> Result<HashSet<Sha256>, StoreError> {
    let contents = store.index.contents()?;
    let checked: Vec<Result<u64, StoreError>> = contents
        .par_iter()
        .map(|sha256| {
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
