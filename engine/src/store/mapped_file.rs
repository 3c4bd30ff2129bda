//! Files mapped into memory.
//!
//! Only files that nobody shortens may be mapped: reading a page past the end of a shortened file
//! kills the process. So relsync maps segments of the object store, which only ever grow. It never
//! maps files of a release, which a build may rewrite at any moment.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A read-only view of a file's bytes as they were when the file was opened.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps all of a file that is only ever appended to.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        #[expect(
            unsafe_code,
            reason = "the caller maps only files that are never shortened or rewritten"
        )]
        // SAFETY: one process creates a segment and appends to it. No code shortens a segment or
        // changes a byte that was written. Another program that does so damages the store anyway.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Returns the file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
