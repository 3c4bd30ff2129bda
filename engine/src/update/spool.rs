//! A built pack, in a temporary file.
//!
//! This module owns the file. It has no name, and it is deleted when the pack is dropped. Several
//! senders can read it at once, each at its own offset: no cursor is shared, and nothing is written
//! once the pack is built.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::PushError;
use super::worker::blocking;
use crate::pack::encode::{ContentSource, EncodeError, PackSummary, encode_pack};
use crate::pack::{Coding, Outline};
use crate::tree::id::{PackId, SnapshotId};

/// A built pack, which can be sent to any number of targets.
#[derive(Debug)]
pub struct Pack {
    spool: Arc<File>,
    snapshot: SnapshotId,
    summary: Arc<PackSummary>,
}

impl Pack {
    /// Encodes the pack of `outline` into a temporary file in `dir`. This takes a while.
    pub fn encode(
        outline: &Outline,
        source: &dyn ContentSource,
        coding: Coding,
        dir: &Path,
    ) -> Result<Self, EncodeError> {
        let mut spool = BufWriter::new(tempfile::tempfile_in(dir).map_err(EncodeError::Sink)?);
        let mut sink = |bytes: &[u8]| spool.write_all(bytes);
        let summary = encode_pack(outline, source, coding, &mut sink)?;
        let spool = spool.into_inner();
        Ok(Self {
            spool: Arc::new(spool.map_err(|error| EncodeError::Sink(error.into_error()))?),
            snapshot: outline.snapshot(),
            summary: Arc::new(summary),
        })
    }

    /// Returns the pack's id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.summary.id
    }

    /// Returns the snapshot to which the pack brings a target.
    #[must_use]
    pub(crate) fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    /// Returns the pack's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.summary.pack_bytes
    }

    /// Returns the pack's figures and the coding of its pieces.
    #[must_use]
    pub(crate) fn summary(&self) -> &Arc<PackSummary> {
        &self.summary
    }

    /// Reads `length` bytes that begin at `offset`.
    pub(crate) async fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, PushError> {
        let spool = Arc::clone(&self.spool);
        blocking(move || {
            let mut bytes = vec![0; length];
            let read = spool.read_exact_at(&mut bytes, offset);
            read.map(|()| bytes).map_err(PushError::Spool)
        })
        .await
    }
}
