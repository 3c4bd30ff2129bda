//! The walk over a directory: names, kinds, modes, and the stats that tell whether a file changed.
//!
//! This module reads no content (the object store does, while it hashes) and writes nothing. It
//! never follows symlinks, so a cycle of symlinks is just a few entries. It refuses entries that no
//! release can hold (sockets, devices, FIFOs) and entries that it cannot read. The error names all
//! of them at once.
//!
//! Invariants: the entries of a [`Walk`] ascend by path, and the parent of each is among them.
//! Every file that is read lies below the root, even if directories become symlinks meanwhile.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;
use thiserror::Error;

use crate::tree::entry::{EntryPath, Escaped, Mode, PathError, SymlinkTarget};
use crate::tree::exclude::{Reason, Rules};
use crate::tree::root_dir::{Listing, RootDir, is_something_else};

/// The number of attempts to read a file that changes while it is read.
const READ_ATTEMPTS: u32 = 3;
/// The number of problems that an error message names.
const SHOWN_PROBLEMS: usize = 5;
const NS_PER_S: i64 = 1_000_000_000;
/// The longest tick assumed of a clock for time stamps. Such clocks tick every 1 to 10 ms.
const CLOCK_TICK_NS: i64 = 100_000_000;
/// The tick assumed of a time stamp of whole seconds. Its file system may store only even seconds.
const COARSE_TICK_NS: i64 = 2 * NS_PER_S;

/// The reasons why a directory cannot be scanned.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The directory does not exist or cannot be looked at.
    #[error("cannot read the directory `{}`", root.display())]
    Root {
        /// The directory as given.
        root: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The root is a file or something else.
    #[error("`{}` is not a directory", root.display())]
    NotADirectory {
        /// The path as given.
        root: PathBuf,
    },
    /// The directory is empty, or the rules leave nothing of it. Most likely it is the wrong
    /// directory.
    #[error("the directory `{}` has no entry to synchronise ({excluded} left out)", root.display())]
    Empty {
        /// The directory as given.
        root: PathBuf,
        /// The number of entries that the rules left out.
        excluded: usize,
    },
    /// Some entries cannot be in a release, or cannot be read.
    #[error("{}", list_problems(problems))]
    Entries {
        /// All of them.
        problems: Vec<Problem>,
    },
}

fn list_problems(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems
        .iter()
        .take(SHOWN_PROBLEMS)
        .map(ToString::to_string)
        .collect();
    if problems.len() > SHOWN_PROBLEMS {
        lines.push(format!("and {} more", problems.len() - SHOWN_PROBLEMS));
    }
    lines.join("; ")
}

/// An entry that stops a scan.
#[derive(Debug)]
pub struct Problem {
    /// The entry's path relative to the root.
    pub path: Vec<u8>,
    /// The fault of the entry.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", Escaped(&self.path), self.kind)
    }
}

/// The faults that an entry can have.
#[derive(Debug, Error)]
pub enum ProblemKind {
    /// It is not a file, directory or symlink.
    #[error("is a {what}, which no release can hold")]
    Special {
        /// `socket`, `FIFO`, `block device` or `character device`.
        what: &'static str,
    },
    /// The system does not allow reading it.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It changed during each attempt to read it, or it is no longer of the kind that the walk saw.
    #[error("keeps changing while it is read")]
    Changing,
    /// Its path is not allowed.
    #[error("is not allowed: {0}")]
    Path(PathError),
    /// Its target is not allowed.
    #[error("has a target that is empty or too long")]
    LinkTarget,
}

/// The facts that tell whether a file is the same one that was hashed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// The inode's number.
    pub inode: u64,
}

impl FileStat {
    /// Takes the relevant fields of a system's stat.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: time_ns(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: time_ns(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// Tells whether a later write could leave exactly this stat. That is so if the file changed
    /// shortly before `now_ns`, because its time stamp's clock may not have ticked since. The next
    /// scan hashes such a file again. (Git calls such a file racily clean.)
    #[must_use]
    pub(crate) fn is_racy(&self, now_ns: i64) -> bool {
        [self.mtime_ns, self.ctime_ns].into_iter().any(|stamp| {
            let tick = if stamp % NS_PER_S == 0 {
                COARSE_TICK_NS
            } else {
                CLOCK_TICK_NS
            };
            stamp.saturating_add(tick) >= now_ns
        })
    }
}

