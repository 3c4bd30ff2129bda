//! The root directory of a scan. Everything below it is opened from its descriptor, component by
//! component, and no symlink is followed.
//!
//! Nothing outside the root is ever opened, even if someone replaces a directory by a symlink while
//! a scan runs. The caller decides where the root lies; only the root itself is opened by name.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::{Errno, Result, retry_on_intr};

/// The flags for opening a file. If a FIFO or a terminal has replaced the file, opening it must not
/// wait for the other end or become this process's terminal.
const FILE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);
const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// An open directory and its path.
#[derive(Debug)]
pub struct RootDir {
    path: PathBuf,
    fd: OwnedFd,
}

impl RootDir {
    /// Opens a directory by its path, which must not end in a symlink.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let flags = READ | OFlags::DIRECTORY;
        let fd = retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))?;
        Ok(Self { path, fd })
    }

    /// Returns the path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below the root for listing; the empty path is the root.
    pub(crate) fn listing(&self, path: &[u8]) -> Result<Listing> {
        let components = path.split(|byte| *byte == b'/');
        let mut fd = open_below(&self.fd, b".", OFlags::DIRECTORY)?;
        for name in components.filter(|name| !name.is_empty()) {
            fd = open_below(&fd, name, OFlags::DIRECTORY)?;
        }
        Dir::new(fd).map(|dir| Listing { dir })
    }

    /// Opens the entry at a path below the root for reading. It may be anything but a symlink.
    pub(crate) fn file(&self, path: &[u8]) -> Result<File> {
        let mut parent = None;
        let mut components = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = components.next() {
            let dir = parent.as_ref().unwrap_or(&self.fd);
            if components.peek().is_none() {
                return open_below(dir, name, FILE).map(File::from);
            }
            parent = Some(open_below(dir, name, OFlags::DIRECTORY)?);
        }
        Err(Errno::NOENT)
    }
}

fn open_below(dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    if name == b".." {
        return Err(Errno::INVAL);
    }
    retry_on_intr(|| openat(dir, OsStr::from_bytes(name), READ | flags, Mode::empty()))
}

/// Returns whether opening failed because a symlink or another kind of entry has replaced the
/// expected one.
pub(crate) fn is_something_else(error: Errno) -> bool {
    // Some systems report EMLINK for a symlink.
    matches!(error, Errno::LOOP | Errno::NOTDIR | Errno::MLINK)
}

/// The names in a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    dir: Dir,
}

impl Listing {
    /// Returns the next name. The names come in no particular order.
    pub(crate) fn next_name(&mut self) -> Option<Result<CString>> {
        loop {
            match self.dir.read()? {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                entry => return Some(entry.map(|entry| entry.file_name().to_owned())),
            }
        }
    }

    /// Returns an entry's stat without following a symlink.
    pub(crate) fn stat(&self, name: &CString) -> Result<Stat> {
        statat(self.dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns a symlink's target.
    pub(crate) fn link_target(&self, name: &CString) -> Result<Vec<u8>> {
        readlinkat(self.dir.fd()?, name, Vec::new()).map(CString::into_bytes)
    }
}
