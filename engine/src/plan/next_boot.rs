//! The needs of the next start of a release, read from the release's own files.
//!
//! This module reads `releases/start_erl.data` and the boot file of the version that it names from
//! a tree. It finds the directories, modules and the runtime system that the tree lacks. Other
//! modules find out whether the target has them. This module is pure: the caller gives the
//! contents.
//!
//! In a boot file, `$ROOT` is either the release itself or the target's Erlang installation. It is
//! the release if the release contains a runtime system, or if an application that only the release
//! can have lies below `$ROOT`. `$RELEASE_LIB` is the release's `lib`, as in the start script that
//! `mix release` writes.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::plan::boot_script::{BootScript, BootScriptError, START_ERL_DATA, StartErl};
use crate::tree::entry::Entry;
use crate::tree::exclude;
use crate::tree::manifest::Manifest;

/// The boot files that no release is started with.
const SIDE_BOOT_FILES: &[&[u8]] = &[b"start_clean.boot", b"no_dot_erlang.boot"];

/// The start of the release in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextBoot {
    /// The versions to start.
    pub start: StartErl,
    /// The boot file's path.
    pub file: String,
    /// Its content.
    pub script: BootScript,
    /// Whether the tree holds the runtime system that `start` names.
    pub brings_erts: bool,
    /// Whether `$ROOT` is the release's root.
    pub is_own_root: bool,
}

/// The reasons why a release cannot start, whatever the target has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NextBootError {
    /// `releases/start_erl.data` is not valid.
    #[error("{START_ERL_DATA} does not name an ERTS and a release version")]
    StartErl,
    /// The version has no boot file.
    #[error("{START_ERL_DATA} names version {version}, which has no boot file")]
    NoBootFile {
        /// The version.
        version: String,
    },
    /// A boot file is not valid.
    #[error("{path} {source}")]
    BootFile {
        /// Its path.
        path: String,
        /// The fault in it.
        source: BootScriptError,
    },
}

/// The place of a directory that a boot script names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the release, at this path.
    Release(String),
    /// A place that only the target knows, as written.
    Elsewhere(String),
}

impl NextBoot {
    /// Reads how the release in a tree starts; returns `None` if the tree does not say. A content
    /// that `content` cannot give counts as missing.
    pub fn read(
        tree: &Manifest,
        content: &mut dyn FnMut(&Entry) -> Option<Vec<u8>>,
    ) -> Result<Option<Self>, NextBootError> {
        let Some(bytes) = tree.get(START_ERL_DATA.as_bytes()).and_then(&mut *content) else {
            return Ok(None);
        };
        let start = StartErl::parse(&bytes).ok_or(NextBootError::StartErl)?;
        let no_boot_file = || NextBootError::NoBootFile {
            version: start.version.clone(),
        };
        let Some(entry) = boot_file(tree, &start.version) else {
            // Without any boot file, the release is started in another way (`erl -pa`).
            let is_boot_file = |entry: &Entry| entry.path.as_bytes().ends_with(b".boot");
            let has_boot_files = tree.entries().iter().any(is_boot_file);
            return if has_boot_files {
                Err(no_boot_file())
            } else {
                Ok(None)
            };
        };
        let file = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
        let bytes = content(entry).ok_or_else(no_boot_file)?;
        let script = BootScript::parse(&bytes).map_err(|source| NextBootError::BootFile {
            path: file.clone(),
            source,
        })?;
        let brings_erts = tree
            .get(format!("erts-{}", start.erts).as_bytes())
            .is_some();
        let is_own_root = brings_erts || has_own_root(&script, tree);
        Ok(Some(Self {
            start,
            file,
            script,
            brings_erts,
            is_own_root,
        }))
    }

    /// Returns the place of a directory.
    #[must_use]
    pub(crate) fn place(&self, written: &str) -> Place {
        let in_release = match written.split_once('/') {
            Some(("$ROOT", rest)) if self.is_own_root => normal(rest),
            Some(("$RELEASE_LIB", rest)) => normal(&format!("lib/{rest}")),
            _ => None,
        };
        in_release.map_or_else(|| Place::Elsewhere(written.to_owned()), Place::Release)
    }

