//! Writes a snapshot's entries into a directory.
//!
//! Owns the new directory until the export ends. An interrupted export leaves what it has written so
//! far. It never writes over or through anything that was there before.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use relsync_engine::store::{Store, StoreError};
use relsync_engine::tree::entry::{EntryKind, Mode};
use relsync_engine::tree::id::{Sha256, SnapshotId};
use relsync_engine::tree::manifest::Manifest;

use crate::error::CliError;

/// Writes the entries of a manifest into `dir`, which must be empty or not exist.
pub(crate) fn export(store: &Store, manifest: &Manifest, dir: &Path) -> Result<(), CliError> {
    make_root(dir)?;
    let mut dirs: Vec<(PathBuf, Mode)> = Vec::new();
    for entry in manifest.entries() {
        let path = entry.path.below(dir);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        }
        match &entry.kind {
            EntryKind::Dir { mode } => {
                fs::create_dir_all(&path).map_err(|source| failed(&path, source))?;
                dirs.push((path, *mode));
            }
            EntryKind::Symlink { target } => {
                let target = std::ffi::OsStr::from_bytes(target.as_bytes());
                symlink(target, &path).map_err(|source| failed(&path, source))?;
            }
            EntryKind::File { mode, sha256, .. } => {
                write_file(
                    store,
                    &path,
                    *mode,
                    sha256,
                    &entry.path.to_string(),
                    manifest.id(),
                )?;
            }
        }
    }
    // Modes of directories come last, and innermost first, because a directory may not be writable.
    for (path, mode) in dirs.into_iter().rev() {
        fs::set_permissions(&path, Permissions::from_mode(mode.bits()))
            .map_err(|source| failed(&path, source))?;
    }
    Ok(())
}

fn make_root(dir: &Path) -> Result<(), CliError> {
    DirBuilder::new()
        .recursive(true)
        .create(dir)
        .map_err(|source| failed(dir, source))?;
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
    mode: Mode,
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
    content.copy_to(&mut file)?;
    file.set_permissions(Permissions::from_mode(mode.bits()))
        .map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> CliError {
    CliError::Local {
        action: format!("write {}", path.display()),
        source,
    }
}
