//! The rules that leave entries of a directory out of a snapshot.
//!
//! This module is pure: it looks at names, never at the disk. The first rule that applies decides:
//!
//! 1. The state directory `.relsync` at the root is always left out. So is the object store, if it
//!    lies in the directory.
//! 2. The user's rules, `include` or `exclude`, apply in the order given.
//! 3. `lib/<otp application>-<version>` is left out, because the target's own Erlang has it.
//! 4. Shared libraries, `*.so` and `*.so.<digits>`, are left out, because they are built for one
//!    kind of machine.
//! 5. At the root, the files that running or packing a release leaves there are left out: `log`,
//!    `tmp`, `erl_crash.dump`, `*.tar.gz`, `*.pipe`.
//!
//! When a directory is left out, everything below it is left out too.
//!
//! A user's pattern is a glob as in `.gitignore`. Without a slash, it matches a name at any depth.
//! With a slash (leading or inside), it matches the path from the root. A trailing slash matches
//! directories only. `*` and `?` stop at slashes; `**` does not.

use globset::{GlobBuilder, GlobMatcher};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use thiserror::Error;

use crate::tree::entry::STATE_DIR;

/// The applications of Erlang/OTP 23 to 29. `erts` is not among them: it does not lie in `lib`.
const OTP_APPLICATIONS: &[&str] = &[
    "asn1",
    "common_test",
    "compiler",
    "crypto",
    "debugger",
    "dialyzer",
    "diameter",
    "edoc",
    "eldap",
    "erl_docgen",
    "erl_interface",
    "et",
    "eunit",
    "ftp",
    "hipe",
    "inets",
    "jinterface",
    "kernel",
    "megaco",
    "mnesia",
    "observer",
    "odbc",
    "os_mon",
    "parsetools",
    "public_key",
    "reltool",
    "runtime_tools",
    "sasl",
    "snmp",
    "ssh",
    "ssl",
    "stdlib",
    "syntax_tools",
    "tftp",
    "tools",
    "wx",
    "xmerl",
];

/// Tells whether a name is that of an application of Erlang/OTP.
#[must_use]
pub fn is_otp_application(name: &[u8]) -> bool {
    OTP_APPLICATIONS
        .iter()
        .any(|known| known.as_bytes() == name)
}

/// The error for a user's pattern that is not a valid glob.
#[derive(Debug, Error)]
#[error("the pattern `{pattern}` is invalid: {source}")]
pub struct PatternError {
    /// The pattern as given.
    pub pattern: String,
    /// The fault that the glob parser found.
    pub source: globset::Error,
}

/// The effect of a user's rule on the entries it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Keep the entry, whatever later rules say.
    Include,
    /// Leave the entry out.
    Exclude,
}

/// The reason why an entry was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is relsync's own state directory.
    StateDir,
    /// It is a library of Erlang/OTP in a version of its own.
    SystemLibrary,
    /// It is a shared library.
    SharedLibrary,
    /// Running or packing a release leaves it at the release's root.
    Residue,
    /// It is the object store.
    Store,
    /// The user's pattern, as given.
    Pattern(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateDir => write!(f, "relsync's own state"),
            Self::SystemLibrary => write!(f, "system library"),
            Self::SharedLibrary => write!(f, "shared library"),
            Self::Residue => write!(f, "left by a run"),
            Self::Store => write!(f, "relsync's own store"),
            Self::Pattern(pattern) => write!(f, "--exclude {pattern}"),
        }
    }
}

/// The rules of one scan.
#[derive(Debug, Clone)]
pub struct Rules {
    user: Vec<UserRule>,
    keep_system_libs: bool,
    keep_shared_libs: bool,
    keep_residue: bool,
    /// The system libraries, such as `kernel-9.0`, that are kept whole.
    whole_system_libs: BTreeSet<Vec<u8>>,
    /// Whether all system libraries are kept whole.
    own_system_libs: bool,
    /// The object store's path, relative to the root.
    store: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct UserRule {
    action: Action,
    pattern: String,
    matcher: GlobMatcher,
    /// Whether the pattern is matched against the whole path, not only against the name.
    whole_path: bool,
    only_dirs: bool,
}

impl Default for Rules {
    /// Leaves out system libraries, shared libraries, and the files that running a release leaves.
    fn default() -> Self {
        Self {
            user: Vec::new(),
            keep_system_libs: false,
            keep_shared_libs: false,
            keep_residue: false,
            whole_system_libs: BTreeSet::new(),
            own_system_libs: false,
            store: None,
        }
    }
}

impl Rules {
    /// Returns rules that leave out nothing but the state directory.
    #[must_use]
    pub fn keep_all() -> Self {
        Self::default()
            .keep_system_libs(true)
            .keep_shared_libs(true)
            .keep_residue(true)
    }

