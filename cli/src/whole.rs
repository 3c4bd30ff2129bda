//! The check that a local release is whole.
//!
//! Looks at the entries, at the `.rel` file of the version that boots, and at the place of the
//! directory. It refuses what could run on no target: links that lead out of the release, a missing
//! application, and a directory above or below a release's root. It does not look at what only this
//! target may lack.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use relsync_engine::store::{Exclusion, Store};
use relsync_engine::tree::entry::{Entry, EntryKind, Escaped};
use relsync_engine::tree::exclude::{Rules, is_otp_application};
use relsync_engine::tree::manifest::Manifest;

use crate::notes::some_of;
use crate::terms::Term;

/// The system directories that every target has, so that links may lead there.
const SYSTEM_DIRS: &[&str] = &[
    "bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr", "var",
];

/// The directories of a release whose content must be in the release itself.
const RELEASE_DIRS: &[&str] = &["bin", "lib", "releases"];

/// How many levels up relsync looks for a release's root, as from `lib/app-1.0/ebin`.
const LEVELS_UP: usize = 3;

/// The largest file that is read to find out what boots.
const MAX_READ_BYTES: usize = 1 << 20;

/// Why a release cannot be pushed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WholeError {
    /// The applications are links to the places where they were built.
    #[error(
        "the release was built in relx's dev mode: its applications are links that lead out of it: {links}"
    )]
    DevMode {
        /// Some of them.
        links: String,
    },
    /// Another entry is a link out of the release.
    #[error("links lead out of the release: {links}")]
    LinksOut {
        /// Some of them, and where they lead.
        links: String,
    },
    /// The directory holds the release.
    #[error("{} is not a release but lies above one: it has neither lib/ nor releases/, and {root}/ has both", dir.display())]
    Above {
        /// The directory that the user named.
        dir: PathBuf,
        /// The release's root relative to it.
        root: String,
    },
    /// The directory is a part of the release.
    #[error("{} is not a release but a part of the release in {}", dir.display(), root.display())]
    Below {
        /// The directory that the user named.
        dir: PathBuf,
        /// The release's root.
        root: PathBuf,
    },
    /// An application that it boots is missing.
    #[error("the release is incomplete: {file} names {applications}, and the release lacks them")]
    Lacks {
        /// The file that says what boots.
        file: String,
        /// Some of the missing applications.
        applications: String,
    },
}

impl WholeError {
    /// The error's kind, and what to try next.
    pub(crate) fn class(&self) -> (&'static str, String) {
        match self {
            Self::DevMode { .. } => (
                "dev_mode",
                "build a release that holds its applications: `{mode, prod}` in the relx section of rebar.config, or `rebar3 as prod release`".to_owned(),
            ),
            Self::LinksOut { .. } => (
                "links_out",
                "put what they lead to into the release; --exclude GLOB leaves a link out, --include GLOB keeps it for a target that has what it leads to".to_owned(),
            ),
            Self::Above { dir, root } => (
                "not_a_release",
                format!("name the release's root: --local-path {}", dir.join(root).display()),
            ),
            Self::Below { root, .. } => (
                "not_a_release",
                format!("name the release's root: --local-path {}", root.display()),
            ),
            Self::Lacks { .. } => (
                "not_whole",
                "build the release again; --exclude may leave out too much".to_owned(),
            ),
        }
    }
}

/// Checks a release, and the directory that it comes from, if any. Returns links that lead out of it
/// to what a target may have.
pub(crate) fn check(
    tree: &Manifest,
    exclusions: &[Exclusion],
    rules: &Rules,
    dir: Option<&Path>,
    store: &Store,
) -> Result<Option<String>, WholeError> {
    if let Some(dir) = dir {
        check_place(tree, dir)?;
    }
    let elsewhere = check_links(tree, rules)?;
    check_applications(tree, exclusions, store)?;
    Ok(elsewhere)
}