    /// Lists the directories and modules that belong in the release by its boot file, but are
    /// missing in the tree. A module is listed as `lib/app-1.0/ebin/module.beam`. With `embedded`,
    /// all modules count, otherwise only those of the kernel.
    #[must_use]
    pub fn lacks(&self, tree: &Manifest, embedded: bool) -> BTreeSet<String> {
        let directories = self.script.directories();
        let mut lacking: BTreeSet<String> = directories
            .into_iter()
            .filter_map(|written| match self.place(written) {
                Place::Release(path) if !is_there(tree, &path) => Some(path),
                _ => None,
            })
            .collect();
        for load in &self.script.loads {
            let places: Vec<Place> = load
                .path
                .iter()
                .map(|written| self.place(written))
                .collect();
            // A directory elsewhere, in an archive, or missing as a whole may have the module.
            let known: Option<Vec<&str>> = places
                .iter()
                .map(|place| match place {
                    Place::Release(path) if tree.get(path.as_bytes()).is_some() => Some(&**path),
                    _ => None,
                })
                .collect();
            let Some([first, rest @ ..]) = known.as_deref() else {
                continue;
            };
            if load.embedded_only && !embedded {
                continue;
            }
            for module in &load.modules {
                let file = |dir: &str| format!("{dir}/{module}.beam");
                let is_here = |dir: &&str| tree.get(file(dir).as_bytes()).is_some();
                if !is_here(first) && !rest.iter().any(is_here) {
                    lacking.insert(file(first));
                }
            }
        }
        lacking
    }

    /// Lists the directories whose place only the target knows, as written.
    #[must_use]
    pub(crate) fn elsewhere(&self) -> BTreeSet<String> {
        let directories = self.script.directories().into_iter();
        let places = directories.map(|written| self.place(written));
        places
            .filter_map(|place| match place {
                Place::Elsewhere(written) => Some(written),
                Place::Release(_) => None,
            })
            .collect()
    }
}

/// Finds the boot file of a version. OTP's name comes first; older tools give the boot file the
/// release's name.
fn boot_file<'a>(tree: &'a Manifest, version: &str) -> Option<&'a Entry> {
    let dir = format!("releases/{version}/");
    if let Some(start) = tree.get(format!("{dir}start.boot").as_bytes()) {
        return Some(start);
    }
    tree.starting_with(dir.as_bytes()).iter().find(|entry| {
        let path = entry.path.as_bytes();
        path.len() == dir.len() + entry.path.name().len()
            && path.ends_with(b".boot")
            && !SIDE_BOOT_FILES.contains(&entry.path.name())
    })
}

/// Returns whether an application that is not part of Erlang lies below `$ROOT` and in the tree.
fn has_own_root(script: &BootScript, tree: &Manifest) -> bool {
    script.path.iter().any(|written| {
        let Some(path) = written.strip_prefix("$ROOT/").and_then(normal) else {
            return false;
        };
        let mut parts = path.splitn(3, '/');
        let (Some("lib"), Some(application)) = (parts.next(), parts.next()) else {
            return false;
        };
        let dir = format!("lib/{application}");
        !exclude::is_system_library(dir.as_bytes()) && tree.get(path.as_bytes()).is_some()
    })
}

/// Returns whether the tree has a directory, or the archive (`lib/app.ez/app/ebin`) that contains
/// it.
fn is_there(tree: &Manifest, path: &str) -> bool {
    let in_archive = path
        .match_indices(".ez/")
        .any(|(at, _)| tree.get(&path.as_bytes()[..at + 3]).is_some());
    in_archive || tree.get(path.as_bytes()).is_some()
}