    /// Sets whether `lib/<otp application>-<version>` is kept.
    #[must_use]
    pub fn keep_system_libs(mut self, keep: bool) -> Self {
        self.keep_system_libs = keep;
        self
    }

    /// Keeps these system libraries, such as `kernel-9.0`, together with the shared libraries in
    /// them. A system library without its shared libraries would not work.
    #[must_use]
    pub(crate) fn with_system_libs(mut self, names: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.whole_system_libs.extend(names);
        self
    }

    /// Keeps everything in every system library.
    #[must_use]
    pub(crate) fn own_system_libs(mut self) -> Self {
        self.own_system_libs = true;
        self
    }

    /// Sets whether shared libraries are kept.
    #[must_use]
    pub fn keep_shared_libs(mut self, keep: bool) -> Self {
        self.keep_shared_libs = keep;
        self
    }

    /// Sets whether files at the root that running or packing a release leaves are kept.
    #[must_use]
    pub fn keep_residue(mut self, keep: bool) -> Self {
        self.keep_residue = keep;
        self
    }

    /// Leaves out the object store at this path relative to the root.
    #[must_use]
    pub(crate) fn without_store(mut self, path: Vec<u8>) -> Self {
        self.store = Some(path);
        self
    }

    /// Whether the rules leave out a path on a target, itself or with a directory that it is in.
    #[must_use]
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = slashes.map(|(at, _)| &path[..at]);
        // The rule does not know the path's kind on the target, so either kind counts.
        parents.any(|parent| self.exclusion(parent, true).is_some())
            || self.exclusion(path, false).is_some()
            || self.exclusion(path, true).is_some()
    }

    /// Tells whether the user's rules keep an entry whatever the defaults say.
    #[must_use]
    pub fn includes(&self, path: &[u8], is_dir: bool) -> bool {
        self.user_rule(path, is_dir)
            .is_some_and(|rule| rule.action == Action::Include)
    }

    /// Appends a user's rule. Earlier rules win.
    pub fn push(&mut self, action: Action, pattern: &str) -> Result<(), PatternError> {
        let only_dirs = pattern.ends_with('/');
        let glob = pattern.trim_end_matches('/');
        let whole_path = glob.contains('/');
        let glob = glob.strip_prefix('/').unwrap_or(glob);
        let matcher = GlobBuilder::new(glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|source| PatternError {
                pattern: pattern.to_owned(),
                source,
            })?
            .compile_matcher();
        self.user.push(UserRule {
            action,
            pattern: pattern.to_owned(),
            matcher,
            whole_path,
            only_dirs,
        });
        Ok(())
    }

    /// Decides about an entry by its path relative to the root. `None` means that the entry is
    /// kept.
    #[must_use]
    pub(crate) fn exclusion(&self, path: &[u8], is_dir: bool) -> Option<Reason> {
        if path == STATE_DIR.as_bytes() {
            return Some(Reason::StateDir);
        }
        if self.store.as_deref() == Some(path) {
            return Some(Reason::Store);
        }
        if let Some(rule) = self.user_rule(path, is_dir) {
            return match rule.action {
                Action::Include => None,
                Action::Exclude => Some(Reason::Pattern(rule.pattern.clone())),
            };
        }
        if self.is_in_whole_library(path) {
            return None;
        }
        if !self.keep_system_libs && is_dir && is_system_library(path) {
            return Some(Reason::SystemLibrary);
        }
        if !self.keep_shared_libs && !is_dir && is_shared_library(name_of(path)) {
            return Some(Reason::SharedLibrary);
        }
        if !self.keep_residue && is_residue(path, is_dir) {
            return Some(Reason::Residue);
        }
        None
    }

    /// Tells whether a path is, or lies in, a system library that is kept whole.
    fn is_in_whole_library(&self, path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(b"lib/") else {
            return false;
        };
        let library = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        let dir = &path[..b"lib/".len() + library.len()];
        self.whole_system_libs.contains(library) || self.own_system_libs && is_system_library(dir)
    }

