//! Files mapped into memory.
//!
//! Only files that nobody shortens may be mapped: touching a page behind the end of a shortened file kills
//! the process. So segments of the object store are mapped, which only ever grow, and files of a release,
//! which a build may rewrite at any moment, never are.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A read-only view of a file's bytes as they were when it was opened.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole of a file that is only ever appended to.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        #[expect(
            unsafe_code,
            reason = "the caller maps only files that are never shortened or rewritten"
        )]
        // SAFETY: segments are created once and appended to by one process; no code shortens them or
        // changes a byte that was written. Another program that does so damages the store anyway.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Returns the file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
