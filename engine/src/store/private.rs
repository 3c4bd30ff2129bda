//! Files and directories that only their owner may read, whatever the process's umask says.
//!
//! Releases hold secrets, and a release that somebody else could change would run on the targets.
//! So a store must belong to the user or to root, and nobody else may write to it. Nobody else may be
//! able to exchange it either ([`owner::check_above`](crate::tree::owner::check_above)): relsync
//! checks and uses its files by their paths. This module makes the store's files and directories, and
//! refuses those of others.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::error::StoreError;

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// The permission of the group and of others to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const OPEN_TO_OTHERS: u32 = 0o077;

/// Creates a directory and those above it, unless it exists.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
}

/// Creates a file that did not exist.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    Ok(file)
}

/// Opens an existing file if it is a regular one. Never waits for the other end of a pipe and never
/// follows a link.
pub(super) fn open_file(path: &Path, is_written: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .write(is_written)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path);
    let file = file.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR) => {
            not_regular()
        }
        _ => error,
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_regular())
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")
}

/// Refuses a directory of somebody else, and one that others may write to. A link to a directory
/// counts as that directory. One that is missing, or cannot be reached, is accepted: to make or to
/// read it gives the error.
pub(super) fn check_dir(path: &Path) -> Result<(), StoreError> {
    match fs::metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) => check(path, &metadata, rustix::process::geteuid().as_raw()),
    }
}

/// Refuses a file of somebody else, and one that others may write to. One that others may only read
/// becomes private. A missing file is accepted.
pub(super) fn check_file(path: &Path) -> Result<(), StoreError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(|source| read_error(path, source))?,
    };
    if !metadata.is_file() {
        return Err(read_error(path, not_regular()));
    }
    let user = rustix::process::geteuid().as_raw();
    check(path, &metadata, user)?;
    if metadata.mode() & OPEN_TO_OTHERS != 0 && metadata.uid() == user {
        // On a read-only medium the mode stays.
        let _ = fs::set_permissions(path, Permissions::from_mode(FILE_MODE));
    }
    Ok(())
}

fn check(path: &Path, metadata: &Metadata, user: u32) -> Result<(), StoreError> {
    let owner = metadata.uid();
    if owner != user && owner != 0 {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            owner,
        });
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(StoreError::Open {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
    }
    Ok(())
}

fn read_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}