    /// Returns the first user's rule that matches an entry.
    fn user_rule(&self, path: &[u8], is_dir: bool) -> Option<&UserRule> {
        self.user.iter().find(|rule| {
            let subject = if rule.whole_path { path } else { name_of(path) };
            let applies = is_dir || !rule.only_dirs;
            applies && rule.matcher.is_match(OsStr::from_bytes(subject))
        })
    }
}

/// The last component of a path.
fn name_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

/// Tells whether running or packing a release leaves this entry at the root.
fn is_residue(path: &[u8], is_dir: bool) -> bool {
    if path.contains(&b'/') {
        return false;
    }
    match path {
        // `log` and `tmp` are often links to a disk with more space.
        b"log" | b"tmp" => true,
        b"erl_crash.dump" => !is_dir,
        name => !is_dir && (name.ends_with(b".tar.gz") || name.ends_with(b".pipe")),
    }
}

/// Tells whether a path is exactly `lib/<otp application>-<version>`.
#[must_use]
pub(crate) fn is_system_library(path: &[u8]) -> bool {
    let Some(name) = path.strip_prefix(b"lib/") else {
        return false;
    };
    let Some(dash) = name.iter().position(|byte| *byte == b'-') else {
        return false;
    };
    let (application, version) = (&name[..dash], &name[dash + 1..]);
    is_otp_application(application) && is_version(version)
}