/// Checks that a release's root is neither above nor below the named directory.
fn check_place(tree: &Manifest, dir: &Path) -> Result<(), WholeError> {
    let is_dir = |path: &[u8]| {
        let entry = tree.get(path);
        entry.is_some_and(|entry| matches!(entry.kind, EntryKind::Dir { .. }))
    };
    if is_dir(b"releases") {
        return Ok(());
    }
    let roots: Vec<&[u8]> = tree
        .entries()
        .iter()
        .filter_map(|entry| entry.path.as_bytes().strip_suffix(b"/releases"))
        .filter(|root| !root.starts_with(b"lib/") && is_dir(&[*root, b"/lib"].concat()))
        .collect();
    if let Some(root) = roots.first() {
        return Err(WholeError::Above {
            dir: dir.to_owned(),
            root: Escaped(root).to_string(),
        });
    }
    if is_dir(b"lib") {
        return Ok(());
    }
    match root_above(dir) {
        Some(root) => Err(WholeError::Below {
            dir: dir.to_owned(),
            root,
        }),
        None => Ok(()),
    }
}

/// The root of the release that a directory is a part of.
fn root_above(dir: &Path) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok()?;
    let root = dir.ancestors().skip(1).take(LEVELS_UP).find(|root| {
        let first = dir
            .strip_prefix(root)
            .ok()
            .and_then(|path| path.iter().next());
        let is_part = first.is_some_and(|name| name == "lib" || name == "releases");
        is_part && root.join("lib").is_dir() && root.join("releases").is_dir()
    });
    root.map(Path::to_owned)
}

/// Checks that no link leads out of what the release runs from. Returns the links that lead out from
/// elsewhere.
fn check_links(tree: &Manifest, rules: &Rules) -> Result<Option<String>, WholeError> {
    let (mut applications, mut inside, mut elsewhere) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for entry in tree.entries() {
        let path = entry.path.as_bytes();
        let EntryKind::Symlink { target } = &entry.kind else {
            continue;
        };
        if !leads_out(path, target.as_bytes()) || rules.includes(path, false) {
            continue;
        }
        let named = format!("{} to {}", entry.path, Escaped(target.as_bytes()));
        let first = path.split(|byte| *byte == b'/').next().unwrap_or(path);
        if entry.path.parent() == Some(b"lib") {
            applications.insert(entry.path.to_string());
        } else if leads_to_system(target.as_bytes()) {
            // Every target has this directory.
        } else if is_release_dir(first) {
            inside.insert(named);
        } else {
            elsewhere.insert(named);
        }
    }
    if !applications.is_empty() {
        return Err(WholeError::DevMode {
            links: some_of(&applications),
        });
    }
    if !inside.is_empty() {
        return Err(WholeError::LinksOut {
            links: some_of(&inside),
        });
    }
    Ok((!elsewhere.is_empty()).then(|| some_of(&elsewhere)))
}

fn is_release_dir(name: &[u8]) -> bool {
    let is_one = |dir: &&str| dir.as_bytes() == name;
    RELEASE_DIRS.iter().any(is_one) || name.starts_with(b"erts-")
}

/// Whether a link leads out of its tree. An absolute link always does, because the release lies
/// elsewhere on a target.
fn leads_out(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

fn leads_to_system(target: &[u8]) -> bool {
    let mut components = target
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty());
    let first = components.next().unwrap_or_default();
    let is_plain = components.all(|name| name != b"..");
    let is_system = SYSTEM_DIRS.iter().any(|dir| dir.as_bytes() == first);
    target.starts_with(b"/") && is_system && is_plain
}

/// Checks that all applications that boot are in the release. It may lack those of the target's own
/// Erlang, and what the user leaves out.
fn check_applications(
    tree: &Manifest,
    exclusions: &[Exclusion],
    store: &Store,
) -> Result<(), WholeError> {
    let Some((file, named)) = booted_applications(tree, store) else {
        return Ok(());
    };
    let missing: BTreeSet<String> = named
        .into_iter()
        .filter(|(name, _)| !is_otp_application(name.as_bytes()))
        .filter(|(name, version)| !has_application(tree, exclusions, name, version))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(WholeError::Lacks {
        file,
        applications: some_of(&missing),
    })
}

