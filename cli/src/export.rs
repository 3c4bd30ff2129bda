//! Writes a snapshot's entries into a directory.
//!
//! Owns the new directory until the export ends. An interrupted export leaves what it has written so
//! far. It never writes over or through anything that was there before.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use relsync_engine::store::{Store, StoreError};
use relsync_engine::tree::entry::{EntryKind, Mode};
use relsync_engine::tree::id::{Sha256, SnapshotId};
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::tree::owner;

use crate::error::CliError;

/// The permission bits that a snapshot from elsewhere may set: read, write and execute.
const PLAIN_BITS: u32 = 0o777;

/// Writes the entries of a manifest into `dir`, which must be empty or not exist. Returns the
/// number of entries that lost a bit beyond [`PLAIN_BITS`], which only `as_is` keeps.
///
/// Somebody else may have written the store. So the sizes are checked before anything is written,
/// and compared with the free space.
pub(crate) fn export(
    store: &Store,
    manifest: &Manifest,
    dir: &Path,
    as_is: bool,
) -> Result<usize, CliError> {
    store.check_contents(manifest)?;
    check_space(manifest, dir)?;
    make_root(dir)?;
    let mut changed = 0;
    let mut bits = |mode: Mode| {
        let bits = if as_is {
            mode.bits()
        } else {
            mode.bits() & PLAIN_BITS
        };
        changed += usize::from(bits != mode.bits());
        bits
    };
    let mut dirs: Vec<(PathBuf, u32)> = Vec::new();
    for entry in manifest.entries() {
        let path = entry.path.below(dir);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        }
        match &entry.kind {
            EntryKind::Dir { mode } => {
                fs::create_dir_all(&path).map_err(|source| failed(&path, source))?;
                dirs.push((path, bits(*mode)));
            }
            EntryKind::Symlink { target } => {
                let target = std::ffi::OsStr::from_bytes(target.as_bytes());
                symlink(target, &path).map_err(|source| failed(&path, source))?;
            }
            EntryKind::File { mode, sha256, .. } => {
                write_file(
                    store,
                    &path,
                    bits(*mode),
                    sha256,
                    &entry.path.to_string(),
                    manifest.id(),
                )?;
            }
        }
    }
    // Modes of directories come last, and innermost first, because a directory may not be writable.
    for (path, mode) in dirs.into_iter().rev() {
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .map_err(|source| failed(&path, source))?;
    }
    Ok(changed)
}

/// Refuses an export that does not fit on the file system.
fn check_space(manifest: &Manifest, dir: &Path) -> Result<(), CliError> {
    let absolute = std::path::absolute(dir).map_err(|source| failed(dir, source))?;
    let there = absolute
        .ancestors()
        .find_map(|dir| rustix::fs::statvfs(dir).ok());
    let Some(system) = there else {
        return Ok(());
    };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let needed = manifest.content_bytes();
    if needed > free {
        return Err(CliError::NoRoom {
            path: dir.display().to_string(),
            needed,
            free,
        });
    }
    Ok(())
}

fn make_root(dir: &Path) -> Result<(), CliError> {
    let refused = |why: String| failed(dir, io::Error::new(io::ErrorKind::PermissionDenied, why));
    // Others could plant links in it, or exchange it, while the export runs.
    owner::check_above(dir).map_err(|error| refused(error.to_string()))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|source| failed(dir, source))?;
    let metadata = fs::metadata(dir).map_err(|source| failed(dir, source))?;
    if !owner::is_own(metadata.uid()) || owner::is_writable_by_others(&metadata) {
        let why = "the directory belongs to another user, or others may write to it";
        return Err(refused(why.to_owned()));
    }
    let mut there = fs::read_dir(dir).map_err(|source| failed(dir, source))?;
    if there.next().is_some() {
        return Err(CliError::NotEmpty {
            path: dir.display().to_string(),
        });
    }
    Ok(())
}

fn write_file(
    store: &Store,
    path: &Path,
    mode: u32,
    sha256: &Sha256,
    name: &str,
    snapshot: SnapshotId,
) -> Result<(), CliError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| failed(path, source))?;
    let content = store
        .content(sha256)?
        .ok_or_else(|| StoreError::MissingContent {
            sha256: *sha256,
            path: name.to_owned(),
            snapshot,
        })?;
    if let Err(error) = content.copy_to(&mut file) {
        // What is not the snapshot's content must not stand there as if it were.
        let _ = fs::remove_file(path);
        return Err(error.into());
    }
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> CliError {
    CliError::Local {
        action: format!("write {}", path.display()),
        source,
    }
}
