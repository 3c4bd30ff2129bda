//! Files that decide what relsync does, read only if nobody else could have written them.
//!
//! relsync looks for some files by itself: `relsync.toml`, hooks, the user's own configuration. A
//! directory like `/tmp` may hold such a file of somebody else. As `ssh` does it (`StrictModes`), a
//! file is refused unless it and its directory belong to the user or root, and nobody else may write
//! to either. A directory with the sticky bit, like `/tmp`, is no exception. Its group may write if
//! the group has no other member than the file's owner: Debian's `ssh` does the same, because many
//! systems give each user a group and a umask of 002. A link is held to the same rules, and so is
//! what it leads to.
//!
//! The release of the working directory is held to the same rules: `./_rel`, unless the user names
//! one. Its content is not looked at.
//!
//! A file that the user names is read whoever it belongs to. Every file must be a regular one, and is
//! read up to a limit: a FIFO does not block relsync, and a device is not read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use relsync_engine::tree::owner::{is_own, is_writable_by_others};
use rustix::fs::OFlags;

/// The bits of a mode that let others do anything.
const OTHERS_ANY: u32 = 0o077;

/// The rules for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// The user named it, so its owner does not matter.
    Named,
    /// relsync found it, so nobody else may have written it.
    Found,
    /// As `Found`, and it holds secrets, so nobody else may read it either.
    Secret,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system does not give its content.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a FIFO, a socket or a device.
    #[error("{} is not a regular file", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It is not UTF-8.
    #[error("{} is not text in UTF-8", path.display())]
    Text {
        /// The file.
        path: PathBuf,
    },
    /// It is too large.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// Somebody else owns it, or its directory.
    #[error("relsync does not use {}: {} belongs to another user", path.display(), it(path, place))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The file, or its directory.
        place: PathBuf,
    },
    /// Somebody else may write to it, or to its directory.
    #[error("relsync does not use {}: other users can write to {}", path.display(), it(path, place))]
    Writable {
        /// The file.
        path: PathBuf,
        /// The file, or its directory.
        place: PathBuf,
    },
    /// Somebody else may read it.
    #[error("relsync does not use {}: other users can read it, and it is for secrets", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
    },
}

/// The place of a problem in words.
fn it(path: &Path, place: &Path) -> String {
    if path == place {
        "it".to_owned()
    } else {
        format!("its directory {}", place.display())
    }
}

impl FileError {
    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound};
        matches!(self, Self::Read { source, .. } if matches!(source.kind(), NotFound | NotADirectory))
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, rules: Rules, limit: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    // A FIFO is opened at once, though nobody writes to it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::Kind {
            path: path.to_owned(),
        });
    }
    if rules != Rules::Named {
        check(path, &metadata)?;
    }
    if rules == Rules::Secret && metadata.mode() & OTHERS_ANY != 0 {
        return Err(FileError::Readable {
            path: path.to_owned(),
        });
    }
    let mut content = Vec::new();
    let mut limited = File::take(file, limit + 1);
    limited.read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(content)
}

/// Refuses a directory that relsync found by itself, if somebody else could have made or filled it.
/// A missing one is accepted.
pub(crate) fn check_dir(path: &Path) -> Result<(), FileError> {
    match path.metadata() {
        Ok(metadata) => check(path, &metadata),
        Err(_) => Ok(()),
    }
}

/// Whether a path is a link.
pub(crate) fn is_link(path: &Path) -> bool {
    path.is_symlink()
}

/// Holds a file, its directory, and what a link leads through, to the rules.
fn check(path: &Path, opened: &Metadata) -> Result<(), FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let own = |place: &Path, metadata: &Metadata| match fault(metadata) {
        None => Ok(()),
        Some(Fault::Foreign) => Err(FileError::Foreign {
            path: path.to_owned(),
            place: place.to_owned(),
        }),
        Some(Fault::Writable) => Err(FileError::Writable {
            path: path.to_owned(),
            place: place.to_owned(),
        }),
    };
    own(path, opened)?;
    let link = path.symlink_metadata().map_err(failed)?;
    if link.is_symlink() && !is_own(link.uid()) {
        return Err(FileError::Foreign {
            path: path.to_owned(),
            place: path.to_owned(),
        });
    }
    let real = path.canonicalize().map_err(failed)?;
    // A relative path begins in the working directory, which may hold a link to another one.
    let begin = path.is_relative().then_some(Path::new("."));
    let dirs = [begin, path.parent(), real.parent()];
    for dir in dirs.into_iter().flatten() {
        if dir.as_os_str().is_empty() || dir == Path::new(".") {
            let dir = Path::new(".").canonicalize().map_err(failed)?;
            own(&dir, &dir.metadata().map_err(failed)?)?;
        } else {
            own(dir, &dir.metadata().map_err(failed)?)?;
        }
    }
    Ok(())
}