/// Whether an application is in the tree, as a directory or an archive, or was left out of it.
fn has_application(tree: &Manifest, exclusions: &[Exclusion], name: &str, version: &str) -> bool {
    let versioned = format!("{name}-{version}");
    let is_named =
        |component: &[u8]| component == name.as_bytes() || component == versioned.as_bytes();
    let app_file = format!("/ebin/{name}.app");
    let left_out = exclusions.iter().map(|exclusion| exclusion.path.as_slice());
    let paths = tree.entries().iter().map(|entry| entry.path.as_bytes());
    paths.chain(left_out).any(|path| {
        let dir = path.strip_suffix(app_file.as_bytes()).unwrap_or(path);
        let last = dir.rsplit(|byte| *byte == b'/').next().unwrap_or(dir);
        is_named(last.strip_suffix(b".ez").unwrap_or(last))
    })
}

/// The `.rel` file of the version that `start_erl.data` names, and the names and versions of its
/// applications.
fn booted_applications(tree: &Manifest, store: &Store) -> Option<(String, Vec<(String, String)>)> {
    let data = text(tree.get(b"releases/start_erl.data")?, store)?;
    let version = data.split_whitespace().nth(1)?.to_owned();
    let dir = format!("releases/{version}");
    tree.entries()
        .iter()
        .filter(|entry| entry.path.parent() == Some(dir.as_bytes()))
        .filter(|entry| entry.path.name().ends_with(b".rel"))
        .find_map(|entry| {
            let release = Term::parse(&text(entry, store)?)?;
            let applications = applications(&release, &version)?;
            Some((entry.path.to_string(), applications))
        })
}

/// The applications of `{release, {Name, Version}, {erts, _}, Applications}`.
fn applications(release: &Term, version: &str) -> Option<Vec<(String, String)>> {
    let [_release, named, _erts, applications] = release.tuple()?;
    let [_name, booted] = named.tuple()?;
    if unquoted(booted)? != version {
        return None;
    }
    let named = |application: &Term| {
        let Term::Tuple(elements) = application else {
            return None;
        };
        Some((unquoted(elements.first()?)?, unquoted(elements.get(1)?)?))
    };
    Some(applications.elements().iter().filter_map(named).collect())
}

fn unquoted(term: &Term) -> Option<String> {
    let text = term.text()?;
    Some(text.trim_matches(['"', '\'']).to_owned())
}

