//! The locks of a store. Each is the system's lock of a whole file, so it ends with its process.
//!
//! | file | shared | exclusive |
//! |---|---|---|
//! | `lock` | every process that has the store open | a process that needs the store for itself |
//! | `writer` | | the process that takes in new data |
//! | a segment | | the process that appends to it |
//!
//! A process takes them in this order: `lock`, `writer`, a segment, then the index.
//!
//! Collecting garbage, repairing, and making the index need the store for themselves. The lock
//! `writer` only saves space: with it, several processes store one release once. So a process that
//! has waited long goes on without it. Where the file system has no locks, processes go on without
//! any, and garbage is not collected.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::Teller;

/// The time between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(20);
/// The time after which a process says what it waits for.
const SAID_AFTER: Duration = Duration::from_millis(500);

/// The thing that a process waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// A process that has the store for itself: it collects garbage, or rebuilds the index.
    Alone,
    /// The processes that have the store open.
    Users,
    /// A process that takes in a release.
    Writer,
    /// A process that changes the index.
    Index,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Alone => "another relsync that cleans up or repairs the store",
            Self::Users => "another relsync that has the store open",
            Self::Writer => "another relsync that takes a release into the store",
            Self::Index => "another program that has the store's index locked",
        })
    }
}

/// The function that tells the user what relsync waits for.
pub type Tell = dyn Fn(Waiting) + Send + Sync;

/// The outcome of an attempt to take a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// This process has the lock.
    Taken,
    /// Another process still has it.
    Held,
    /// The file system has no locks.
    Unknown,
}

/// Opens a lock file for writing if possible, because some file systems want that. Creates it,
/// readable by its owner only. Returns `None` if it is missing and cannot be created.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags).mode(0o600);
    match options
        .clone()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
    {
        Err(error) if is_read_only(&error) => match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        },
        opened => opened.map(Some),
    }
}

/// Tells whether an error says that a file may not be written to.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// Takes a file's lock at once, or not at all.
pub(super) fn try_exclusive(file: &File) -> io::Result<Lock> {
    outcome(file.try_lock())
}

/// Takes a file's lock, and waits for it up to `patience`. Says `waiting` if it takes a while.
pub(super) fn exclusive(
    file: &File,
    patience: Duration,
    waiting: Waiting,
    teller: &Teller,
) -> io::Result<Lock> {
    wait(|| outcome(file.try_lock()), patience, &|| {
        teller.tell(waiting)
    })
}

/// Takes a file's lock together with others who share it.
pub(super) fn shared(
    file: &File,
    patience: Duration,
    waiting: Waiting,
    teller: &Teller,
) -> io::Result<Lock> {
    wait(|| outcome(file.try_lock_shared()), patience, &|| {
        teller.tell(waiting);
    })
}

/// Repeats an attempt until it ends in something else than [`Lock::Held`].
pub(super) fn wait<E>(
    mut attempt: impl FnMut() -> Result<Lock, E>,
    patience: Duration,
    tell: &dyn Fn(),
) -> Result<Lock, E> {
    let started = Instant::now();
    let mut is_said = false;
    loop {
        let taken = attempt()?;
        let waited = started.elapsed();
        if taken != Lock::Held || waited >= patience {
            return Ok(taken);
        }
        if !is_said && waited >= SAID_AFTER {
            tell();
            is_said = true;
        }
        std::thread::sleep(PAUSE);
    }
}

fn outcome(result: Result<(), TryLockError>) -> io::Result<Lock> {
    match result {
        Ok(()) => Ok(Lock::Taken),
        Err(TryLockError::WouldBlock) => Ok(Lock::Held),
        Err(TryLockError::Error(error)) => {
            use rustix::io::Errno;
            let none = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
            if none
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            {
                Ok(Lock::Unknown)
            } else {
                Err(error)
            }
        }
    }
}
