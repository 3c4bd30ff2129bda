//! One entry of a release: its path and the file, directory or symlink at that path.
//!
//! Invariant: an [`EntryPath`] is relative. It has no empty component, no `.` or `..`, and no NUL
//! byte, and it does not lie in the state directory. Joining it to a root therefore never leaves
//! the root by name. A *symlink* could still lead out of the root.
//! [`Manifest`](crate::tree::manifest::Manifest) rules that out, because it knows the parents.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::limits;
use crate::tree::id::Sha256;

/// The name of the state directory, which no manifest may touch.
pub(crate) const STATE_DIR: &str = ".relsync";

/// The file that each target owns from its first install on: the cookie of its release.
const TARGETS_OWN: &[u8] = b"releases/COOKIE";

/// Tells whether a path belongs to a file that is installed only if the target has no such file. An
/// existing file is the target's own: relsync never replaces, deletes or builds on it.
#[must_use]
pub fn is_targets_own(path: &[u8]) -> bool {
    path == TARGETS_OWN
}

/// The reasons why bytes are not a valid path of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// The path has no bytes.
    #[error("the path is empty")]
    Empty,
    /// The path is longer than [`limits::PATH_BYTES`].
    #[error("the path has {length} bytes, more than {}", limits::PATH_BYTES)]
    TooLong {
        /// The path's length in bytes.
        length: usize,
    },
    /// A component is longer than [`limits::COMPONENT_BYTES`].
    #[error(
        "a component of the path has {length} bytes, more than {}",
        limits::COMPONENT_BYTES
    )]
    ComponentTooLong {
        /// The component's length in bytes.
        length: usize,
    },
    /// A component is empty: the path is absolute, ends in `/` or holds `//`.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the path has a component `.` or `..`")]
    DotComponent,
    /// The path holds a NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// The first component is the state directory's name.
    #[error("the path lies in the state directory `{STATE_DIR}`")]
    StateDir,
}

/// A relative path in a release: raw bytes, `/`-separated, ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// Checks `bytes` and takes them as a path.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        check_path(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// Returns the path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as a relative path of this platform.
    #[must_use]
    pub(crate) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns the path below `root`.
    #[must_use]
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(self.as_path())
    }

    /// Iterates over the components, at least one.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// Returns the last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self.last_slash() {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// Returns the bytes of the parent's path; `None` for a path of one component.
    #[must_use]
    pub fn parent(&self) -> Option<&[u8]> {
        self.last_slash().map(|slash| &self.0[..slash])
    }

    fn last_slash(&self) -> Option<usize> {
        self.0.iter().rposition(|byte| *byte == b'/')
    }
}

