//! Files mapped into memory.
//!
//! Only files that nobody shortens may be mapped: reading a page past the end of a shortened file
//! kills the process. So relsync maps segments of the object store. Only bytes that no index names
//! are ever cut off, and only a process that has the store for itself reads those. It never maps
//! files of a release, which a build may rewrite at any moment.

use std::io;
use std::path::Path;

use memmap2::Mmap;

use super::private;

/// A read-only view of a file's bytes as they were when the file was opened.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps all of a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = private::open_file(path, false)?;
        #[expect(
            unsafe_code,
            reason = "the caller maps only files that are never shortened or rewritten"
        )]
        // SAFETY: no code changes a byte of a segment that the index names, or cuts it off. Only
        // such bytes are read, but for a process that has the store for itself, so that nobody
        // writes. Another program that shortens a segment damages the store anyway.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Returns the file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