/// Resolves `.` and `..` by name; returns `None` if the path leads out.
fn normal(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::boot_script::Load;
    use crate::tree::entry::{EntryKind, EntryPath, Mode};
    use crate::tree::id::Sha256;

    /// A tree of files and the directories above them.
    fn tree(files: &[&str]) -> Manifest {
        let mut entries = std::collections::BTreeMap::new();
        for file in files {
            for (at, _) in file.match_indices('/') {
                let mode = Mode::from_st_mode(0o755);
                entries.insert(file[..at].to_owned(), EntryKind::Dir { mode });
            }
            let (mode, sha256) = (Mode::from_st_mode(0o644), Sha256([7; 32]));
            let kind = EntryKind::File {
                mode,
                size: 1,
                sha256,
            };
            entries.insert((*file).to_owned(), kind);
        }
        let entry = |(path, kind): (String, EntryKind)| Entry {
            path: EntryPath::new(path.as_bytes()).expect("a path"),
            kind,
        };
        Manifest::from_unsorted(entries.into_iter().map(entry).collect()).expect("a tree")
    }

    fn next(files: &[&str], path: &[&str], loads: &[(bool, &[&str])]) -> (NextBoot, Manifest) {
        let tree = tree(files);
        let path: std::sync::Arc<[String]> = path.iter().map(|dir| (*dir).to_owned()).collect();
        let load = |(embedded_only, modules): &(bool, &[&str])| Load {
            embedded_only: *embedded_only,
            path: std::sync::Arc::clone(&path),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
        };
        let script = BootScript {
            loads: loads.iter().map(load).collect(),
            path: std::sync::Arc::clone(&path),
            ..BootScript::default()
        };
        let start = StartErl {
            erts: "14".to_owned(),
            version: "1".to_owned(),
        };
        let next = NextBoot {
            file: "releases/1/start.boot".to_owned(),
            brings_erts: tree.get(b"erts-14").is_some(),
            is_own_root: tree.get(b"erts-14").is_some() || has_own_root(&script, &tree),
            start,
            script,
        };
        (next, tree)
    }

    #[test]
    fn what_is_in_the_release_follows_from_its_root() {
        let written = "$ROOT/lib/kernel-9/ebin";
        let kernel = || Place::Release("lib/kernel-9/ebin".to_owned());
        let (next_boot, _) = next(&["erts-14/bin/erlexec"], &[written], &[]);
        assert_eq!(next_boot.place(written), kernel());
        let paths = [written, "$ROOT/lib/a-1/ebin"];
        let (next_boot, _) = next(&["lib/a-1/ebin/a.app"], &paths, &[]);
        assert_eq!(next_boot.place(written), kernel());
        // A release that contains only system libraries is not its own root.
        let (next_boot, _) = next(&["lib/kernel-9/ebin/kernel.app"], &[written], &[]);
        assert_eq!(
            next_boot.place(written),
            Place::Elsewhere(written.to_owned())
        );
        let consolidated = "$RELEASE_LIB/../releases/1/consolidated";
        assert_eq!(
            next_boot.place(consolidated),
            Place::Release("releases/1/consolidated".to_owned())
        );
        for elsewhere in ["$RELEASE_LIB/../../x", "/usr/lib/x", "$ROOT2/a", "$ROOT"] {
            assert_eq!(
                next_boot.place(elsewhere),
                Place::Elsewhere(elsewhere.to_owned())
            );
        }
    }

    #[test]
    fn directories_and_modules_that_a_release_lacks_are_named() {
        let files = [
            "erts-14/bin/erlexec",
            "lib/a-1/ebin/a.beam",
            "lib/b-1.ez",
            "lib/c-1/ebin/c.app",
        ];
        let path = ["$ROOT/lib/a-1/ebin", "$ROOT/lib/c-1/ebin"];
        let (next_boot, tree) = next(&files, &path, &[(false, &["a", "k"]), (true, &["x"])]);
        let lacks =
            |embedded| -> Vec<String> { next_boot.lacks(&tree, embedded).into_iter().collect() };
        assert_eq!(lacks(false), ["lib/a-1/ebin/k.beam"]);
        assert_eq!(lacks(true), ["lib/a-1/ebin/k.beam", "lib/a-1/ebin/x.beam"]);
        // The content of a missing directory or archive is not listed file by file.
        let path = ["$ROOT/lib/b-1.ez/b-1/ebin", "$ROOT/lib/d-1/ebin"];
        let (next_boot, tree) = next(&files, &path, &[(false, &["d"])]);
        let lacking = next_boot.lacks(&tree, true);
        assert_eq!(lacking.into_iter().collect::<Vec<_>>(), ["lib/d-1/ebin"]);
    }

    #[test]
    fn the_boot_file_of_the_named_version_is_read() {
        let mut content = |entry: &Entry| match entry.path.as_bytes() {
            b"releases/start_erl.data" => Some(b"14 2".to_vec()),
            _ => Some(vec![0]),
        };
        let mut read = |files: &[&str]| NextBoot::read(&tree(files), &mut content);
        assert_eq!(read(&["lib/a-1/ebin/a.app"]), Ok(None));
        assert_eq!(read(&["releases/start_erl.data"]), Ok(None));
        let data = "releases/start_erl.data";
        let missing = NextBootError::NoBootFile {
            version: "2".to_owned(),
        };
        let others = [
            "releases/1/start.boot",
            "releases/2/start_clean.boot",
            "releases/2/x/y.boot",
        ];
        assert_eq!(read(&[&[data][..], &others].concat()), Err(missing));
        let damaged = |name: &str| NextBootError::BootFile {
            path: format!("releases/2/{name}.boot"),
            source: BootScriptError::Malformed,
        };
        let named = [data, "releases/2/app.boot", "releases/2/start_clean.boot"];
        assert_eq!(read(&named), Err(damaged("app")));
        assert_eq!(
            read(&[&named[..], &["releases/2/start.boot"]].concat()),
            Err(damaged("start"))
        );
    }
}