/// What is wrong with the owner or the mode of a file or directory.
enum Fault {
    Foreign,
    Writable,
}

fn fault(metadata: &Metadata) -> Option<Fault> {
    if !is_own(metadata.uid()) {
        Some(Fault::Foreign)
    } else if is_writable_by_others(metadata) {
        Some(Fault::Writable)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const NOBODY: Option<u32> = Some(65534);

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    }

    /// A directory with a file `own` in it.
    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("own"), "content").expect("a file");
        mode(&dir.path().join("own"), 0o644);
        dir
    }

    #[test]
    fn a_file_that_others_can_write_is_used_only_if_it_is_named() {
        let dir = dir();
        let path = dir.path().join("own");
        let found = |rules| read(&path, rules, 100);
        assert_eq!(found(Rules::Found).expect("its content"), b"content");
        assert!(matches!(
            found(Rules::Secret),
            Err(FileError::Readable { .. })
        ));
        // The group of the tester may be a private one, which is allowed.
        for (file, directory, place) in [
            (0o646, 0o700, &*path),
            (0o644, 0o703, dir.path()),
            (0o644, 0o1777, dir.path()),
        ] {
            mode(&path, file);
            mode(dir.path(), directory);
            let error = found(Rules::Found).expect_err("a refusal");
            assert!(
                matches!(&error, FileError::Writable { place: said, .. } if said == place),
                "{error}"
            );
            assert_eq!(found(Rules::Named).expect("its content"), b"content");
        }
        mode(&path, 0o600);
        mode(dir.path(), 0o755);
        assert_eq!(found(Rules::Secret).expect("its content"), b"content");
    }

    #[test]
    fn a_file_of_somebody_else_is_used_only_if_it_is_named() {
        let dir = dir();
        let path = dir.path().join("own");
        let aside = self::dir();
        let link = aside.path().join("link");
        symlink(&path, &link).expect("a link");
        assert_eq!(read(&link, Rules::Found, 100).expect("own"), b"content");
        // Only root can give files away.
        if chown(&path, NOBODY, NOBODY).is_err() {
            return;
        }
        for path in [&path, &link] {
            let error = read(path, Rules::Found, 100).expect_err("a refusal");
            assert!(matches!(error, FileError::Foreign { .. }), "{error}");
            assert_eq!(read(path, Rules::Named, 100).expect("named"), b"content");
        }
        chown(&path, Some(0), Some(0)).expect("given back");
        chown(dir.path(), NOBODY, NOBODY).expect("given away");
        for path in [&path, &link] {
            let error = read(path, Rules::Found, 100).expect_err("a refusal");
            assert!(
                error.to_string().contains("its directory"),
                "{path:?}: {error}"
            );
        }
    }

    #[test]
    fn only_regular_files_are_read_and_only_to_a_limit() {
        let dir = dir();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo runs").success());
        for path in [&*fifo, dir.path(), Path::new("/dev/zero")] {
            let read = read(path, Rules::Named, 100);
            assert!(matches!(read, Err(FileError::Kind { .. })), "{read:?}");
        }
        let path = dir.path().join("own");
        assert!(read(&path, Rules::Named, 7).is_ok());
        let larger = read(&path, Rules::Named, 6);
        assert!(
            matches!(larger, Err(FileError::TooLarge { limit: 6, .. })),
            "{larger:?}"
        );
        let release = dir.path().join("release");
        check_dir(&release).expect("nothing there");
        fs::create_dir(&release).expect("a directory");
        check_dir(&release).expect("own");
        let missing = read(&dir.path().join("missing"), Rules::Found, 7);
        assert!(missing.is_err_and(|error| error.is_missing()));
    }
}