/// Tells whether bytes are numbers separated by dots, optionally followed by `-rc` and a number.
fn is_version(version: &[u8]) -> bool {
    let candidate = version.windows(3).position(|window| window == b"-rc");
    let (version, candidate) = match candidate {
        Some(at) => (&version[..at], &version[at + 3..]),
        None => (version, &b"0"[..]),
    };
    is_number(candidate) && version.split(|byte| *byte == b'.').all(is_number)
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Tells whether a name ends in `.so` or `.so.<numbers>`.
fn is_shared_library(name: &[u8]) -> bool {
    if name.ends_with(b".so") {
        return true;
    }
    let found = name.windows(4).rposition(|window| window == b".so.");
    found.is_some_and(|at| name[at + 4..].split(|byte| *byte == b'.').all(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(user: &[(Action, &str)]) -> Rules {
        let mut rules = Rules::default();
        for (action, pattern) in user {
            rules.push(*action, pattern).expect("valid pattern");
        }
        rules
    }

    #[test]
    fn defaults() {
        let dirs: &[(&str, bool)] = &[
            (".relsync", true),
            ("lib/.relsync", false),
            ("lib/ssl-10.9", true),
            ("lib/kernel-8.5.4.2", true),
            ("lib/stdlib-6", true),
            ("lib/kernel-9.0-rc1", true),
            ("lib/rabbitmq_auth_mechanism_ssl-3.10.8", false),
            ("lib/my_tools-2.0", false),
            ("lib/bucket-1.0", false),
            ("lib/kernel", false),
            ("lib/kernel-", false),
            ("lib/kernel-8.", false),
            ("lib/kernel-x", false),
            ("lib/kernel-8.5-mine", false),
            ("lib/kernel-8.5-rc", false),
            ("erts-14.0", false),
            ("lib/erts-14.0", false),
            ("kernel-8.5", false),
            ("rel/lib/kernel-8.5", false),
            ("lib/kernel-8.5/ebin", false),
            ("x.so", false),
            ("log", true),
            ("tmp", true),
            ("logs", false),
            ("lib/app-1/log", false),
            ("releases/1/tmp", false),
            ("erl_crash.dump", false),
            ("app-1.tar.gz", false),
        ];
        for (path, left_out) in dirs {
            let found = Rules::default().exclusion(path.as_bytes(), true);
            assert_eq!(found.is_some(), *left_out, "{path}");
        }
        let files: &[(&str, bool)] = &[
            ("lib/app-1/priv/nif.so", true),
            ("x.so", true),
            ("libx.so.1", true),
            ("libx.so.1.2.3", true),
            ("libx.so.1.so.2", true),
            ("libx.so.", false),
            ("libx.so.conf", false),
            ("also", false),
            ("log", true),
            ("logs", false),
            ("erl_crash.dump", true),
            ("app-1.0.tar.gz", true),
            ("erlang.pipe", true),
            ("lib/app-1/priv/data.tar.gz", false),
            ("releases/erl_crash.dump", false),
            ("app.tar", false),
            ("widget-3.png", false),
            ("lib/kernel-8.5", false),
        ];
        for (path, left_out) in files {
            let found = Rules::default().exclusion(path.as_bytes(), false);
            assert_eq!(found.is_some(), *left_out, "{path}");
        }
    }

    #[test]
    fn system_libraries_that_are_taken_along_are_whole() {
        let rules = rules(&[(Action::Exclude, "*.erl")]).with_system_libs([b"crypto-5.1".to_vec()]);
        let table: &[(&[u8], bool, bool)] = &[
            (b"lib/crypto-5.1", true, false),
            (b"lib/crypto-5.1/priv/lib/crypto.so", false, false),
            (b"lib/crypto-5.1/src/crypto.erl", false, true),
            (b"lib/crypto-5.2", true, true),
            (b"lib/app-1/priv/nif.so", false, true),
        ];
        for (path, is_dir, left_out) in table {
            let found = rules.exclusion(path, *is_dir);
            assert_eq!(found.is_some(), *left_out, "{path:?}");
        }
    }

    #[test]
    fn switches() {
        let keep = Rules::keep_all();
        assert_eq!(keep.exclusion(b"lib/ssl-10.9", true), None);
        assert_eq!(keep.exclusion(b"a.so", false), None);
        assert_eq!(keep.exclusion(b"log", true), None);
        assert_eq!(keep.exclusion(b".relsync", true), Some(Reason::StateDir));
        let mut beside = Rules::keep_all().without_store(b"etc/store".to_vec());
        beside.push(Action::Include, "*").expect("valid pattern");
        assert_eq!(beside.exclusion(b"etc/store", true), Some(Reason::Store));
        assert_eq!(beside.exclusion(b"store", true), None);
    }

    #[test]
    fn what_is_included_is_known() {
        let rules = rules(&[(Action::Exclude, "x"), (Action::Include, "/log/")]);
        assert!(rules.includes(b"log", true));
        assert_eq!(rules.exclusion(b"log", true), None);
        assert!(!rules.includes(b"log", false) && !rules.includes(b"x", true));
        assert!(!rules.includes(b"other", false));
    }

    #[test]
    fn patterns() {
        use Action::{Exclude, Include};
        type Row<'a> = (&'a [(Action, &'a str)], &'a [u8], bool, bool);
        let table: &[Row<'_>] = &[
            (&[(Exclude, "*.log")], b"log/a/b.log", false, true),
            (&[(Exclude, "*.log")], b"b.logs", false, false),
            (&[(Exclude, "/log")], b"log", true, true),
            (&[(Exclude, "/log")], b"a/log", true, false),
            (&[(Exclude, "log/")], b"a/log", true, true),
            (&[(Exclude, "log/")], b"a/log", false, false),
            (&[(Exclude, "a/*.txt")], b"a/x.txt", false, true),
            (&[(Exclude, "a/*.txt")], b"a/b/x.txt", false, false),
            (&[(Exclude, "a/**/x.txt")], b"a/b/c/x.txt", false, true),
            (&[(Exclude, "\\*")], b"*", false, true),
            (&[(Exclude, "\\*")], b"x", false, false),
            (&[(Exclude, "*")], b"\xff\xfe", false, true),
            (
                &[(Include, "keep.log"), (Exclude, "*.log")],
                b"keep.log",
                false,
                false,
            ),
            (
                &[(Exclude, "*.log"), (Include, "keep.log")],
                b"keep.log",
                false,
                true,
            ),
            (&[(Include, "nif.so")], b"priv/nif.so", false, false),
            (&[(Include, "lib/ssl-*")], b"lib/ssl-10.9", true, false),
            (&[(Include, ".relsync")], b".relsync", true, true),
        ];
        for (user, path, is_dir, left_out) in table {
            let found = rules(user).exclusion(path, *is_dir);
            assert_eq!(found.is_some(), *left_out, "{user:?} {path:?}");
        }
        assert_eq!(
            rules(&[(Exclude, "/a/")]).exclusion(b"a", true),
            Some(Reason::Pattern("/a/".to_owned()))
        );
        assert!(Rules::default().push(Exclude, "[a").is_err());
    }
}