fn check_path(bytes: &[u8]) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    if bytes.len() > limits::PATH_BYTES {
        return Err(PathError::TooLong {
            length: bytes.len(),
        });
    }
    if bytes.contains(&0) {
        return Err(PathError::Nul);
    }
    for (index, component) in bytes.split(|byte| *byte == b'/').enumerate() {
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::DotComponent),
            _ if component.len() > limits::COMPONENT_BYTES => {
                return Err(PathError::ComponentTooLong {
                    length: component.len(),
                });
            }
            _ if index == 0 && component == STATE_DIR.as_bytes() => {
                return Err(PathError::StateDir);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Shows the path as text. Printable UTF-8 stays as it is; any other byte and `\` become `\xNN`.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Shows raw bytes of a name as [`EntryPath`] does, so that no file name can drive a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for character in part.valid().chars() {
                if character.is_control() || character == '\\' {
                    let mut utf8 = [0; 4];
                    escape(f, character.encode_utf8(&mut utf8).as_bytes())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            escape(f, part.invalid())?;
        }
        Ok(())
    }
}

fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// Permission bits: at most `0o7777`. Shown in octal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

impl Mode {
    /// The largest permission bits.
    pub const MAX: u32 = 0o7777;

    /// Takes permission bits; returns `None` above [`Mode::MAX`].
    #[must_use]
    pub fn new(bits: u32) -> Option<Self> {
        u16::try_from(bits)
            .ok()
            .filter(|bits| u32::from(*bits) <= Self::MAX)
            .map(Self)
    }

    /// Keeps the permission bits of a `st_mode`.
    #[must_use]
    pub(crate) fn from_st_mode(st_mode: u32) -> Self {
        let [.., high, low] = (st_mode & Self::MAX).to_be_bytes();
        Self(u16::from_be_bytes([high, low]))
    }

    /// Returns the permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode({self})")
    }
}

/// The target of a symlink: 1 to 4,096 bytes without NUL. It is stored, never followed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymlinkTarget(Box<[u8]>);

impl SymlinkTarget {
    /// Takes a symlink's target; returns `None` if no symlink can hold it.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let valid = (1..=limits::SYMLINK_TARGET_BYTES).contains(&bytes.len());
        (valid && !bytes.contains(&0)).then(|| Self(bytes.into()))
    }

    /// Returns the target's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Escapes the target as [`EntryPath`] escapes a path.
impl fmt::Display for SymlinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.0))
    }
}

impl fmt::Debug for SymlinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The kind of an entry, with the facts that belong to that kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Permission bits.
        mode: Mode,
        /// Size in bytes, at most [`limits::FILE_BYTES`].
        size: u64,
        /// The content's hash.
        sha256: Sha256,
    },
    /// A directory, empty or not.
    Dir {
        /// Permission bits.
        mode: Mode,
    },
    /// A symbolic link.
    Symlink {
        /// The link's target.
        target: SymlinkTarget,
    },
}

/// A path and the kind of entry at that path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The entry's path, relative to the release's root.
    pub path: EntryPath,
    /// The kind of the entry.
    pub kind: EntryKind,
}

impl Entry {
    /// Returns a file's size and hash; `None` for other kinds.
    #[must_use]
    pub fn content(&self) -> Option<(u64, Sha256)> {
        match self.kind {
            EntryKind::File { size, sha256, .. } => Some((size, sha256)),
            EntryKind::Dir { .. } | EntryKind::Symlink { .. } => None,
        }
    }

    /// Returns whether this is a directory.
    #[must_use]
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, EntryKind::Dir { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked() {
        let long = [b'a'; 256];
        let deep = b"abcdefg/".repeat(512);
        let table: &[(&[u8], Option<PathError>)] = &[
            (b"a", None),
            (b"lib/app-1.0/ebin/app.beam", None),
            (b"\xff\xfe/\xf0", None),
            (b"lib/.relsync", None),
            (b".relsyncd", None),
            (b"...", None),
            (&long[..255], None),
            (b"", Some(PathError::Empty)),
            (b"/", Some(PathError::EmptyComponent)),
            (b"/a", Some(PathError::EmptyComponent)),
            (b"a/", Some(PathError::EmptyComponent)),
            (b"a//b", Some(PathError::EmptyComponent)),
            (b".", Some(PathError::DotComponent)),
            (b"a/./b", Some(PathError::DotComponent)),
            (b"a/../../b", Some(PathError::DotComponent)),
            (b"..", Some(PathError::DotComponent)),
            (b"a\0b", Some(PathError::Nul)),
            (b".relsync", Some(PathError::StateDir)),
            (b".relsync/current", Some(PathError::StateDir)),
            (&long, Some(PathError::ComponentTooLong { length: 256 })),
            (&deep[..4095], None),
            (
                &[&deep[..], b"x"].concat(),
                Some(PathError::TooLong { length: 4097 }),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(EntryPath::new(bytes).err(), *expected, "{}", Escaped(bytes));
        }
    }

    #[test]
    fn parts_of_a_path() {
        let path = EntryPath::new(b"lib/app/ebin").expect("valid");
        assert_eq!(path.name(), b"ebin");
        assert_eq!(path.parent(), Some(&b"lib/app"[..]));
        assert_eq!(path.components().count(), 3);
        assert_eq!(
            path.below(Path::new("/srv")),
            Path::new("/srv/lib/app/ebin")
        );
        let top = EntryPath::new(b"bin").expect("valid");
        assert_eq!((top.name(), top.parent()), (&b"bin"[..], None));
    }

    #[test]
    fn names_are_shown_without_control_characters() {
        let table: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            ("größe".as_bytes(), "größe"),
            (b"a\x1b[2J\n", "a\\x1b[2J\\x0a"),
            (b"\xff\\x", "\\xff\\x5cx"),
            ("\u{9b}x".as_bytes(), "\\xc2\\x9bx"),
        ];
        for (bytes, expected) in table {
            assert_eq!(Escaped(bytes).to_string(), *expected);
        }
    }

    #[test]
    fn modes_and_targets_are_bounded() {
        assert_eq!(Mode::new(0o7777).map(Mode::bits), Some(0o7777));
        assert_eq!(Mode::new(0o10000), None);
        assert_eq!(Mode::new(u32::MAX), None);
        assert_eq!(Mode::from_st_mode(0o100_644).to_string(), "0644");
        assert_eq!(SymlinkTarget::new(b""), None);
        assert_eq!(SymlinkTarget::new(b"a\0"), None);
        assert_eq!(SymlinkTarget::new(&[b'a'; 4097]), None);
        assert!(SymlinkTarget::new(&[b'a'; 4096]).is_some());
    }
}