/// Joins seconds and nanoseconds, whose types differ between systems.
fn time_ns(seconds: impl Into<i128>, ns: impl Into<i128>) -> i64 {
    let seconds = i64::try_from(seconds.into()).unwrap_or(i64::MAX);
    let ns = i64::try_from(ns.into()).unwrap_or(0);
    seconds.saturating_mul(NS_PER_S).saturating_add(ns)
}

/// The kind of entry that the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file, not read yet.
    File {
        /// Permission bits.
        mode: Mode,
        /// The facts that tell whether the file changed.
        stat: FileStat,
    },
    /// A directory.
    Dir {
        /// Permission bits.
        mode: Mode,
    },
    /// A symlink, not followed.
    Symlink {
        /// Its target.
        target: SymlinkTarget,
    },
}

/// One entry that the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path relative to the root.
    pub path: EntryPath,
    /// Its kind.
    pub kind: FoundKind,
}

/// One entry that the rules left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path relative to the root.
    pub path: Vec<u8>,
    /// The rule that left it out.
    pub reason: Reason,
    /// Its stat; present only for a regular file.
    pub stat: Option<FileStat>,
}

/// The entries of a directory, as a walk found them.
#[derive(Debug)]
pub struct Walk {
    /// The directory, opened by its absolute path without symlinks.
    pub root: RootDir,
    /// The entries that belong to the release, ascending by path.
    pub found: Vec<Found>,
    /// The entries that the rules left out, ascending by path. Entries below a directory that is
    /// left out are not listed.
    pub left_out: Vec<LeftOut>,
}

/// Walks a directory on all of rayon's threads.
pub(crate) fn walk(root: &Path, rules: &Rules) -> Result<Walk, ScanError> {
    let dir = open_root(root)?;
    let walker = Walker {
        root: &dir,
        rules,
        collected: Mutex::default(),
    };
    rayon::scope(|scope| walker.visit(scope, Vec::new()));
    let mut collected = walker
        .collected
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if !collected.problems.is_empty() {
        collected.problems.sort_by(|a, b| a.path.cmp(&b.path));
        return Err(ScanError::Entries {
            problems: collected.problems,
        });
    }
    if collected.found.is_empty() {
        return Err(ScanError::Empty {
            root: root.to_owned(),
            excluded: collected.left_out.len(),
        });
    }
    collected.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    collected
        .left_out
        .sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Walk {
        root: dir,
        found: collected.found,
        left_out: collected.left_out,
    })
}

/// Opens the root. A failure here is an error of its own, not a problem of an entry.
fn open_root(root: &Path) -> Result<RootDir, ScanError> {
    let error = |source| ScanError::Root {
        root: root.to_owned(),
        source,
    };
    let absolute = fs::canonicalize(root).map_err(error)?;
    RootDir::open(absolute).map_err(|errno| match errno {
        Errno::NOTDIR => ScanError::NotADirectory {
            root: root.to_owned(),
        },
        errno => error(errno.into()),
    })
}

#[derive(Default)]
struct Collected {
    found: Vec<Found>,
    left_out: Vec<LeftOut>,
    problems: Vec<Problem>,
}

struct Walker<'a> {
    root: &'a RootDir,
    rules: &'a Rules,
    collected: Mutex<Collected>,
}

impl Walker<'_> {
    /// Looks at one directory and spawns a job for each directory below it. Nothing recurses, so
    /// depth costs no stack.
    fn visit<'scope>(&'scope self, scope: &rayon::Scope<'scope>, dir: Vec<u8>) {
        let mut here = Collected::default();
        match self.root.listing(&dir) {
            Ok(mut listing) => {
                while let Some(name) = listing.next_name() {
                    self.look(scope, &dir, &listing, name, &mut here);
                }
            }
            Err(error) => here.problems.push(Problem {
                path: dir,
                kind: not_opened(error),
            }),
        }
        let mut all = self
            .collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.found.append(&mut here.found);
        all.left_out.append(&mut here.left_out);
        all.problems.append(&mut here.problems);
    }

    fn look<'scope>(
        &'scope self,
        scope: &rayon::Scope<'scope>,
        dir: &[u8],
        listing: &Listing,
        name: rustix::io::Result<CString>,
        here: &mut Collected,
    ) {
        let mut path = dir.to_vec();
        let looked = name.map_err(unreadable).and_then(|name| {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let stat = listing.stat(&name).map_err(unreadable)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if let Some(reason) = self.rules.exclusion(&path, kind.is_dir()) {
                let stat = kind.is_file().then(|| FileStat::of(&stat));
                let path = path.clone();
                here.left_out.push(LeftOut { path, reason, stat });
                return Ok(());
            }
            let path = EntryPath::new(&path).map_err(ProblemKind::Path)?;
            let kind = found_kind(&stat, || listing.link_target(&name))?;
            if matches!(kind, FoundKind::Dir { .. }) {
                let below = path.as_bytes().to_vec();
                scope.spawn(move |scope| self.visit(scope, below));
            }
            here.found.push(Found { path, kind });
            Ok(())
        });
        if let Err(kind) = looked {
            here.problems.push(Problem { path, kind });
        }
    }
}