fn text(entry: &Entry, store: &Store) -> Option<String> {
    let (size, sha256) = entry.content()?;
    let size = usize::try_from(size).ok()?;
    if size > MAX_READ_BYTES {
        return None;
    }
    let content = store.content(&sha256).ok()??;
    String::from_utf8(content.read_range(0, size).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use relsync_engine::store::{ScanOptions, SnapshotMeta};
    use relsync_engine::tree::exclude::Action;

    use super::*;

    /// A tree of files, and of links if there is a target, and what the check says of the directory below it.
    fn checked(
        files: &[(&str, &str)],
        links: &[(&str, &str)],
        below: &str,
        user: &[(Action, &str)],
    ) -> Result<Option<String>, WholeError> {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("rel");
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("a file");
        }
        for (path, target) in links {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            symlink(target, path).expect("a link");
        }
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let mut rules = Rules::default();
        for (action, pattern) in user {
            rules.push(*action, pattern).expect("a pattern");
        }
        let options = ScanOptions {
            rules: rules.clone(),
            rehash_all: false,
        };
        let meta = SnapshotMeta::default();
        let pushed = root.join(below);
        let taken = store.take_snapshot(&pushed, &options, &meta, &|_| {});
        let (_, tree, report) = taken.expect("a snapshot");
        check(&tree, &report.exclusions, &rules, Some(&pushed), &store)
    }

    fn kind(result: Result<Option<String>, WholeError>) -> &'static str {
        match result {
            Ok(None) => "whole",
            Ok(Some(_)) => "warned",
            Err(error) => error.class().0,
        }
    }

    #[test]
    fn links_that_lead_out_are_told_from_those_that_do_not() {
        let table: [(&str, &str, &str); 14] = [
            ("lib/a-1", "../../../lib/a", "dev_mode"),
            ("lib/a-1", "/usr/lib/erlang/lib/a-1", "dev_mode"),
            ("lib/up", "..", "whole"),
            ("lib/a", "a-1", "whole"),
            ("releases/1/sys.config", "/build/me/sys.config", "links_out"),
            (
                "releases/1/sys.config",
                "../../../../config/sys.config",
                "links_out",
            ),
            ("releases/1/sys.config", "../../etc/sys.config", "whole"),
            ("lib/a-1/priv/zone", "/etc/localtime", "whole"),
            ("lib/a-1/priv/x", "/etc/../build/x", "links_out"),
            ("lib/a-1/priv/x", "/etcetera", "links_out"),
            ("erts-1/bin/x", "/opt/x", "links_out"),
            ("data", "/mnt/data", "warned"),
            ("data", "../data", "warned"),
            ("data", "/var/data", "whole"),
        ];
        for (path, target, expected) in table {
            let found = checked(&[("lib/b-1/ebin/b.app", "")], &[(path, target)], "", &[]);
            assert_eq!(kind(found), expected, "{path} -> {target}");
        }
        let link = [("lib/a-1", "/opt/a")];
        let error = checked(&[("bin/x", "")], &link, "", &[]).expect_err("refused");
        assert!(error.to_string().contains("lib/a-1"), "{error}");
        for action in [Action::Include, Action::Exclude] {
            let found = checked(&[("bin/x", "")], &link, "", &[(action, "lib/a-1")]);
            assert_eq!(kind(found), "whole", "{action:?}");
        }
    }

    #[test]
    fn a_directory_above_or_below_a_root_is_none() {
        let table: [(&[&str], &str, &str); 9] = [
            (
                &["lib/a-1/ebin/a.app", "releases/1/start.boot"],
                "",
                "whole",
            ),
            (
                &["lib/a-1/ebin/a.app", "releases/1/start.boot"],
                "lib",
                "not_a_release",
            ),
            (
                &["lib/a-1/ebin/a.app", "releases/1/start.boot"],
                "lib/a-1",
                "not_a_release",
            ),
            (
                &["lib/a-1/ebin/a.app", "releases/1/start.boot"],
                "releases/1",
                "not_a_release",
            ),
            (
                &[
                    "rel/app/lib/a-1/x",
                    "rel/app/releases/1/y",
                    "lib/a/ebin/a.app",
                ],
                "",
                "not_a_release",
            ),
            (&["app/lib/a-1/x", "app/releases/1/y"], "", "not_a_release"),
            (
                &["lib/a-1/priv/rel/lib/x", "lib/a-1/priv/rel/releases/y"],
                "",
                "whole",
            ),
            (&["ebin/a.app"], "", "whole"),
            (&["www/index.html"], "", "whole"),
        ];
        for (paths, below, expected) in table {
            let files: Vec<(&str, &str)> = paths.iter().map(|path| (*path, "x")).collect();
            assert_eq!(
                kind(checked(&files, &[], below, &[])),
                expected,
                "{paths:?} {below}"
            );
        }
    }

    #[test]
    fn applications_that_boot_and_are_missing_are_named() {
        let rel = "{release, {\"app\", \"2\"}, {erts, \"14\"}, [{kernel, \"9.0\"}, {'a', \"1\"}, {b, \"2\", load}]}.";
        let data = ("releases/start_erl.data", "14 2");
        let boots = ("releases/2/app.rel", rel);
        let (a, b) = (("lib/a-1/ebin/a.app", ""), ("lib/b-2/ebin/b.app", ""));
        let table: [(&[(&str, &str)], &str); 8] = [
            (&[data, boots, a, b], "whole"),
            (&[data, boots, a], "not_whole"),
            (&[data, boots, a, ("lib/b-1/ebin/b.app", "")], "not_whole"),
            (&[data, boots, a, ("lib/b-2.ez", "")], "whole"),
            (&[data, boots, a, ("plugins/b/ebin/b.app", "")], "whole"),
            // A release that does not boot may be incomplete.
            (&[("releases/start_erl.data", "14 1"), boots, a], "whole"),
            (&[boots, a], "whole"),
            (&[data, ("releases/2/app.rel", "no term"), a], "whole"),
        ];
        for (files, expected) in table {
            assert_eq!(kind(checked(files, &[], "", &[])), expected, "{files:?}");
        }
        let left_out = checked(
            &[data, boots, a, b],
            &[],
            "",
            &[(Action::Exclude, "lib/b-*")],
        );
        assert_eq!(kind(left_out), "whole");
        let error = checked(&[data, boots], &[], "", &[]).expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("releases/2/app.rel names a 1, b 2"),
            "{error}"
        );
    }
}