fn unreadable(error: Errno) -> ProblemKind {
    ProblemKind::Unreadable(error.into())
}

fn not_opened(error: Errno) -> ProblemKind {
    if is_something_else(error) {
        ProblemKind::Changing
    } else {
        unreadable(error)
    }
}

/// Takes the permission bits, which some systems keep in 16 bits.
fn mode_of(st_mode: impl Into<u32>) -> Mode {
    Mode::from_st_mode(st_mode.into())
}

fn found_kind(
    stat: &Stat,
    link_target: impl FnOnce() -> rustix::io::Result<Vec<u8>>,
) -> Result<FoundKind, ProblemKind> {
    let mode = mode_of(stat.st_mode);
    let special = |what| Err(ProblemKind::Special { what });
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let stat = FileStat::of(stat);
            Ok(FoundKind::File { mode, stat })
        }
        FileType::Directory => Ok(FoundKind::Dir { mode }),
        FileType::Symlink => {
            let target = link_target().map_err(|error| match error {
                // The entry is no longer a link.
                Errno::INVAL => ProblemKind::Changing,
                error => unreadable(error),
            })?;
            let target = SymlinkTarget::new(&target).ok_or(ProblemKind::LinkTarget)?;
            Ok(FoundKind::Symlink { target })
        }
        FileType::Socket => special("socket"),
        FileType::Fifo => special("FIFO"),
        FileType::BlockDevice => special("block device"),
        _ => special("character device"),
    }
}

/// The mode and stat of a file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Permission bits.
    pub mode: Mode,
    /// The stat, which was the same before and after reading.
    pub stat: FileStat,
}

/// The reasons why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadFileError<E> {
    /// The file has a fault.
    File(ProblemKind),
    /// The consumer of the content failed.
    Consumer(E),
}

/// The ways in which a consumer of content can fail.
#[derive(Debug)]
pub(crate) enum ConsumeError<E> {
    /// Reading from the file failed.
    Read(io::Error),
    /// The consumer failed for a reason of its own.
    Other(E),
}

/// Reads a file with `consume` and returns the result together with the file's mode and stat. If
/// the file changes meanwhile, it is read again.
///
/// The file may have been replaced since the walk. It is read if it is still a regular file and its
/// parents are still directories.
pub(crate) fn read_file<T, E>(
    root: &RootDir,
    path: &[u8],
    mut consume: impl FnMut(&mut File, u64) -> Result<T, ConsumeError<E>>,
) -> Result<(Read, T), ReadFileError<E>> {
    let failed = |error| ReadFileError::File(unreadable(error));
    for _ in 0..READ_ATTEMPTS {
        let mut file = match root.file(path) {
            Ok(file) => file,
            Err(error) if is_something_else(error) => continue,
            Err(error) => return Err(failed(error)),
        };
        let before = fstat(&file).map_err(failed)?;
        if !FileType::from_raw_mode(before.st_mode).is_file() {
            continue;
        }
        let stat = FileStat::of(&before);
        let made = match consume(&mut file, stat.size) {
            Ok(made) => made,
            Err(ConsumeError::Read(error)) => {
                return Err(ReadFileError::File(ProblemKind::Unreadable(error)));
            }
            Err(ConsumeError::Other(error)) => return Err(ReadFileError::Consumer(error)),
        };
        if FileStat::of(&fstat(&file).map_err(failed)?) == stat {
            let mode = mode_of(before.st_mode);
            return Ok((Read { mode, stat }, made));
        }
    }
    Err(ReadFileError::File(ProblemKind::Changing))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
